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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Literal

import torch
from torch import Tensor

from .linearize import Linearization, Probed, attachable, linearize
from .logdet import Estimate, Function, lipschitz_of, series_tail, truncation_bias
from .noise import Noise
from .probes import DISTRIBUTIONS, draw_probes, inner, length, plus, power_sums, stderr_of_mean, times

__all__ = ["PowerSeries"]

_FACTOR = 3.0  # of the adaptive roulette: see docs/estimators.md for what other factors cost and gain
_NOTHING = 1e-20  # share of a probe below which nothing is left of it
_SELDOM = 8  # terms after which roulettes, most of which need no norms, look for such rows
_CHOICES = {
    "roulette": (None, "geometric", "poisson", "adaptive"),
    "distribution": DISTRIBUTIONS,
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
        further term with probability ``tail``), "poisson" (a Poisson number of further terms), or "adaptive": a row goes on after
        k terms with probability ``tail`` :math:`\|J^k v\| / \|v\|`, or surely where that is above one, which keeps the variance
        finite for every contractive branch. No standard error is stated for a roulette.
    tail : continuation probability (geometric; c^2 if None, which keeps the variance finite), mean (poisson; 2 if None) or the
        factor just told (adaptive; 3 if None).
    tol : largest certified remainder of a row in nats, with ``terms=None``.
    distribution : of the probes, "rademacher" or "gaussian". Rademacher's has the smaller variance.
    first_trace : take tr J exactly where the branch offers it, which removes nearly all of the variance.
    gradient : "neumann", or "series" to differentiate every term (memory grows with them).
    product : Jacobian products from the left ("vjp") or the right ("jvp").
    recompute : keep only inputs and probes for the backward pass, which computes the rest again; with Neumann gradients, of
        branches that have theirs in closed form.

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
    recompute: bool = False

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"PowerSeries: {name} is one of {known}, got {getattr(self, name)!r}")
        if self.probes < 1 or (self.terms is not None and self.terms < 1):
            raise ValueError(f"PowerSeries needs terms >= 1 and probes >= 1, got {self.terms} and {self.probes}")
        most = math.inf if self.roulette in ("poisson", "adaptive") else 1.0
        if self.tail is not None and not 0 < self.tail < most:
            told = "a probability in (0, 1), for poisson a positive mean and for adaptive a positive factor, both finite"
            raise ValueError(f"PowerSeries: tail is {told}, got {self.tail}")
        if not self.tol > 0:
            raise ValueError(f"PowerSeries needs tol > 0, got {self.tol}")
        if self.roulette == "poisson":
            text = "Poisson roulette is unbiased, but its variance is infinite for any branch with J^k != 0; prefer 'adaptive'"
            warnings.warn(text, UserWarning, stacklevel=3)

    def __call__(
        self, function: Function, x: Tensor, noise: Noise | None = None, *, luck: float | None = None
    ) -> tuple[Tensor, Estimate]:
        """g(x) and log det(I + dg/dx) for x (B, *); see :class:`~iresnet.numerics.logdet.LogDet`.

        ``luck``, uniform in (0, 1), is what a roulette draws; by default it is drawn from ``noise``.
        """
        noise = noise or Noise()
        luck = noise.at(self.probes).uniform() if luck is None else luck
        if self.gradient == "neumann" and attachable(function, x):
            with torch.no_grad():
                at = linearize(function, x)
            return self._attach(at, lipschitz_of(function), [noise], luck)
        at = linearize(function, x)
        trace = at.trace() if self.first_trace and at.trace is not None else None
        probes = draw_probes(self.distribution, self.probes, x, noise)
        differentiable = torch.is_grad_enabled() and at.value.requires_grad
        with torch.set_grad_enabled(differentiable and self.gradient == "series"):
            totals, weights, bias = self._sum(at, probes, lipschitz_of(function), luck)
        value = totals.mean(0)
        if differentiable and self.gradient == "neumann":
            surrogate = inner(self._product(at)(weights), probes).mean(0)
            value = value + (surrogate - surrogate.detach())
        if trace is not None:
            value = value + trace
        return at.value, Estimate(value, self._stderr(totals), bias)

    def joins(self, function: Function, x: Tensor, noise: Noise) -> bool:
        """Whether the log-determinant at x may be found by :meth:`joint`: a row must not stop by what others do."""
        fixed = self.terms is not None or self.roulette is not None
        return (
            self.gradient == "neumann"
            and fixed
            and noise.rows is not None
            and getattr(function, "opens", False)
            and attachable(function, x)
        )

    def joint(self, at: Linearization, lipschitz: float, noises: Sequence[Noise], luck: float) -> tuple[Tensor, Estimate]:
        """What ``at`` attaches as its value, and the sum (B,) of the log-determinants of the G functions joined in it (G B, d).

        There is a noise for each, and the probes are those that the functions would have alone. ``luck`` is what a roulette draws
        for all of them: if each had one of its own, the luckiest would decide how long all take.
        """
        image, found = self._attach(at, lipschitz, noises, luck)
        value, stderr, bias = (part.unflatten(0, (len(noises), -1)) for part in (found.value, found.stderr, found.bias))
        return image, Estimate(value.sum(0), torch.linalg.vector_norm(stderr, dim=0), bias.sum(0))

    def _attach(self, at: Linearization, lipschitz: float, noises: Sequence[Noise], luck: float) -> tuple[Tensor, Estimate]:
        """Value and log-determinant of a function that makes its own graph."""
        with torch.no_grad():
            probes = draw_probes(self.distribution, self.probes, at.value, *noises)
            totals, weights, bias = self._sum(at, probes, lipschitz, luck)
            value, known_trace = totals.mean(0), self.first_trace and at.trace is not None
            if known_trace and at.trace is not None:
                value = value + at.trace()
        sides = (weights, probes) if self.product == "vjp" else (probes, weights)
        image, value = at.attach(Probed(value, *sides, known_trace, self.recompute))  # type: ignore[misc]
        return image, Estimate(value, self._stderr(totals), bias)

    def _stderr(self, totals: Tensor) -> Tensor:
        """The standard error (B,) of the mean over probes (m, B); not known of a roulette."""
        return stderr_of_mean(totals.detach() if self.roulette is None else totals.detach()[:1])

    def _product(self, at: Linearization) -> Callable[[Tensor], Tensor]:
        return at.vjp if self.product == "vjp" else at.jvp

    def _sum(self, at: Linearization, probes: Tensor, lipschitz: float, luck: float) -> tuple[Tensor, Tensor, Tensor]:
        """Per probe the series (m, B) and the Neumann weights (m, B, *); the bias (B,). An exact trace stands for k = 1 and 0."""
        if self.roulette is not None:
            return self._play(at, probes, lipschitz, luck)
        product, known_trace = self._product(at), self.first_trace and at.trace is not None
        size = math.prod(probes.shape[2:])
        size_of_probe = length(probes)
        totals = torch.zeros_like(size_of_probe)
        weights = torch.zeros_like(probes) if known_trace else probes.clone()
        active = torch.ones_like(size_of_probe, dtype=torch.bool)  # rows stop alone: a row's number must not depend on its batch
        remainder, vector = torch.full_like(size_of_probe, math.inf), probes
        for step in count(1):
            vector = product(vector)
            if step > 1 or not known_trace:
                totals = totals + inner(vector, probes) * ((-1) ** (step + 1) / step)
            if self.gradient == "neumann":
                weights = plus(weights, vector, (-1) ** step)
            norm = length(vector.detach())
            remainder = torch.where(active, norm * size_of_probe * _reach(lipschitz, step), remainder)
            active = active & (norm > _NOTHING * size_of_probe)
            if self.terms is None:
                active = active & (remainder > self.tol)
            vector = times(vector, active)
            if step == (self.terms or _limit(lipschitz)) or (self.terms is None and not bool(active.any())):
                bias = remainder.mean(0)
                # A row that stopped early has its own, smaller number of terms, for which the a priori bound is larger.
                return totals, weights, bias.clamp(max=truncation_bias(lipschitz, step, size)) if self.terms else bias
        raise AssertionError("unreachable")

    def _play(self, at: Linearization, probes: Tensor, lipschitz: float, luck: float) -> tuple[Tensor, Tensor, Tensor]:
        """What :meth:`_sum` returns, of a roulette: a term is taken if ``luck`` is below the probability of coming so far.

        That of the adaptive roulette is a row's own, so that a row's number does not depend on its batch; whether any row goes on
        the host hears at each term, for which it has to wait for a GPU.
        """
        product, known_trace = self._product(at), self.first_trace and at.trace is not None
        sums = at.sums if at.sums is not None and self.product == "vjp" else partial(power_sums, product)
        always, chances = self.terms or 1, self._certain(luck, lipschitz)
        neumann, step, common = self.gradient == "neumann", len(chances), chances[-1]
        shares = [(-1) ** power / chance for power, chance in enumerate(chances, start=1)]
        by_power = [-share / power for power, share in enumerate(shares, start=1)]
        if known_trace:
            by_power[0] = 0.0
        totals, weights, vector = sums(probes, by_power, [float(not known_trace), *(share * neumann for share in shares)])
        later, reached = torch.zeros_like(probes), torch.ones_like(totals)
        while True:
            if step % _SELDOM == 0:
                vector = times(vector, length(vector.detach()) > _NOTHING * length(probes))
            if step >= always and self.roulette != "adaptive":
                common *= self._survival(step - always, lipschitz)
                if luck >= common:
                    break
            elif step >= always:
                before, reached = reached, self._chance(vector.detach(), probes, reached, lipschitz)
                active = luck < reached
                if not bool(active.any()):
                    break
                vector = times(vector, torch.where(active, before / reached, 0.0))  # weighted once for all later terms
            vector, step = product(vector), step + 1
            later = plus(later, vector, (-1) ** (step + 1) / (step * common))
            if neumann:
                weights = plus(weights, vector, (-1) ** step / common)
        totals = totals + inner(later, probes) if step > len(chances) else totals
        return totals, weights, torch.zeros_like(totals[0])

    def _certain(self, luck: float, lipschitz: float) -> list[float]:
        """The probability to come to each term that is taken whatever it turns out to be, as far as it is worth knowing."""
        always = self.terms or 1
        chances = [1.0] * min(always, _SELDOM)
        while self.roulette != "adaptive" and always <= len(chances) < _SELDOM:
            common = chances[-1] * self._survival(len(chances) - always, lipschitz)
            if luck >= common:
                break
            chances.append(common)
        return chances

    def _survival(self, index: int, lipschitz: float) -> float:
        """Probability of a further term, ``index`` beyond those always computed, that is the same for all rows."""
        if self.roulette == "geometric":
            return self.tail if self.tail is not None else max(lipschitz**2, 0.25) if lipschitz < 1 else 0.98
        mean = self.tail or 2.0
        # P(N > index) / P(N >= index), by the regularised incomplete gamma function.
        order = torch.tensor([float(index + 1), float(max(index, 1))], dtype=torch.float64)
        above = torch.special.gammainc(order, torch.tensor(mean, dtype=torch.float64)).tolist()
        return above[0] / (above[1] if index > 0 else 1.0)

    def _chance(self, vector: Tensor, probes: Tensor, before: Tensor, lipschitz: float) -> Tensor:
        """Probabilities (m, B) of going on from ``probes`` that are ``vector`` now, divided by ``before``, that of coming here.

        They may depend on all that was seen so far, since the weights undo it. A row without numbers, or with nothing left, ends.
        """
        share = (length(vector) * before / length(probes)).nan_to_num(nan=0.0, posinf=0.0)
        wanted = share * (self.tail or _FACTOR)
        if lipschitz < 1:
            return torch.minimum(wanted, before)
        # Without a certificate what is left may grow again, and for ever.
        return torch.clamp(wanted, 0.05 * before, 0.98 * before)


def _limit(lipschitz: float) -> int:
    """Terms by which a certified branch has met any tolerance; 50 for one without a certificate, whose bias is infinite."""
    return 10_000 if lipschitz < 1 else 50


def _reach(lipschitz: float, step: int) -> float:
    """The sum of c^j / (n + j) over j >= 1, the remainder's factor after n = ``step`` terms; (n + j) >= n + 1 past underflow."""
    if not 0 < lipschitz < 1:
        return 0.0 if lipschitz == 0 else math.inf
    power = lipschitz**step
    return series_tail(lipschitz, step) / power if power > 1e-200 else lipschitz / ((1 - lipschitz) * (step + 1))
