"""Remake results/contraction/parametrisations.json: ways to orthonormal columns, and what each costs.

    python experiments/parametrisations.py

Processor time of one ``constrain`` of 16 blocks with its backward pass, and of a whole training step (16 blocks, 43
columns, batch 512), both in turns with the present way and as medians; and the norm that float32 leaves, which the
bound then divides out.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from quality import processor
from torch import Tensor

from iresnet.contract import sandwich
from iresnet.files import write_json
from iresnet.models import dense_flow
from iresnet.numerics.norms import gram_bound

RESULTS = Path(__file__).resolve().parent.parent / "results" / "contraction" / "parametrisations.json"
FEATURES, BLOCKS, BATCH = 43, 16, 512
Way = Callable[[Tensor, Tensor], Tensor]


def eye_of(matrix: Tensor) -> Tensor:
    return torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def skewed(square: Tensor, rest: Tensor) -> Tensor:
    return square - square.mT + rest.mT @ rest


def cayley_by_solve(square: Tensor, rest: Tensor) -> Tensor:
    """Cayley's transform by one factorisation and a solution for all rows at once."""
    eye, z = eye_of(square), skewed(square, rest)
    return torch.linalg.solve(eye + z, torch.cat((eye - z, -2 * rest), -2), left=False)


def cayley_by_newton(square: Tensor, rest: Tensor) -> Tensor:
    """Cayley's transform with the inverse by Newton-Schulz, X <- X (2 I - A X), from A^T / (|A|_1 |A|_inf): 20 steps.

    Only the last has a graph: its gradient by A, at a constant X, is that of the inverse.
    """
    eye = eye_of(square)
    a = eye + skewed(square, rest)
    with torch.no_grad():
        x = a.mT / (a.abs().sum(-2).amax(-1) * a.abs().sum(-1).amax(-1))[..., None, None]
        for _ in range(19):
            x = x @ (2 * eye - a @ x)
    x = x @ (2 * eye - a @ x)
    return torch.cat((2 * x - eye, -2 * rest @ x), -2)


def polar_by_bjorck(square: Tensor, rest: Tensor) -> Tensor:
    """The polar factor of [X + I; Y] by X <- X (3 I - X^T X) / 2, from a soundly prescaled start: 12 steps."""
    q = torch.cat((square + eye_of(square), rest), -2)
    q = q / gram_bound(q).detach()[..., None, None]
    for _ in range(12):
        q = 1.5 * q - 0.5 * q @ (q.mT @ q)
    return q


def qr(square: Tensor, rest: Tensor) -> Tensor:
    """Householder's QR of [X + I; Y], with a positive diagonal of R."""
    q, r = torch.linalg.qr(torch.cat((square + eye_of(square), rest), -2))
    return q * torch.sign(torch.diagonal(r, dim1=-2, dim2=-1).detach())[..., None, :]


def cholesky(square: Tensor, rest: Tensor) -> Tensor:
    """X L^-T with L L^T = X^T X + ridge, X = [X + I; Y]: columns of norm at most one, orthonormal but for the ridge."""
    x = torch.cat((square + eye_of(square), rest), -2)
    gram = x.mT @ x
    ridge = 1e-3 * torch.diagonal(gram.detach(), dim1=-2, dim2=-1).mean(-1)
    factor = torch.linalg.cholesky_ex(gram + ridge[..., None, None] * eye_of(square))[0]
    return torch.linalg.solve_triangular(factor.mT, x, upper=True, left=False)


def exponential(square: Tensor, rest: Tensor) -> Tensor:
    """The first columns of exp of the skew matrix [[X - X^T, -Y^T], [Y, 0]]."""
    top = torch.cat((square - square.mT, -rest.mT), -1)
    bottom = torch.cat((rest, rest.new_zeros(*rest.shape[:-1], rest.shape[-2])), -1)
    return torch.linalg.matrix_exp(torch.cat((top, bottom), -2))[..., : square.shape[-1]]


