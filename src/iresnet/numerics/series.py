r"""The power series of log det(I + J) with Hutchinson's trace: truncated with a certified remainder, or unbiased by roulette.

After n terms the products themselves bound what is missing, far better than any a priori bound:
:math:`|\sum_{k>n} \frac{(-1)^{k+1}}{k} v^T J^k v| \le \|v\| \|J^n v\| \sum_{j \ge 1} c^j / (n+j)`.

For the gradient, :math:`\nabla \log\det(I+J) = E[v^T (I+J)^{-1} (\nabla J) v]`: the sum :math:`w = \sum_k (-J^T)^k v` is taken
without a graph, and :math:`\langle J^T w, v \rangle` is differentiated, so that memory does not grow with the terms.

References
----------
| Invertible Residual Networks (Behrmann et al., 2019), arXiv 1811.00995
| Residual Flows for Invertible Generative Modeling (Chen et al., 2019), arXiv 1906.02735
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from .linearize import linearize
from .logdet import Estimate, Function, lipschitz_of, series_tail, truncation_bias
from .noise import Noise

__all__ = ["PowerSeries"]

_CHOICES = {
    "roulette": (None, "geometric", "poisson", "adaptive"),
    "distribution": ("rademacher", "gaussian"),
    "gradient": ("neumann", "series"),
    "product": ("vjp", "jvp"),
}


@dataclass(frozen=True)
class PowerSeries:
    r"""log det(I + J) by its power series, with m random probes v a row.

    Parameters
    ----------
    terms : terms always computed. None, without a roulette: for each row as many as ``tol`` asks for.
    probes : random vectors m; a standard error needs two.
    roulette : None truncates. Otherwise the series goes on at random, weighted so that the mean is exact: "geometric" (each
        further term with probability ``tail``), "poisson" (a Poisson number of further terms), or "adaptive" (with a probability
        proportional to what is left of the probe, which keeps the variance finite for every contractive branch). No standard
        error is stated for a roulette.
    tail : continuation probability (geometric; c^2 if None, which keeps the variance finite) or mean (poisson; 2 if None).
    tol : largest certified remainder of a row in nats, with ``terms=None``.
    distribution : of the probes, "rademacher" or "gaussian". Rademacher's has the smaller variance.
    first_trace : take tr J exactly where the branch offers it, which removes nearly all of the variance.
    gradient : "neumann", or "series" to differentiate every term (memory grows with them).
    product : Jacobian products from the left ("vjp") or the right ("jvp").

    Raises
    ------
    ValueError
        For a choice that is not one of those above.
    """

    terms: int | None = None
    probes: int = 1
    roulette: Literal["geometric", "poisson", "adaptive"] | None = None
    tail: float | None = None
    tol: float = 1e-4
    distribution: Literal["rademacher", "gaussian"] = "rademacher"
    first_trace: bool = True
    gradient: Literal["neumann", "series"] = "neumann"
    product: Literal["vjp", "jvp"] = "vjp"

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"PowerSeries: {name} is one of {known}, got {getattr(self, name)!r}")
        if self.probes < 1 or (self.terms is not None and self.terms < 1):
            raise ValueError(f"PowerSeries needs terms >= 1 and probes >= 1, got {self.terms} and {self.probes}")
        if self.tail is not None and not (self.tail > 0 and (self.roulette == "poisson" or self.tail < 1)):
            raise ValueError(f"PowerSeries: tail is a probability in (0, 1), or a positive mean for poisson, got {self.tail}")
        if not self.tol > 0:
            raise ValueError(f"PowerSeries needs tol > 0, got {self.tol}")
        if self.roulette == "poisson":
            text = "Poisson roulette is unbiased, but its variance is infinite for any branch with J^k != 0; prefer 'adaptive'"
            warnings.warn(text, UserWarning, stacklevel=3)

    def __call__(self, function: Function, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Estimate]:
        """g(x) and log det(I + dg/dx) for x (B, *); see :class:`~iresnet.numerics.logdet.LogDet`."""
        noise = noise or Noise()
        at = linearize(function, x)
        trace = at.trace() if self.first_trace and at.trace is not None else None
        product = at.vjp if self.product == "vjp" else at.jvp
        probes = self._probes(x, noise)
        differentiable = torch.is_grad_enabled() and at.value.requires_grad
        with torch.set_grad_enabled(differentiable and self.gradient == "series"):
            totals, weights, bias = self._sum(product, probes, trace is not None, lipschitz_of(function), noise.at(self.probes))
        value, spread = totals.mean(0), totals.detach()
        if differentiable and self.gradient == "neumann":
            surrogate = _inner(product(weights), probes).mean(0)
            value = value + (surrogate - surrogate.detach())
        if trace is not None:
            value = value + trace
        known = self.probes > 1 and self.roulette is None and spread.numel() > 0
        stderr = spread.std(0) / math.sqrt(self.probes) if known else torch.full_like(spread[0], math.nan)
        return at.value, Estimate(value, stderr, bias)

    def _probes(self, x: Tensor, noise: Noise) -> Tensor:
        """Random vectors (m, B, *) with mean zero and unit covariance."""
        places = [noise.at(index) for index in range(self.probes)]
        if self.distribution == "rademacher":
            return torch.stack([place.signs(x) for place in places])
        return torch.stack([place.normals(x) for place in places])

    def _sum(self, product, probes: Tensor, known_trace: bool, lipschitz: float, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ANN001
        """Per probe the series (m, B) and the Neumann weights (m, B, *); the bias (B,). An exact trace stands for k = 1 and 0."""
        size = math.prod(probes.shape[2:])
        length = probes.flatten(2).norm(dim=-1)
        totals = torch.zeros_like(length)
        weights = torch.zeros_like(probes) if known_trace else probes
        active = torch.ones_like(length, dtype=torch.bool)  # rows stop alone: a row's number must not depend on its batch
        remainder, reached, left, vector = torch.full_like(length, math.inf), 1.0, 1.0, probes
        for step in count(1):
            vector = product(vector)
            if step > 1 or not known_trace:
                totals = totals + torch.where(active, _inner(vector, probes) * ((-1) ** (step + 1) / (step * reached)), 0.0)
            if self.gradient == "neumann":
                mask = active.reshape(*active.shape, *[1] * (probes.dim() - 2))
                weights = weights + torch.where(mask, vector * ((-1) ** step / reached), 0.0)
            if self.roulette is None:
                norm = vector.detach().flatten(2).norm(dim=-1)
                remainder = torch.where(active, norm * length * _reach(lipschitz, step), remainder)
                if self.terms is None:
                    active = active & (remainder > self.tol)
                if step == (self.terms or _limit(lipschitz)) or not bool(active.any()):
                    bias = remainder.mean(0)
                    # A row that stopped early has its own, smaller number of terms, for which the a priori bound is larger.
                    return (
                        totals,
                        weights,
                        bias.clamp(max=truncation_bias(lipschitz, step, size)) if self.terms else bias,
                    )
            elif step >= (self.terms or 1):
                before = left
                if self.roulette == "adaptive":
                    norm = vector.detach().flatten(2).norm(dim=-1)
                    shares = norm / length.clamp(min=torch.finfo(norm.dtype).tiny)
                    left = min(left, float(shares.max()) if shares.numel() else 0.0)
                shrunk = left / before if before > 0 else 0.0  # a branch that is still zero has nothing left
                keep = self._survival(step - (self.terms or 1), lipschitz, shrunk)
                if noise.at(step).uniform() >= keep:
                    return totals, weights, torch.zeros_like(totals[0])
                reached *= keep
        raise AssertionError("unreachable")

    def _survival(self, index: int, lipschitz: float, shrunk: float) -> float:
        """Probability of a further term, ``index`` beyond those always computed. It may depend on all seen so far: the weights
        undo it."""
        if self.roulette == "geometric":
            return self.tail if self.tail is not None else max(lipschitz**2, 0.25) if lipschitz < 1 else 0.98
        if self.roulette == "poisson":
            mean = self.tail or 2.0
            # P(N > index) / P(N >= index), by the regularised incomplete gamma function.
            order = torch.tensor([float(index + 1), float(max(index, 1))], dtype=torch.float64)
            above = torch.special.gammainc(order, torch.tensor(mean, dtype=torch.float64)).tolist()
            return above[0] / (above[1] if index > 0 else 1.0)
        # A certified branch shrinks the probe at each term, so this ends; one without a certificate may not.
        return max(shrunk, 0.05) if lipschitz < 1 else min(max(shrunk, 0.05), 0.98)


def _inner(left: Tensor, right: Tensor) -> Tensor:
    """Inner products (m, B) of (m, B, *)."""
    return (left * right).flatten(2).sum(-1)


def _limit(lipschitz: float) -> int:
    """Terms by which a certified branch has met any tolerance; 50 for one without a certificate, whose bias is infinite."""
    return 10_000 if lipschitz < 1 else 50


def _reach(lipschitz: float, step: int) -> float:
    """The sum of c^j / (n + j) over j >= 1, the remainder's factor after n = ``step`` terms; (n + j) >= n + 1 past underflow."""
    if not 0 < lipschitz < 1:
        return 0.0 if lipschitz == 0 else math.inf
    power = lipschitz**step
    return series_tail(lipschitz, step) / power if power > 1e-200 else lipschitz / ((1 - lipschitz) * (step + 1))
