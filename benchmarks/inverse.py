"""The inverse at equal true error: wall time and evaluations of the branch until the whole flow is inverted to 1e-6.

Flows trained on the digits (8 blocks, bound 0.97), 500 held-out rows. "Same map": normflows' fixed-point iteration is given
our trained branches, so that both invert one function. Each is set to the loosest tolerance with which no row, of those that
were encoded in float64, is off by more than 1e-6. Ours iterates in float32 and finishes in float64; "compiled" is after
`iresnet.compile`, by kernels of our own. The papers' claim is that the inverse takes 5 to 10 steps: the last table counts the
plain steps that a block in fact takes, from y, for a given true error.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

import iresnet
from iresnet.bijections.residual import ResidualTransform
from iresnet.flow import BoundFlow

from .harness import Options, Row, compare, interleaved, spread
from .peers import Peer, installed
from .trained import LIPSCHITZ, BoundModule, Counter, digits, our_flow, their_flow

__all__ = ["rows"]

ERROR = 1e-6
FAMILIES = ("gram", "sandwich")
COMPILED = "Picard, compiled"
LADDER = [10.0**-power for power in (4, 4.5, 5, 5.5, 6, 6.5, 7, 7.5, 8, 8.5, 9, 10, 11, 12, 13, 14, 15, 16)]
SOLVERS: dict[str, Callable[[float], Any]] = {
    name: (lambda tol, solver=getattr(iresnet, name): solver(tol=tol)) for name in ("Picard", "Anderson", "NewtonKrylov")
}
Inverse = Callable[[float], Tensor]


def compiled(family: str) -> BoundFlow:
    """Our trained flow with its kernels."""
    return iresnet.compile(deepcopy(our_flow(family))).bind()


def error(found: Tensor, truth: Tensor) -> float:
    """The largest 2-norm distance of a row."""
    return float((found.double() - truth.double()).norm(dim=1).max())


def loosest(inverse: Inverse, truth: Tensor) -> float:
    """The loosest tolerance of the ladder with which every row is within ERROR of the truth."""
    return next((tol for tol in LADDER if error(inverse(tol), truth) <= ERROR), LADDER[-1])


class SameMap:
    """normflows' fixed-point iteration, in float64, on the branches of our flow."""

    def __init__(self, flow: BoundFlow) -> None:
        import normflows as nf

        self.counter, self.steps = Counter(), []
        for part in reversed(flow.to(torch.float64).transform.parts):  # type: ignore[attr-defined]
            if isinstance(part, ResidualTransform):
                module = BoundModule(part.bound, self.counter)
                self.steps.append(nf.flows.Residual(module).iresblock.eval())
            else:
                self.steps.append(part)

    def __call__(self, z: Tensor, tol: float | None = None) -> Tensor:
        """The data of latents z; with ``tol`` for both of its tolerances, or its own 1e-5 of the *squared* step."""
        with torch.no_grad():
            for step in self.steps:
                if hasattr(step, "nnet"):
                    z = step._inverse_fixed_point(z) if tol is None else step._inverse_fixed_point(z, atol=tol, rtol=tol)
                else:
                    z = step.attach(z, z)
        return z


def evaluation(flow: BoundFlow, x: Tensor, options: Options) -> dict[torch.dtype, float]:
    """Seconds of one evaluation of a branch on the whole batch, the mean over blocks, in float32 and float64."""
    found = {}
    for dtype in (torch.float32, torch.float64):
        bounds = [part.bound for part in flow.to(dtype).transform.parts if isinstance(part, ResidualTransform)]  # type: ignore
        every = interleaved({"all": lambda bounds=bounds, like=x.to(dtype): [bound(like) for bound in bounds]}, options)
        found[dtype] = spread(every["all"]).median / len(bounds)
    return found


