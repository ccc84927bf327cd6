"""Which estimator, which solver: both measured on flows that were trained on scikit-learn's digits (64 columns, dequantised).

    python examples/estimators.py [--seeds 0 1 2] [--steps 150] [--threads 1]

prints the tables of docs/estimators.md. The true log-density is that of ``Exact`` in float64.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, median

import torch
from torch import Tensor

import iresnet
from iresnet.numerics.logdet import LogDet
from iresnet.numerics.noise import Noise

ROWS = 1000
DIMENSIONS = (2, 8, 32, 64, 128, 256)
ESTIMATORS = (
    ("PowerSeries(first_trace=False)", iresnet.PowerSeries(first_trace=False)),
    ("PowerSeries()", iresnet.PowerSeries()),
    ("PowerSeries(probes=2)", iresnet.PowerSeries(probes=2)),
    ("PowerSeries(probes=8)", iresnet.PowerSeries(probes=8)),
    ("PowerSeries(terms=5, probes=8)", iresnet.PowerSeries(terms=5, probes=8)),
    ("PowerSeries(terms=10, probes=8)", iresnet.PowerSeries(terms=10, probes=8)),
    ('PowerSeries(terms=2, roulette="adaptive")', iresnet.PowerSeries(terms=2, roulette="adaptive")),
    ('PowerSeries(terms=2, roulette="geometric")', iresnet.PowerSeries(terms=2, roulette="geometric")),
    ("Exact()", iresnet.Exact()),
)
SOLVERS = (
    ("Picard(tol=1e-6)", iresnet.Picard(tol=1e-6)),
    ("Anderson(tol=1e-6)", iresnet.Anderson(tol=1e-6)),
    ("NewtonKrylov(tol=1e-6)", iresnet.NewtonKrylov(tol=1e-6)),
)


@dataclass(frozen=True)
class Row:
    """What a table says of one estimator or solver, for one trained flow; names of the fields are the columns."""

    name: str
    numbers: dict[str, float]


def train(seed: int, steps: int, family: str = "sandwich") -> tuple[iresnet.Flow, Tensor]:
    """A flow trained on the digits, and held-out rows (ROWS, 64), repeated with fresh dequantisation noise to be so many."""
    data = iresnet.data.load("digits", seed=seed)
    x = data.train.values + Noise(seed, data.train.rows).uniforms(data.train.values)
    torch.manual_seed(seed)
    flow = iresnet.dense_flow(64, family=family)
    iresnet.fit(flow, x.float(), steps=steps, batch_size=256, seed=seed)
    held = torch.cat([data.validation.values, data.test.values])
    held = held.repeat(-(-ROWS // len(held)), 1)[:ROWS]
    return flow, (held + Noise(seed, torch.arange(ROWS)).at(1).uniforms(held)).float()


def measure_estimators(flow: iresnet.Flow, x: Tensor, repeats: int = 2) -> list[Row]:
    """Errors against the exact log-density, root mean square over rows and independent probes, in nats per row."""
    rows, found = torch.arange(len(x)), []
    with torch.no_grad():
        truth = flow.double().bind().log_prob(x.double(), logdet=iresnet.Exact())
        bound = flow.float().bind()
        for name, logdet in ESTIMATORS:
            runs = 10 * repeats if isinstance(logdet, iresnet.PowerSeries) and logdet.roulette else repeats
            errors, seconds, estimate = [], [], None
            whole = replace(logdet, terms=None, tol=1e-7) if truncates(logdet) else None
            for run in range(runs):
                began = time.process_time()
                estimate = bound.estimate(x, logdet=logdet, noise=Noise(run, rows))
                seconds.append(time.process_time() - began)
                errors.append(estimate.value - truth)
            assert estimate is not None
            # With the same probes, all that differs from the whole series is the truncation.
            rest = bound.estimate(x, logdet=whole, noise=Noise(runs - 1, rows)).value if whole else None
            numbers = {
                "error made": rms(torch.stack(errors)),
                "stderr stated": rms(estimate.stderr),
                "bias stated": float(estimate.bias.mean()),
                "bias made": math.nan if rest is None else abs(float((estimate.value - rest).mean())),
                "ms": 1e3 * median(seconds),
            }
            found.append(Row(name, numbers))
    return found


def measure_solvers(flow: iresnet.Flow, x: Tensor) -> list[Row]:
    """Branch evaluations for each row over the whole flow, the error that was made and the worst bound of a block."""
    found = []
    with torch.no_grad():
        bound = flow.bind()
        z = bound.encode(x)
        for name, solver in SOLVERS:
            began = time.process_time()
            solution = bound.invert(z, solver=solver)
            numbers = {
                "evaluations": float(solution.steps.double().mean()),
                "most": float(solution.steps.max()),
                "block bound": float(solution.block_bounds.max()),
                "backward error": float(solution.backward_error.max()),
                "ms": 1e3 * (time.process_time() - began),
            }
            found.append(Row(name, numbers))
    return found


def measure_dimensions(dimensions: Sequence[int], batch: int = 128) -> list[Row]:
    """Milliseconds of a training step's loss with its gradient, and of an evaluation, by the number of columns."""
    found = []
    for size in dimensions:
        torch.manual_seed(0)
        flow = iresnet.dense_flow(size)
        for name, parameter in flow.named_parameters():
            if name.endswith("gain"):  # a new branch is zero, and zero is too easy
                torch.nn.init.uniform_(parameter, -1.5, 1.5)
        x = torch.randn(batch, size)

        def step(logdet: LogDet, flow: iresnet.Flow = flow, x: Tensor = x) -> None:
            flow.zero_grad()
            flow.train().log_prob(x, logdet=logdet, noise=Noise.fresh(len(x))).sum().backward()

        def evaluate(logdet: LogDet, flow: iresnet.Flow = flow, x: Tensor = x) -> None:
            with torch.no_grad():
                flow.eval().log_prob(x, logdet=logdet, noise=Noise(0, torch.arange(len(x))))

        series, several = iresnet.PowerSeries(terms=2, roulette="adaptive"), iresnet.PowerSeries(probes=8)
        numbers = {
            "train Exact": clock(lambda step=step: step(iresnet.Exact())),
            "train series": clock(lambda step=step, series=series: step(series), 15),
            "evaluate Exact": clock(lambda evaluate=evaluate: evaluate(iresnet.Exact())),
            "evaluate series": clock(lambda evaluate=evaluate, several=several: evaluate(several)),
        }
        found.append(Row(str(size), numbers))
    return found


