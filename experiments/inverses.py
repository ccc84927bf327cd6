"""Remake results/inverses/: what the inverse of trained flows costs with each solver, and whether its stated errors hold.

    python experiments/inverses.py                       all of it (about an hour on one core)
    python experiments/inverses.py digits-sandwich-0.97  some of it
    python experiments/inverses.py --seeds 0             one seed

Each file is one data set, family and Lipschitz bound. Flows of 8 blocks are trained, data are encoded, and the latents inverted
block by block. Per row of data, summed over the blocks: branch evaluations (Jacobian products included) until the certified error
is at most ``tol``, and until the true error of the certified step is at most ``tol``, against a reference of 1e-13; the process
time of one thread, best of three, interleaved. A bound is violated if the true error exceeds it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import iresnet
from iresnet.files import write_json
from iresnet.numerics.affine import POINTS
from iresnet.numerics.fixed_point import Solver
from iresnet.numerics.noise import Noise

RESULTS = Path(__file__).resolve().parent.parent / "results" / "inverses"
TOL, ROWS, CHECKED = 1e-6, 1000, 10_000
# Training steps on each of the data sets.
DATA = {"checkerboard": 1000, "digits": 600, "wide": 200}
CASES = [
    f"{name}-{family}-{bound}"
    for name, bounds in (("digits", (0.97, 0.99, 0.999)), ("checkerboard", (0.97, 0.99, 0.999)), ("wide", (0.97,)))
    for bound in bounds
    for family in ("sandwich", "gram")
]
Block = tuple[Any, Tensor, Tensor]  # a bound branch g, y (B, d) and x (B, d) with x + g(x) = y


def solvers(tol: float) -> dict[str, Solver]:
    return {
        "Picard": iresnet.Picard(tol=tol),
        "Anderson, plain": iresnet.Anderson(tol=tol, precondition=False),
        "Anderson, memory 2": iresnet.Anderson(tol=tol, memory=2),
        "Anderson, memory 3": iresnet.Anderson(tol=tol, memory=3),
        "Anderson": iresnet.Anderson(tol=tol),
        "NewtonKrylov": iresnet.NewtonKrylov(tol=tol),
        "NewtonKrylov, 4 products": iresnet.NewtonKrylov(tol=tol, products=4),
    }


def data(name: str, seed: int) -> Tensor:
    """Rows (N, d): 2 columns of a checkerboard, the 64 of the digits, or 256 that are smooth functions of 16 normal ones."""
    if name == "wide":
        noise = Noise(seed, torch.arange(4000))
        mix = torch.randn(16, 256, generator=torch.Generator().manual_seed(seed))
        hidden = noise.normals(torch.empty(4000, 16))
        return torch.tanh(hidden @ mix / 2) + 0.3 * noise.at(1).normals(torch.empty(4000, 256))
    train = iresnet.data.load(name, seed=seed).train
    noisy = train.values + (Noise(seed, train.rows).uniforms(train.values) if name == "digits" else 0)
    return noisy.float()


def blocks(flow: iresnet.Flow, x: Tensor) -> list[Block]:
    """The residual blocks of the flow with what goes into and comes out of each."""
    found = []
    with torch.no_grad():
        for part in flow.bind().transform.parts:  # type: ignore[attr-defined]
            y = part.forward(x)
            if hasattr(part, "bound"):
                found.append((part.bound, y, x))
            x = y
    return found


def certified(problems: Sequence[Block], repeats: int = 3) -> dict[str, dict[str, float]]:
    """Evaluations until the error is certified, and milliseconds, of each solver."""
    counts: dict[str, list[Tensor]] = {name: [] for name in solvers(TOL)}
    seconds: dict[str, list[float]] = {name: [0.0] * repeats for name in counts}
    for function, y, _ in problems:
        for repeat in range(repeats):
            for name, solver in solvers(TOL).items():
                began = time.process_time()
                solution = solver(function, y.double())
                seconds[name][repeat] += time.process_time() - began
                if repeat == 0:
                    counts[name].append(solution.check(name).steps.double())
    share = {name: 0.0 if name in ("Picard", "Anderson, plain") else POINTS / ROWS * len(problems) for name in counts}
    return {
        name: {
            "evaluations": float(torch.stack(found).sum(0).mean()) + share[name],
            "most": float(torch.stack(found).sum(0).max()) + share[name],
            "ms": 1e3 * min(seconds[name]),
        }
        for name, found in counts.items()
    }


def to_true_error(problems: Sequence[Block], goal: float = TOL) -> dict[str, float]:
    """Evaluations until the true error is below ``goal``: the loosest tolerance that gives it in every row decides."""
    totals = dict.fromkeys(solvers(TOL), 0.0)
    for function, y, _ in problems:
        wide, y = function.to(torch.float64), y.double()
        truth = iresnet.Anderson(tol=1e-13, max_steps=20_000)(wide, y).value
        for name in totals:
            first = torch.full((len(y),), torch.inf, dtype=torch.float64)
            for tol in (10.0 ** (-0.5 * power) for power in range(4, 15)):
                solution = solvers(tol)[name](wide, y)
                good = (solution.value - truth).norm(dim=1) <= goal
                first = torch.where(good, torch.minimum(first, solution.steps.double()), first)
            totals[name] += float(first.mean())
    return totals


def violations(flow: iresnet.Flow, x: Tensor) -> dict[str, dict[str, float]]:
    """Of 10,000 rows through all blocks, in both precisions: how many errors exceed their bound, and how much of it is used."""
    found: dict[str, dict[str, float]] = {}
    for dtype in (torch.float32, torch.float64):
        for function, y, _ in blocks(flow.to(dtype), x.to(dtype)):
            wide = function.to(torch.float64)
            truth = iresnet.Anderson(tol=1e-12, max_steps=20_000)(wide, y.double())
            for name in ("Picard", "Anderson", "NewtonKrylov"):
                solution = solvers(TOL)[name](function, y)
                error = (solution.value.double() - truth.value).norm(dim=1)
                bound = solution.error_bound.double()
                told = found.setdefault(
                    f"{name}, {str(dtype)[6:]}", {"checked": 0, "violated": 0, "refused": 0, "worst_share": 0.0}
                )
                told["checked"] += len(y)
                told["violated"] += int((error > bound + truth.error_bound).sum())
                told["refused"] += int((~solution.converged).sum())
                told["worst_share"] = max(told["worst_share"], float((error / bound).max()))
    return found


def claim(problems: Sequence[Block]) -> dict[str, Any]:
    """The papers' "5 to 10 iterations": the error that plain steps leave after 5, 10 and 20, and how many reach 1e-2 to 1e-6."""
    worst, mean, steps = {}, {}, {}
    errors = []
    for function, y, _ in problems:
        wide, x = function.to(torch.float64), y.double()
        truth = iresnet.Anderson(tol=1e-13, max_steps=20_000)(wide, x).value
        errors.append([])
        with torch.no_grad():
            for _ in range(60):
                x = y.double() - wide(x)
                errors[-1].append((x - truth).norm(dim=1))
    table = torch.stack([torch.stack(block) for block in errors])  # (blocks, steps, rows)
    for count in (5, 10, 20):
        worst[count], mean[count] = float(table[:, count - 1].max()), float(table[:, count - 1].mean())
    for goal in (1e-2, 1e-3, 1e-4, 1e-6):
        steps[f"{goal:g}"] = float(((table > goal).sum(1) + 1).double().mean())
    return {"worst_error_after": worst, "mean_error_after": mean, "mean_steps_to": steps}