def same_map(family: str, options: Options) -> list[Row]:
    """Our solvers against each other and against normflows, on one trained map."""
    x = digits()[1].double()
    flow = our_flow(family).bind()
    z = flow.to(torch.float64).encode(x).detach()
    tasks: dict[str, Callable[[], Any]] = {}
    evaluations: dict[str, float] = {}
    details: dict[str, dict[str, Any]] = {}
    for name, make in SOLVERS.items():
        tol = loosest(lambda tol, make=make: flow.invert(z, solver=make(tol)).value, x)
        solution = flow.invert(z, solver=make(tol))
        tasks[name] = lambda solver=make(tol): flow.invert(z, solver=solver)
        evaluations[name] = float(solution.steps.double().mean())
        details[name] = {"tolerance": tol, "error": error(solution.value, x)}
    fused = compiled(family)
    tol_fused = loosest(lambda tol: fused.invert(z, solver=iresnet.Picard(tol=tol)).value, x)
    solution = fused.invert(z, solver=iresnet.Picard(tol=tol_fused))
    tasks[COMPILED] = lambda: fused.invert(z, solver=iresnet.Picard(tol=tol_fused))
    evaluations[COMPILED] = float(solution.steps.double().mean())
    details[COMPILED] = {"tolerance": tol_fused, "error": error(solution.value, x)}
    theirs = SameMap(flow) if installed("normflows") else None
    if theirs is not None:
        tol = loosest(lambda tol: theirs(z, tol), x)
        theirs.counter.values = 0
        details["normflows"] = {"tolerance": tol, "error": error(theirs(z, tol), x)}
        evaluations["normflows"] = theirs.counter.values / len(z)
        tasks["normflows"] = lambda: theirs(z, tol)
    alone = evaluation(flow, x, options)
    seconds = interleaved(tasks, options)
    found: list[Row] = []
    case = f"{family}, c = {LIPSCHITZ}"
    fewest = min(SOLVERS, key=evaluations.__getitem__)
    for name in SOLVERS:
        if name != "Picard":
            target = 1.7 if name == fewest else None
            more = {"ours_detail": details[name], "theirs_detail": details["Picard"]}
            pair = ([evaluations[key]] for key in (name, "Picard"))
            found.append(compare(f"{case}: {name}", "Picard", "evaluations a row", *pair, target=target, **more))
    if theirs is not None:
        names = (*SOLVERS, COMPILED)
        fastest = min(names, key=lambda name: spread(seconds[name]).median)
        for name in names:
            more = {"ours_detail": details[name], "theirs_detail": details["normflows"]}
            pair = ([1e3 * second for second in seconds[key]] for key in (name, "normflows"))
            target = 2.0 if name == fastest else None
            found.append(compare(f"{case}, same map: {name}", "normflows", "ms", *pair, target=target, **more))
        pair = ([evaluations[key]] for key in (fastest, "normflows"))
        found.append(compare(f"{case}, same map: {fastest}", "normflows", "evaluations a row", *pair))
        own = theirs(z)
        found.append(own_rule("normflows", f"ours, {case}", own, x))
    for name, count in evaluations.items():
        share = count * alone[torch.float64 if name == "normflows" else torch.float32]
        figures = {"ms": 1e3 * spread(seconds[name]).median, "of_which_branch_evaluations_ms": 1e3 * share}
        found.append({"parts_of_the_inverse": f"{case}: {name}", **figures})
    return found


def own_rule(library: str, network: str, found: Tensor, truth: Tensor) -> Row:
    """What a library leaves of the error where it stops by itself."""
    distance = (found.double() - truth.double()).detach().norm(dim=1)
    figures = {"largest_error": float(distance.max()), "median_error": float(distance.median())}
    return {"stops_by_its_own_rule": library, "network": network, **figures}