def clock(work: Callable[[], None], repeats: int = 5) -> float:
    """Median milliseconds of ``work``, after one run to warm up; fewer repeats where they take more than a second."""
    work()
    seconds: list[float] = []
    while len(seconds) < repeats and sum(seconds) < 1:
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return 1e3 * median(seconds)


def truncates(logdet: LogDet) -> bool:
    """Whether the estimator stops at a number of terms, so that something systematic is missing."""
    return isinstance(logdet, iresnet.PowerSeries) and logdet.roulette is None


def rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def table(title: str, tables: Sequence[Sequence[Row]]) -> str:
    """Markdown: the mean over tables (one for each seed), with least and most where they differ by more than a tenth."""
    columns = list(tables[0][0].numbers)
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for rows in zip(*tables, strict=True):
        cells = [cell([row.numbers[column] for row in rows]) for column in columns]
        lines.append(f"| `{rows[0].name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    low, high = min(values), max(values)
    if any(value != value for value in values):
        return "–"
    if 0 < high < 1e-6:
        return "< 1e-6"
    shown = f"{mean(values):.2g}" if abs(mean(values)) < 10 else f"{mean(values):.0f}"
    return shown if high - low <= 0.1 * abs(high) else f"{shown} ({low:.2g} to {high:.2g})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Which estimator and which solver, measured on flows trained on the digits.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    torch.set_num_threads(asked.threads)
    began = time.perf_counter()
    print(f"{platform.machine()}, {os.cpu_count()} cores, {asked.threads} thread(s), torch {torch.__version__}, float32")
    trained = [train(seed, asked.steps) for seed in asked.seeds]
    print(f"digits, 64 columns, 8 blocks, {asked.steps} steps, seeds {asked.seeds}; {ROWS} held-out rows\n")
    print(table("estimator", [measure_estimators(flow, x) for flow, x in trained]), end="\n\n")
    print(table("solver, sandwich", [measure_solvers(flow, x) for flow, x in trained]), end="\n\n")
    print(table("solver, gram", [measure_solvers(*train(asked.seeds[0], asked.steps, "gram"))]), end="\n\n")
    print(table("columns", [measure_dimensions(DIMENSIONS)]), end="\n\n")
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
