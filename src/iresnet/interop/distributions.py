r"""Flows and bijections in :mod:`torch.distributions`: a ``Transform``, a base ``Distribution``, and both together.

Batches have any shape here, S + batch for what is drawn at a context of shape batch + (C,); inside they are rows, and each row
is given its own context. A log-determinant is an estimate unless it is exact: pass ``logdet=Exact()`` where one is to be had.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, TransformedDistribution, constraints
from torch.distributions import Transform as TorchTransform

from ..bases import Base, BoundNormal
from ..bijections.base import Bijection, Transform, inverse_of
from ..flow import Flow
from ..numerics.fixed_point import Picard, Solver
from ..numerics.logdet import LogDet
from ..numerics.noise import Noise
from ..numerics.series import PowerSeries

__all__ = ["BijectionTransform", "FlowDistribution", "LatentDistribution", "distribution_of", "latent_of", "transform_of"]


class BijectionTransform(TorchTransform):
    """A bound bijection, data to latent, as torch's ``Transform``: ``t(x)``, ``t.inv(z)``, ``t.log_abs_det_jacobian(x, z)``.

    Inverses end with the solver's certificate or raise ``NotConverged``, and are differentiable by the implicit function theorem.

    Parameters
    ----------
    bound : the bijection with its weights constrained, and its context, if it has one, as rows (N, C).
    batch : shape of the context's batch, with N entries; () for none, or for one context for all.
    shape : of one row of data, which is checked: (C, H, W) for images; None for vectors of any width.
    logdet : how log-determinants are found.
    solver : how inverses are.
    fresh : draw the estimator's noise from torch's generator, as for training; else it is fixed, and densities deterministic.
    cache_size : 1 to remember the last pair, as torch's transforms do: with the graph it was made with, so that after ``sample``,
        which makes none, the density of the draws has no gradient by the latents.
    """

    bijective = True

    def __init__(
        self,
        bound: Transform,
        batch: tuple[int, ...] = (),
        *,
        shape: tuple[int, ...] | None = None,
        logdet: LogDet | None = None,
        solver: Solver | None = None,
        fresh: bool = False,
        cache_size: int = 0,
    ) -> None:
        super().__init__(cache_size=cache_size)
        self.bound, self.batch, self.shape, self.fresh = bound, tuple(batch), shape, fresh
        self.logdet: LogDet = logdet or PowerSeries(probes=4)
        self.solver: Solver = solver or Picard()
        self.domain = self.codomain = constraints.independent(constraints.real, 1 if shape is None else len(shape))

    def __repr__(self) -> str:
        return f"BijectionTransform({type(self.bound).__name__}, batch={self.batch}, logdet={self.logdet}, solver={self.solver})"

    def with_cache(self, cache_size: int = 1) -> BijectionTransform:
        """The same transform, with or without a cache."""
        if cache_size == self._cache_size:
            return self
        given: dict[str, Any] = {"logdet": self.logdet, "solver": self.solver, "fresh": self.fresh}
        return BijectionTransform(self.bound, self.batch, shape=self.shape, cache_size=cache_size, **given)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z (*batch, *event) of x and the log-determinant (*batch), of one pass."""
        rows, bound, shape = self._rows(x)
        noise = Noise.fresh(rows.shape[0], rows.device) if self.fresh else Noise()
        z, estimate = bound.forward_and_logdet(rows, self.logdet, noise)
        return z.reshape(*shape, *x.shape[x.dim() - self.event_dim :]), estimate.value.reshape(shape)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log abs det dz/dx (*batch) at x; ``y`` is not needed."""
        return self.call_and_ladj(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        rows, bound, shape = self._rows(x)
        return bound.forward(rows).reshape(*shape, *x.shape[x.dim() - self.event_dim :])

    def _inverse(self, y: Tensor) -> Tensor:
        rows, bound, shape = self._rows(y)
        with torch.no_grad():
            wide = rows.double() if rows.device.type != "mps" else rows
            value = inverse_of(bound, wide, self.solver, throw=True)[0].value.to(rows.dtype)
        if torch.is_grad_enabled():
            attached = bound.attach(rows, value)  # for its graph: the solver's value is the more accurate one
            value = value + (attached - attached.detach())
        return value.reshape(*shape, *y.shape[y.dim() - self.event_dim :])

    def _rows(self, x: Tensor) -> tuple[Tensor, Transform, tuple[int, ...]]:
        """x as rows (B, *event), the bijection with a context for each of them, and the shape that B stands for."""
        place = x.dim() - self.event_dim
        if place < 0 or self.shape not in (None, tuple(x.shape[place:])):
            rows = "vectors" if self.shape is None else f"rows of shape {self.shape}"
            raise ValueError(f"this transform acts on {rows}, in the last dimensions, got shape {tuple(x.shape)}")
        shape = torch.broadcast_shapes(x.shape[:place], self.batch)
        rows = x.expand(*shape, *x.shape[place:]).reshape(math.prod(shape), *x.shape[place:])
        if not self.batch or tuple(shape) == self.batch:
            return rows, self.bound, tuple(shape)
        numbers = torch.arange(math.prod(self.batch), device=x.device).reshape(self.batch).expand(shape)
        return rows, self.bound.select(numbers.reshape(-1)), tuple(shape)


class FlowDistribution(TransformedDistribution):
    """A flow as torch's ``TransformedDistribution``; ``log_prob`` takes one pass, where torch's own would take two."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density (*batch) in nats at ``value`` (*batch, *event)."""
        (inverse,) = self.transforms
        z, ladj = inverse.inv.call_and_ladj(value)  # type: ignore[union-attr]
        return self.base_dist.log_prob(z) + ladj