def own_networks(options: Options) -> list[Row]:
    """Each with its own trained network, ours of the sandwich family with the default solver."""
    if not installed("normflows"):
        return []
    x = digits()[1].double()
    flow = our_flow("sandwich").bind()
    z = flow.to(torch.float64).encode(x).detach()
    peer: Peer = their_flow("normflows").double()
    their_z = peer.encode(x).detach()

    def decode(tol: float) -> Tensor:
        found = their_z
        with torch.no_grad():
            for step in peer.model.flows:  # type: ignore[union-attr]
                block = getattr(step, "iresblock", None)
                found = block._inverse_fixed_point(found, atol=tol, rtol=tol) if block is not None else step(found)[0]
        return found

    ours, theirs = loosest(lambda tol: flow.invert(z, solver=iresnet.Picard(tol=tol)).value, x), loosest(decode, x)
    tasks = {"ours": lambda: flow.invert(z, solver=iresnet.Picard(tol=ours)), "theirs": lambda: decode(theirs)}
    seconds = {name: [1e3 * second for second in found] for name, found in interleaved(tasks, options).items()}
    case = f"own networks, c = {LIPSCHITZ}: Picard"
    return [compare(case, "normflows", "ms", seconds["ours"], seconds["theirs"], target=2.0)]


def own_rules() -> list[Row]:
    """What is left of the error where each peer stops by itself, on its own trained network, in float32 as it is used."""
    x, found = digits()[1], []
    for name in ("normflows", "torchflows InvertibleResNet", "FrEIA"):
        if installed(name):
            peer = their_flow(name).float()
            found.append(own_rule(name, "its own, float32", peer.decode(peer.encode(x).detach()), x))
    return found


def bound_holds(count: int = 10_000) -> list[Row]:
    """Whether the stated bound of every block is at least the true error, for latents drawn from the base."""
    found = []
    flows = {family: our_flow(family).bind() for family in FAMILIES}
    for case, flow in (flows | {f"{family}, compiled": compiled(family) for family in FAMILIES}).items():
        for dtype in (torch.float64, torch.float32):
            z, violations, worst = torch.randn(count, 64, generator=torch.Generator().manual_seed(1)).to(dtype), 0, 0.0
            for part in reversed(flow.transform.parts):  # type: ignore[attr-defined]
                solution = part.inverse(z, iresnet.Picard(tol=ERROR))
                if isinstance(part, ResidualTransform):
                    reference = part.to(torch.float64).inverse(z.double(), iresnet.Picard(tol=1e-12))
                    true = (solution.value.double() - reference.value).norm(dim=1)
                    share = true / (solution.error_bound + reference.error_bound)
                    violations, worst = violations + int((share > 1).sum()), max(worst, float(share.max()))
                z = solution.value
            told = {"stated_bound_holds": case, "precision": str(dtype).removeprefix("torch."), "samples": count}
            found.append(told | {"violations": violations, "largest_share_of_the_bound": worst})
    return found


def claim_of_few_steps() -> list[Row]:
    """How many plain steps a block in fact needs for a given true error: the papers say 5 to 10."""
    x, found = digits()[1].double(), []
    for family in FAMILIES:
        flow = our_flow(family).bind().to(torch.float64)
        counts: dict[float, list[float]] = {1e-2: [], 1e-4: [], 1e-6: []}
        for part in flow.transform.parts:  # type: ignore[attr-defined]
            y = part.forward(x).detach()
            if isinstance(part, ResidualTransform):
                needed, guess = {level: torch.full((len(x),), torch.inf) for level in counts}, y
                for step in range(1, 101):
                    guess = (y - part.bound(guess)).detach()
                    distance = (guess - x).norm(dim=1)
                    for level, at in needed.items():
                        needed[level] = torch.where((distance <= level) & at.isinf(), float(step), at)
                for level, at in needed.items():
                    counts[level] += at.tolist()
            x = y
        x = digits()[1].double()
        for level, steps in counts.items():
            told = {"plain_steps_of_a_block": family, "true_error": level}
            found.append(told | {"steps": asdict(spread(steps)), "most_steps": max(steps)})
    return found


def rows(options: Options) -> list[Row]:
    """Comparisons, what the peers' own rules leave, whether bounds hold, and the papers' claim."""
    found = [row for family in FAMILIES for row in same_map(family, options)]
    return found + own_networks(options) + own_rules() + bound_holds() + claim_of_few_steps()