NOW = "Cayley by inverse"
WAYS: dict[str, Way] = {
    NOW: sandwich.cayley,
    "Cayley by solve": cayley_by_solve,
    "Cayley by Newton-Schulz": cayley_by_newton,
    "polar by Bjorck": polar_by_bjorck,
    "QR": qr,
    "Cholesky": cholesky,
    "exponential": exponential,
}


def spent(work: Callable[[], Any], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def in_turns(works: dict[str, Callable[[], Any]], turns: int, times: int) -> dict[str, list[float]]:
    """Seconds of each, turn by turn, the first turn left out."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            seconds = spent(work, times)
            if turn:
                found[name].append(seconds)
    return found


def using(way: Way, work: Callable[[], Any]) -> Callable[[], Any]:
    """``work`` with sandwich layers made in that way."""

    def changed() -> None:
        before, sandwich.cayley = sandwich.cayley, way
        try:
            work()
        finally:
            sandwich.cayley = before

    return changed


def compare(works: dict[str, Callable[[], Any]], turns: int, times: int) -> dict[str, dict[str, float]]:
    """Medians in milliseconds, and of the ratio to the present way of the same turn."""
    found = in_turns(works, turns, times)
    return {
        name: {
            "ms": 1e3 * statistics.median(seconds),
            "ratio": statistics.median(a / b for a, b in zip(seconds, found[NOW], strict=True)),
        }
        for name, seconds in found.items()
    }


def constrain(width: int, turns: int) -> dict[str, Any]:
    """Costs of ``constrain`` with its backward pass, all 16 blocks in one call."""
    branch = sandwich.SandwichBranch(FEATURES, (width, width), 0.99)
    raw = [torch.randn(BLOCKS, *one.shape, requires_grad=True) for one in branch.raw()]
    raw = [(one / one.shape[-1] ** 0.5 if one.dim() == 3 else 0.3 * one).detach().requires_grad_() for one in raw]

    def once() -> None:
        weights = branch.constrain(*raw)
        torch.autograd.grad([weight.sum() for weight in weights], raw)

    return compare({name: using(way, once) for name, way in WAYS.items()}, turns, 3)


def step(width: int, turns: int) -> dict[str, Any]:
    """Costs of a training step, forward and backward."""
    torch.manual_seed(0)
    flow, x = dense_flow(FEATURES, blocks=BLOCKS, hidden=(width, width), lipschitz=0.99), torch.randn(BATCH, FEATURES)
    flow.initialize(x)
    with torch.no_grad():
        for part in flow.modules():
            if isinstance(part, sandwich.SandwichBranch):
                part.gain.normal_(0, 0.3)

    def once() -> None:
        torch.manual_seed(0)  # the same roulette in every turn
        flow.zero_grad()
        flow.train().log_prob(x).mean().backward()

    return compare({name: using(way, once) for name, way in WAYS.items()}, turns, 1)


def drift(width: int) -> dict[str, dict[str, float]]:
    """Largest norm of Q - 1 over 20 random weights, by the scale of the weights, in float32 before the bound divides it out."""
    found: dict[str, dict[str, float]] = {}
    for name, way in WAYS.items():
        for scale in (1.0, 10.0, 100.0):
            torch.manual_seed(0)
            square, rest = (scale * torch.randn(20, rows, width) / width**0.5 for rows in (width, FEATURES))
            norm = torch.linalg.matrix_norm(way(square, rest).double(), 2)
            found.setdefault(name, {})[f"{scale:g}"] = float(norm.max()) - 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--turns", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for width in asked.widths:
        parts = {"constrain": constrain(width, asked.turns), "step": step(width, asked.turns), "drift": drift(width)}
        for name in WAYS:
            rows.append({"width": width, "way": name} | {part: table[name] for part, table in parts.items()})
            print(rows[-1], flush=True)
    machine = {"processor": processor(), "cores": os.cpu_count(), "threads": 1}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    head = {"name": "parametrisations", "remake": "python experiments/parametrisations.py"}
    write_json(RESULTS, head | {"machine": machine, "versions": versions, "rows": rows})


if __name__ == "__main__":
    main()