def run(case: str, seed: int) -> dict[str, Any]:
    name, family, bound = case.rsplit("-", 2)
    x = data(name, seed)
    torch.manual_seed(seed)
    flow = iresnet.dense_flow(x.shape[1], family=family, lipschitz=float(bound))
    iresnet.fit(flow, x, steps=DATA[name], batch_size=256, seed=seed)
    flow.eval()
    rows = x.repeat(-(-CHECKED // len(x)), 1)[:CHECKED]
    rows = rows + 0.01 * Noise(seed, torch.arange(CHECKED)).at(2).normals(rows)  # no row twice
    told: dict[str, Any] = {"seed": seed, "columns": x.shape[1], "steps": DATA[name]}
    for dtype in (torch.float32, torch.float64):
        told[f"certified, {str(dtype)[6:]}"] = certified(blocks(flow.to(dtype), rows[:ROWS].to(dtype)))
    wide = blocks(flow.double(), rows[:200].double())
    told["to_true_error"] = to_true_error(wide)
    told["claim"] = claim(wide)
    told["bounds"] = violations(flow, rows)
    return told


def ratios(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many times fewer evaluations, and how many times less time, than Picard; mean over the seeds."""
    found: dict[str, Any] = {}
    for name in solvers(TOL):
        pairs = [(run["certified, float64"]["Picard"], run["certified, float64"][name]) for run in runs]
        true = [run["to_true_error"]["Picard"] / run["to_true_error"][name] for run in runs]
        found[name] = {
            "certified": statistics.fmean(plain["evaluations"] / other["evaluations"] for plain, other in pairs),
            "true_error": statistics.fmean(true),
            "time": statistics.fmean(plain["ms"] / other["ms"] for plain, other in pairs),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"some of {', '.join(CASES)}; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    if unknown := set(given.cases) - set(CASES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(CASES)}")
    torch.set_num_threads(1)
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": 1}
    for case in given.cases or CASES:
        path = RESULTS / f"{case}.json"
        known = json.loads(path.read_text()) if path.exists() else {"runs": []}
        runs = {run["seed"]: run for run in known["runs"]}
        for seed in given.seeds:
            if seed not in runs:
                runs[seed] = run(case, seed)
        ordered = [runs[seed] for seed in sorted(runs)]
        content = {
            "name": case,
            "remake": f"python experiments/inverses.py {case}",
            "torch": torch.__version__,
            "machine": machine,
        }
        write_json(path, content | {"tol": TOL, "ratios": ratios(ordered), "runs": ordered})
        print(case, json.dumps(ratios(ordered)), flush=True)


if __name__ == "__main__":
    main()
