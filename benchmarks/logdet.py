"""Likelihood of one row to a standard error of 0.3 nats: how many Jacobian products, on the same trained network.

The flows are ours, trained on the digits (64 dimensions, 8 blocks, bound 0.97), the last one of convolutions with the goal of
0.3 % of the dimension; peers' estimators are called on its very branches. One draw of an estimator (one probe in every block)
costs p products a row and scatters by s nats about its mean, so p * max(1, ceil((s / 0.3)^2)) products reach 0.3. Products
are counted where they happen; an exact trace counts as one more. The bias is that of the mean over draws and rows against the
full Jacobian in float64, with the standard error of that difference; *truncation* is the part of it that no number of draws
removes, by the same probes with all terms. The papers' claim is that one probe and 5 to 10 terms suffice: the deviation of
one draw and the bias of 5 and of 10 terms say for what.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

import iresnet
from iresnet.contract.base import Bound
from iresnet.numerics.linearize import Linearization, linearize
from iresnet.numerics.logdet import Estimate, LogDet
from iresnet.numerics.noise import Noise

from .harness import Options, Row, compare, spread
from .peers import installed
from .trained import BoundModule, Counter, digit_images, digits, our_flow, our_image_flow

__all__ = ["CountingBound", "rows"]

GOAL, ROWS, DRAWS, GROUPS = 0.3, 200, 60, 6
# One probe and 5 to 10 terms, as in the papers.
CLAIM: dict[str, LogDet] = {
    f"PowerSeries(terms={n}, first_trace=False)": iresnet.PowerSeries(n, first_trace=False) for n in (5, 10)
}
OURS: dict[str, LogDet] = {
    "Krylov()": iresnet.Krylov(),
    "PowerSeries()": iresnet.PowerSeries(),
    "PowerSeries(first_trace=False)": iresnet.PowerSeries(first_trace=False),
}
THEIRS = ("normflows", "torchflows ResFlow", "torchflows InvertibleResNet", "FrEIA")


@dataclass(frozen=True)
class CountingBound:
    """A bound branch that counts products with its Jacobian, per row; a trace in closed form counts as one."""

    bound: Bound
    counter: Counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bound, name)

    def __call__(self, x: Tensor) -> Tensor:
        return self.bound(x)

    def linearize(self, x: Tensor) -> Linearization:
        """The branch's own, with counting products."""
        at = linearize(self.bound, x)

        def counting(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            def multiply(vector: Tensor) -> Tensor:
                self.counter.products += vector.numel() // x[0].numel()
                return product(vector)

            return multiply

        def trace() -> Tensor:
            self.counter.products += len(x)
            return at.trace()  # type: ignore[misc]

        own = trace if at.trace is not None else None
        return replace(at, vjp=counting(at.vjp), jvp=counting(at.jvp), trace=own)


@dataclass(frozen=True)
class Collector:
    """A log-determinant that estimates nothing and keeps what it was asked about."""

    found: list[tuple[Bound, Tensor]]

    def __call__(self, function: Any, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Estimate]:
        self.found.append((function, x))
        return function(x), Estimate.sure(x.new_zeros(len(x)))


def blocks(flow: iresnet.Flow, x: Tensor) -> list[tuple[Bound, Tensor]]:
    """The flow's bound branches with their inputs, in the precision of x."""
    collector = Collector([])
    with torch.no_grad():
        flow.bind().to(x.dtype).estimate(x, logdet=collector)
    return collector.found


def our_draws(logdet: LogDet, inputs: list[tuple[Bound, Tensor]], counter: Counter) -> Callable[[int], Tensor]:
    """A draw of ours: each row and block with noise of its own."""

    def draw(index: int) -> Tensor:
        with torch.no_grad():
            total = torch.zeros(len(inputs[0][1]))
            for place, (bound, x) in enumerate(inputs):
                noise = Noise(index, torch.arange(len(x))).at(place)
                total = total + logdet(CountingBound(bound, counter), x, noise)[1].value
            return total

    return draw


def their_draws(name: str, inputs: list[tuple[Bound, Tensor]], counter: Counter) -> Callable[[int], Tensor]:
    """A draw of a peer's estimator in evaluation mode, called as the peer calls it."""
    estimators: list[tuple[Callable[[Tensor], Tensor], Tensor]] = []
    for bound, x in inputs:
        module, shape = BoundModule(bound, counter), tuple(x.shape[1:])
        if name == "normflows":
            import normflows as nf

            block = nf.flows.Residual(module).iresblock.eval()
            estimators.append((lambda x, block=block: block._logdetgrad(x)[1].view(-1), x))
        elif name == "FrEIA":
            from FrEIA.modules import IResNetLayer

            layer: Any = IResNetLayer([shape])
            layer.residual = module
            estimators.append((lambda x, layer=layer: layer._jacobian([x.clone()]), x))
        else:
            from torchflows.bijections.finite.residual.iterative import InvertibleResNetBlock, ResFlowBlock

            kind = ResFlowBlock if name.endswith("ResFlow") else InvertibleResNetBlock
            block = kind(shape, g=module).eval()
            estimators.append((lambda x, block=block: block.log_det(x.clone().requires_grad_(True), training=False), x))

    def draw(index: int) -> Tensor:
        import numpy as np

        torch.manual_seed(index)
        np.random.seed(index)
        return torch.stack([estimate(x).detach() for estimate, x in estimators]).sum(0)

    return draw


def measure(draw: Callable[[int], Tensor], counter: Counter, truth: Tensor, goal: float) -> dict[str, Any]:
    """Products for the goal in each of several groups of draws, and the bias over all of them."""
    needed, per_draw, scatter, errors = [], [], [], []
    for group in range(GROUPS):
        counter.products = 0
        values = torch.stack([draw(group * DRAWS + index).double() for index in range(DRAWS // GROUPS)])
        cost = counter.products / values.numel()
        deviation = float(values.var(0).mean().sqrt())
        needed.append(cost * max(1, math.ceil((deviation / goal) ** 2)))
        per_draw.append(cost)
        scatter.append(deviation)
        errors.append(values - truth)
    error = torch.cat(errors)
    bias = {"bias": float(error.mean()), "stderr_of_bias": float(error.var(0).mean().sqrt()) / math.sqrt(error.numel())}
    return {"needed": needed, "products_a_draw": asdict(spread(per_draw)), "deviation_of_a_draw": asdict(spread(scatter)), **bias}


def truncation(logdet: Any, inputs: list[tuple[Bound, Tensor]]) -> float:
    """Mean over rows of what a truncated estimator leaves out: its distance from all terms with the same probes."""
    whole = replace(logdet, tol=1e-9, **({"terms": None} if isinstance(logdet, iresnet.PowerSeries) else {}))
    pairs = [our_draws(each, inputs, Counter()) for each in (logdet, whole)]
    return float(sum((pairs[0](index) - pairs[1](index)).double().mean() for index in range(5)) / 5)


def case(name: str, flow: iresnet.Flow, x: Tensor, goal: float) -> list[Row]:
    """All estimators on one trained flow."""
    wide = blocks(flow, x.double())
    truth, inputs = our_draws(iresnet.Exact(), wide, Counter())(0), blocks(flow, x)
    measured: dict[str, dict[str, Any]] = {}
    for label, logdet in (OURS | CLAIM).items():
        counter = Counter()
        measured[label] = measure(our_draws(logdet, inputs, counter), counter, truth, goal)
        measured[label]["truncation"] = truncation(logdet, inputs)
    for label in filter(installed, THEIRS):
        counter = Counter()
        measured[label] = measure(their_draws(label, inputs, counter), counter, truth, goal) | {"truncation": None}
    found: list[Row] = []
    if "normflows" in measured:
        cheapest = min(OURS, key=lambda label: spread(measured[label]["needed"]).median)
        theirs = measured["normflows"]["needed"]
        for label in OURS:
            target = 20.0 if label == cheapest else None
            ours = measured[label]["needed"]
            found.append(compare(f"{name}: {label}", "normflows", "products a row", ours, theirs, target=target))
        exact = [float(sum(x[0].numel() for _, x in inputs))] * GROUPS
        found.append(compare(f"{name}: Exact()", "normflows", "products a row", exact, theirs))
    for label, figures in measured.items():
        told = {key: value for key, value in figures.items() if key != "needed"}
        found.append({"estimator": label, "flow": name, "products_needed": asdict(spread(figures["needed"])), **told})
    return found


def rows(options: Options) -> list[Row]:
    """Products for the goal, ours against Residual Flow's evaluation estimator in normflows' hands, on three trained flows."""
    found: list[Row] = []
    for family in ("gram", "sandwich"):
        found += case(f"{family}, {GOAL} nats", our_flow(family), digits(ROWS)[1], GOAL)
    images = digit_images(ROWS)[1]
    goal = 0.003 * images[0].numel()
    return found + case(f"convolutions, {goal:.2g} nats", our_image_flow(), images, goal)
