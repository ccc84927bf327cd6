r"""A flow: a bijection from data to latent and a base distribution of latents.

:math:`\log p(x) = \log p_z(f(x)) + \log |\det \partial f / \partial x|`. Every question (density, its error, samples, latents,
inverses) is answered by the bound form, which holds the constrained weights; :class:`Flow` binds once per call, and a loop binds
once with :meth:`Flow.bind`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .bases import Base, BoundNormal
from .bijections.base import Bijection, Transform, inverse_of
from .numerics.fixed_point import Picard, Solution, Solver
from .numerics.logdet import Estimate, LogDet
from .numerics.modes import evaluating
from .numerics.noise import Noise
from .numerics.series import PowerSeries

__all__ = ["BoundFlow", "Flow", "Inversion", "evaluating"]

_ROWS, _ENTRIES = 2048, 2**18  # rows that are sampled at once, and their numbers


@dataclass(frozen=True)
class Inversion(Solution):
    """A :class:`~iresnet.numerics.fixed_point.Solution` of a whole flow, with the three things one can say of its error.

    ``error_bound`` (B,) carries the blocks' bounds through all inverses: sound, but vacuous for a deep flow near its Lipschitz
    bound. ``block_bounds`` (parts, B), data to latent, bound the error of each part alone. ``backward_error`` (B,) is the
    distance of encode(value) from z in float64: tight.
    """

    block_bounds: Tensor
    backward_error: Tensor


@dataclass(frozen=True)
class BoundFlow:
    """A flow with its weights constrained and its context taken in; the methods are those of :class:`Flow`."""

    transform: Transform
    base: Base | BoundNormal
    logdet: LogDet
    solver: Solver
    training: bool

    def estimate(self, x: Tensor, *, logdet: LogDet | None = None, noise: Noise | None = None) -> Estimate:
        """log p(x) with its errors; see :meth:`Flow.estimate`."""
        return self.encode_and_estimate(x, logdet=logdet, noise=noise)[1]

    def encode_and_estimate(
        self, x: Tensor, *, logdet: LogDet | None = None, noise: Noise | None = None
    ) -> tuple[Tensor, Estimate]:
        """Latents and log p(x), both of one pass."""
        if noise is None:
            # Training draws anew from torch's generator; otherwise all rows share fixed probes: deterministic, smooth in x.
            noise = Noise.fresh(x.shape[0], x.device) if self.training else Noise()
        z, estimate = self.transform.forward_and_logdet(x, logdet or self.logdet, noise)
        return z, estimate + self.base.log_prob(z)

    def log_prob(self, x: Tensor, *, logdet: LogDet | None = None, noise: Noise | None = None) -> Tensor:
        """log p(x) (B,) in nats; see :meth:`Flow.log_prob`."""
        return self.estimate(x, logdet=logdet, noise=noise).value

    def encode(self, x: Tensor) -> Tensor:
        """Latents; see :meth:`Flow.encode`."""
        return self.transform.forward(x)

    def invert(self, z: Tensor, *, solver: Solver | None = None, throw: bool = True) -> Inversion:
        """Data of latents, with error bounds; see :meth:`Flow.invert`."""
        solver = solver or self.solver
        with torch.no_grad():
            wide = z.double() if z.device.type != "mps" else z
            solution, steps = inverse_of(self.transform, wide, solver, throw=throw)
            value = solution.value
            found = value.to(z.dtype)
            bound = solution.error_bound + (found.to(value.dtype) - value).flatten(1).norm(dim=1)
            back = self.transform.to(value.dtype).forward(found.to(value.dtype))
            bounds = [step.solution.error_bound.to(bound.dtype) for step in reversed(steps)]
            return Inversion(
                found,
                bound.nan_to_num(nan=torch.inf, posinf=torch.inf),
                solution.steps,
                solution.converged,
                torch.stack(bounds) if bounds else bound.new_zeros(0, len(bound)),
                (back - wide).flatten(1).norm(dim=1),
            )

    def decode(self, z: Tensor, *, solver: Solver | None = None) -> Tensor:
        """Data of latents, differentiable; see :meth:`Flow.decode`."""
        value = self.invert(z, solver=solver).value
        if not torch.is_grad_enabled():
            return value
        attached = self.transform.attach(z, value)  # for its graph: computed in the flow's precision, it is less accurate
        return value + (attached - attached.detach())

    def to(self, dtype: torch.dtype) -> BoundFlow:
        """The same flow, of the same weights, computed in another precision."""
        return replace(self, transform=self.transform.to(dtype))

    def latents(self, count: int, noise: Noise, temperature: float = 1.0) -> Tensor:
        """``count`` draws of the base, their distance from its center multiplied by ``temperature``."""
        z = self.base.sample(noise, count)
        if temperature == 1.0:
            return z
        center = self.base.center()
        return center + temperature * (z - center)


class Flow(nn.Module):
    """A normalizing flow, unconditional or conditional, of any bijection.

    Parameters
    ----------
    bijection : data (B, *shape) to latent (B, *shape).
    base : distribution of the latents.
    context : width C of the context, 0 for an unconditional flow.
    embed : module that maps the context (*, C) to what the bijection's parts are given; None for the identity.
    train_logdet, eval_logdet : how log-determinants are found in training and in evaluation mode when a call does not say.
    solver : how inverses are found when a call does not say.

    A flow computes in the dtype and on the device of its parameters.
    """

    def __init__(
        self,
        bijection: Bijection,
        base: Base,
        *,
        context: int = 0,
        embed: nn.Module | None = None,
        train_logdet: LogDet | None = None,
        eval_logdet: LogDet | None = None,
        solver: Solver | None = None,
    ) -> None:
        super().__init__()
        self.bijection, self.base, self.context, self.embed = bijection, base, context, embed
        self.train_logdet: LogDet = train_logdet or PowerSeries(terms=2, roulette="adaptive")
        self.eval_logdet: LogDet = eval_logdet or PowerSeries(probes=4)
        self.solver: Solver = solver or Picard()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row of data."""
        return self.base.shape

    @property
    def anchor(self) -> Tensor:
        """A tensor of the dtype and on the device in which the flow computes."""
        return self.base.anchor

    def bind(self, context: Tensor | None = None) -> BoundFlow:
        """Constrain all weights once, for many calls with the same parameters and context (C,), (B, C) or None."""
        context = self._context(context)
        base = self.base.bind(context)
        if context is not None and self.embed is not None:
            context = self.embed(context)
        logdet = self.train_logdet if self.training else self.eval_logdet
        return BoundFlow(self.bijection.bind(context), base, logdet, self.solver, self.training)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Set whitening and ActNorm from data x (N, *), once; return the latents. Before, both are the identity."""
        with torch.no_grad():
            context = self._context(context)
            if context is not None and self.embed is not None:
                context = self.embed(context)
            return self.bijection.initialize(self._data(x, context), context)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """log p(x | context) (B,): the same as :meth:`log_prob`."""
        return self.log_prob(x, context)

    def log_prob(
        self, x: Tensor, context: Tensor | None = None, *, logdet: LogDet | None = None, noise: Noise | None = None
    ) -> Tensor:
        """log p(x | context) (B,) in nats, of x (B, *); the value of :meth:`estimate`."""
        return self.estimate(x, context, logdet=logdet, noise=noise).value

    def estimate(
        self, x: Tensor, context: Tensor | None = None, *, logdet: LogDet | None = None, noise: Noise | None = None
    ) -> Estimate:
        """log p(x | context) with its standard error and bias, each (B,), in nats.

        Parameters
        ----------
        x : (B, *shape).
        context : (C,) for all rows, (B, C), or None.
        logdet : the estimator; None for ``train_logdet`` or ``eval_logdet`` by mode.
        noise : its randomness. None: in training drawn from torch's generator, in evaluation fixed and shared by all rows, so
            that the same x has the same density; errors of different rows are then *not* independent, and a mean over rows
            may be as uncertain as one of them. ``Noise(seed, rows)`` gives each row its own, independent and reproducible.

        The bias covers truncation and the rounding of determinants. Rounding of the latents, which the base density amplifies, is
        not in it: about 1e-2 nats in 64 dimensions in float32. ``flow.double()`` has more digits.

        Raises
        ------
        ValueError
            If x or context has the wrong shape.
        """
        return self.bind(context).estimate(self._data(x, context), logdet=logdet, noise=noise)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents z (B, *) of x (B, *), differentiable."""
        return self.bind(context).encode(self._data(x, context))

    def invert(self, z: Tensor, context: Tensor | None = None, *, solver: Solver | None = None, throw: bool = True) -> Inversion:
        """Data x of latents z (B, *), with error bounds, without gradients.

        Raises
        ------
        NotConverged
            If some row's error could not be bounded by the solver's tolerance, unless ``throw=False``; the solution says which.
        """
        return self.bind(context).invert(self._data(z, context), solver=solver, throw=throw)

    def decode(self, z: Tensor, context: Tensor | None = None, *, solver: Solver | None = None) -> Tensor:
        """Data x (B, *) of latents z (B, *), differentiable by the implicit function theorem. Raises ``NotConverged``."""
        return self.bind(context).decode(self._data(z, context), solver=solver)

    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        solver: Solver | None = None,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """n draws (n, *) of p(x | context), without gradients; context (C,), (n, C) or None. Raises ``NotConverged``.

        Drawn in parts, so that memory beyond the result is bounded; which parts has no influence on a row. ``progress`` is called
        with the number of rows of each.
        """
        noise, found = self._noise(n, context, generator, noise), []
        with torch.no_grad():
            shared = None if context is not None and context.dim() == 2 else self.bind(context)
            for rows in torch.arange(n, device=self.anchor.device).split(max(16, min(_ROWS, _ENTRIES // math.prod(self.shape)))):
                flow = shared or self.bind(context[rows.to(context.device)] if context is not None else None)
                found.append(flow.decode(flow.latents(len(rows), noise.select(rows)), solver=solver))
                if progress is not None:
                    progress(len(rows))
        return torch.cat(found)

    def sample_and_log_prob(
        self,
        n: int,
        context: Tensor | None = None,
        *,
        solver: Solver | None = None,
        logdet: LogDet | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """n draws (n, *) and their log-densities (n,), both differentiable in the parameters (reparametrised)."""
        noise, flow = self._noise(n, context, generator, None), self.bind(context)
        x = flow.decode(flow.latents(n, noise), solver=solver)
        return x, flow.log_prob(x, logdet=logdet)

    def _noise(self, n: int, context: Tensor | None, generator: torch.Generator | None, noise: Noise | None) -> Noise:
        """The noise of n draws, each a function of its row's number, once the arguments are in order."""
        if n < 1:
            raise ValueError(f"sample needs n >= 1, got {n}")
        if context is not None and context.dim() == 2 and context.shape[0] != n:
            raise ValueError(
                f"{n} samples need a context of shape ({self.context},) or ({n}, {self.context}), got {tuple(context.shape)}"
            )
        if noise is not None:
            return noise
        place = generator.device if generator is not None else "cpu"
        seed = int(torch.randint(0, 2**62, (), generator=generator, device=place))
        return Noise(seed, torch.arange(n, device=self.anchor.device))

    def _data(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = torch.as_tensor(x)  # numpy arrays are welcome
        if x.dim() != len(self.shape) + 1 or tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"this flow takes batches of shape (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        context = None if context is None else torch.as_tensor(context)
        if context is not None and context.dim() == 2 and context.shape[0] != x.shape[0]:
            raise ValueError(f"{x.shape[0]} rows need as many contexts, or one of shape (C,) for all, got {context.shape[0]}")
        return x.to(self.base.anchor)

    def _context(self, context: Tensor | None) -> Tensor | None:
        if self.context == 0:
            if context is not None:
                raise ValueError("this flow is unconditional: build it with context=C to give it one")
            return None
        context = None if context is None else torch.as_tensor(context)
        if context is None or context.dim() not in (1, 2) or context.shape[-1] != self.context:
            got = "none" if context is None else tuple(context.shape)
            raise ValueError(f"this flow needs a context of shape ({self.context},) or (B, {self.context}), got {got}")
        return context.to(self.base.anchor)