class LatentDistribution(Distribution):
    """A base of no context as torch's ``Distribution``; torch's generator is where its draws come from."""

    has_rsample = True
    arg_constraints: dict[str, Any] = {}  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, base: Base, batch: tuple[int, ...] = ()) -> None:
        self.base = base
        super().__init__(torch.Size(batch), torch.Size(base.shape), validate_args=False)

    def __repr__(self) -> str:
        return f"LatentDistribution({self.base}, batch={tuple(self.batch_shape)})"

    @property
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> LatentDistribution:
        return LatentDistribution(self.base, tuple(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density (*batch) in nats at ``value`` (*batch, *event)."""
        shape = torch.broadcast_shapes(value.shape, (*self.batch_shape, *self.event_shape))
        rows = value.expand(shape).reshape(-1, *self.event_shape)
        return self.base.log_prob(rows).reshape(shape[: len(shape) - len(self.event_shape)])

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws (*sample_shape, *batch, *event), differentiable where the base's are."""
        shape = (*sample_shape, *self.batch_shape)
        count = math.prod(shape)
        drawn = self.base.sample(Noise.fresh(count, self.base.anchor.device), count)
        return drawn.reshape(*shape, *self.event_shape)


def latent_of(base: Base, context: Tensor | None = None) -> Distribution:
    """``base`` as torch's distribution at a context (*batch, C) or None: of batch shape () if it knows of no context."""
    rows = None if context is None else context.reshape(-1, context.shape[-1])
    bound = base.bind(rows)
    if not isinstance(bound, BoundNormal):
        return LatentDistribution(bound)
    assert context is not None
    mean, scale = (part.reshape(*context.shape[:-1], *base.shape) for part in (bound.mean, bound.log_scale.exp()))
    return Independent(Normal(mean, scale, validate_args=False), len(base.shape), validate_args=False)


def transform_of(
    bijection: Bijection,
    context: Tensor | None = None,
    *,
    shape: tuple[int, ...] | None = None,
    logdet: LogDet | None = None,
    solver: Solver | None = None,
    cache_size: int = 0,
) -> BijectionTransform:
    """A bijection, data to latent, as torch's ``Transform`` at a context (*batch, C) or None; ``shape`` is that of a row.

    Its parameters are bound now: make it anew after each step of an optimiser.
    """
    rows, batch = None, ()
    if context is not None:
        batch = tuple(context.shape[:-1])
        rows = context.reshape(-1, context.shape[-1]) if batch else context
    bound, fresh = bijection.bind(rows), bijection.training
    given: dict[str, Any] = {"logdet": logdet, "solver": solver, "fresh": fresh, "cache_size": cache_size}
    return BijectionTransform(bound, batch, shape=shape, **given)


def distribution_of(
    flow: Flow, context: Tensor | None = None, *, logdet: LogDet | None = None, solver: Solver | None = None
) -> FlowDistribution:
    """``flow`` at a context (*batch, C) or None as a ``TransformedDistribution`` of batch shape ``batch``.

    ``rsample`` is differentiable, and so is ``log_prob``, also of what was just drawn: nothing is remembered. Estimators and the
    solver are the flow's own where none are given.

    Raises
    ------
    ValueError
        If the context is not of the flow's width, or is missing, or given to a flow that has none.
    """
    width = None if context is None else context.shape[-1]
    if width != (flow.context or None):
        raise ValueError(f"this flow has a context of width {flow.context}, got {'none' if width is None else f'width {width}'}")
    base = latent_of(flow.base, context)
    embedded = flow.embed(context) if flow.embed is not None and context is not None else context
    logdet = logdet or (flow.train_logdet if flow.training else flow.eval_logdet)
    given: dict[str, Any] = {"logdet": logdet, "solver": solver or flow.solver, "shape": flow.shape}
    transform = transform_of(flow.bijection, embedded, **given)
    return FlowDistribution(base.expand(torch.Size(transform.batch)), [transform.inv], validate_args=False)
