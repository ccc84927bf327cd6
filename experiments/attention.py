"""Remake results/attention.json: self-attention against convolution on digits, at equal parameters and equal time.

    python experiments/attention.py                      all runs that the file does not hold (about 22 minutes of one core)
    python experiments/attention.py --only "attention of 8 rows" --seeds 0
    python experiments/attention.py --table              print the table of docs/points.md from the file

scikit-learn's digits, 8 x 8 of 17 levels, the splits of ``iresnet train digits``. Every flow is as many times: one affine map a
pixel (which tells attention where a token stands), and the residual blocks named. Widths are chosen so that parameters come
nearest to those of the first; the budget is processor time of optimiser steps, one thread. The loop is that of ``iresnet
compare``: the best averaged weights by validation rows, and log p of test rows exact.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from quality import processor
from torch import Tensor

import iresnet
from iresnet.bases import StudentT
from iresnet.bijections import ActNorm, Bijection, Chain, Flatten, Residual, Squeeze, Unflatten, Unsqueeze, Whiten
from iresnet.bijections.reshape import Rearrangement
from iresnet.compare.domain import Domain
from iresnet.compare.own import Own
from iresnet.compare.training import Budget, settings_for, train
from iresnet.config import build_config
from iresnet.contract import AttentionBranch, Branch, SandwichConvBranch
from iresnet.files import write_json
from iresnet.flow import Flow
from iresnet.numerics.series import PowerSeries
from iresnet.runs.folder import load_dataset, rows_of
from iresnet.tasks.density import evaluate

RESULTS = Path(__file__).resolve().parent.parent / "results" / "attention.json"
BLOCKS, LIPSCHITZ, WIDTH = 8, 0.97, 24  # hidden channels of the convolutions that set the number of parameters
HEADS, BATCH = 4, 128


class Tokens(Bijection):
    """(B, C, H, W) to tokens (B, N, d): places, each with its channels, or rows, each with all that stands in it."""

    def __init__(self, shape: tuple[int, int, int], rows: bool = False) -> None:
        super().__init__()
        self.shape, self.rows = shape, rows

    def bind(self, context: Tensor | None = None) -> Rearrangement:
        channels, height, width = self.shape
        if self.rows:
            return Rearrangement(
                lambda x: x.transpose(1, 2).flatten(2),
                lambda t: t.unflatten(2, (channels, width)).transpose(1, 2).contiguous(),
            )
        return Rearrangement(lambda x: x.flatten(2).mT, lambda t: t.mT.unflatten(2, (height, width)).contiguous())


class Untokens(Tokens):
    """The inverse of :class:`Tokens`."""

    def bind(self, context: Tensor | None = None) -> Rearrangement:
        one = super().bind()
        return Rearrangement(one.back, one.there)


IMAGE, SQUEEZED, ROWS = (1, 8, 8), (4, 4, 4), (8, 8, 1)  # a row as the 8 channels of one of 8 places


def attention(shape: tuple[int, int, int], rows: bool = False) -> list[Bijection]:
    """A block of self-attention on an image of that shape."""
    channels, height, width = shape
    count, features = (height, channels * width) if rows else (height * width, channels)
    branch = AttentionBranch(features, count, HEADS, features, LIPSCHITZ)  # a query wider than its token says no more
    return [Tokens(shape, rows), Residual(branch), Untokens(shape, rows)]


def convolution(shape: tuple[int, int, int], hidden: int, taps: int = 3) -> list[Bijection]:
    """A block of convolutions; with one tap it acts on each place alone."""
    return [Residual(SandwichConvBranch(shape, (hidden, hidden), LIPSCHITZ, "elu", taps=taps))]


def on_rows(parts: list[Bijection]) -> list[Bijection]:
    """Parts that see each row of 8 pixels as one place with 8 channels."""
    return [Tokens((1, 8, 8), rows=True), Untokens(ROWS), *parts, Tokens(ROWS), Untokens((1, 8, 8), rows=True)]


# Name: the shape that the pixels are given, and the blocks by the width that is to be chosen.
KINDS: dict[str, tuple[tuple[int, int, int], Callable[[int], list[Bijection]]]] = {
    "convolution on 4 x 4 x 4": (SQUEEZED, lambda h: convolution(SQUEEZED, h)),
    "convolution on 8 x 8": (IMAGE, lambda h: convolution(IMAGE, h)),
    "attention of 16 patches": (SQUEEZED, lambda h: [*attention(SQUEEZED), *convolution(SQUEEZED, h, taps=1)]),
    "attention of 8 rows": (IMAGE, lambda h: [*attention(IMAGE, rows=True), *on_rows(convolution(ROWS, h, taps=1))]),
    "both on 4 x 4 x 4": (SQUEEZED, lambda h: [*attention(SQUEEZED), *convolution(SQUEEZED, h)]),
    "neither: each patch alone": (SQUEEZED, lambda h: convolution(SQUEEZED, h, taps=1)),
    "neither: each row alone": (IMAGE, lambda h: on_rows(convolution(ROWS, h, taps=1))),
}
# These also after full-covariance whitening, as a table's flow begins; its factor is triangular, so a number stays at its pixel.
WHITENED = ("convolution on 4 x 4 x 4", "attention of 16 patches")


def build(kind: str, hidden: int, whiten: bool) -> Flow:
    """The flow of that kind for rows of 64 pixels."""
    shape, blocks = KINDS[kind]
    parts: list[Bijection] = [Whiten(64)] if whiten else []
    inside: list[Bijection] = [Squeeze()] if shape == SQUEEZED else []
    outside: list[Bijection] = [Unsqueeze()] if shape == SQUEEZED else []
    for _ in range(BLOCKS):
        parts += [ActNorm(64), Unflatten(IMAGE), *inside, *blocks(hidden), *outside, Flatten(IMAGE)]
    return Flow(
        Chain([*parts, ActNorm(64)]),
        StudentT(64),
        train_logdet=PowerSeries(terms=2, roulette="adaptive"),
        eval_logdet=iresnet.Exact(),
    )


def parameters(flow: Flow) -> int:
    return sum(one.numel() for one in flow.parameters())


def width_for(kind: str, whiten: bool, wanted: int) -> int:
    """The hidden width whose number of parameters is nearest."""
    return min(range(4, 129), key=lambda hidden: abs(parameters(build(kind, hidden, whiten)) - wanted))


def use(flow: Flow, x: Tensor, kinds: type[Branch]) -> float:
    """How much of its bound the branch of such a block uses: the median over blocks of what certify measures."""
    names = {f"{name}" for name, part in flow.named_modules() if isinstance(part, Residual) and isinstance(part.branch, kinds)}
    found = [one.measured for one in iresnet.certify(flow, x).blocks if f"bijection.parts.{one.name}" in names]
    return statistics.median(found) if found else math.nan


def run(kind: str, seed: int, seconds: float, whiten: bool, hidden: int) -> dict[str, Any]:
    """One run: log p of test rows in nats, its errors, and what it took."""
    dataset = load_dataset(build_config(options={"data.name": "digits", "seed": seed}))
    rows, validation, test = (rows_of(dataset, split) for split in ("train", "validation", "test"))
    torch.manual_seed(seed)
    domain = Domain.of(dataset)
    flow = build(kind, hidden, whiten)
    settings = replace(settings_for("iresnet", domain, seed), batch_size=BATCH)
    fitted = train(Own(flow, domain), rows, validation, Budget(seconds, "cpu"), settings)
    figure, values = evaluate(flow.double(), test, seed=seed)
    x = test.all(torch.zeros((), dtype=torch.float64)).x
    used = {"attention": use(flow, x, AttentionBranch), "convolution": use(flow, x, SandwichConvBranch)}
    used = {name: value for name, value in used.items() if math.isfinite(value)}
    return {
        "kind": kind,
        "whitened": whiten,
        "seed": seed,
        "hidden": hidden,
        "parameters": parameters(flow),
        "steps": fitted.steps,
        "seconds": fitted.processor_seconds,
        "log_prob": figure.value,
        "stderr_data": figure.stderr_data,
        "bits_per_dim": -figure.value / 64 / math.log(2),
        "measured": used,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Mean over seeds and their range, in the order of this file."""
    lines = ["| blocks | pixels | parameters | steps | log p, nats | bits/dim | bound used |", "|---|---|---|---|---|---|---|"]
    for whitened, kind in ((whitened, kind) for whitened in (False, True) for kind in KINDS):
        some = [row for row in rows if (row["kind"], row["whitened"]) == (kind, whitened)]
        if not some:
            continue
        values = [row["log_prob"] for row in some]
        told = f"{statistics.fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
        used = {name: statistics.fmean(row["measured"][name] for row in some) / LIPSCHITZ for name in some[0]["measured"]}
        share = ", ".join(f"{100 * value:.0f} %" for value in used.values())
        steps, bits = (statistics.fmean(row[key] for row in some) for key in ("steps", "bits_per_dim"))
        cells = [kind, "whitened" if whitened else "as they are", f"{some[0]['parameters']:,}", f"{steps:.0f}", told]
        lines.append(f"| {' | '.join([*cells, f'{bits:.3f}', share])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=40, help="of optimiser steps, for each run")
    parser.add_argument("--table", action="store_true", help="print the table of the file's runs")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    held: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    rows: list[dict[str, Any]] = held.get("rows", [])
    if asked.table:
        print(table(rows))
        return
    machine = {"processor": processor(), "cores": os.cpu_count(), "threads": 1}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    head = {"name": "attention", "remake": "python experiments/attention.py", "machine": machine, "versions": versions}
    head |= {"blocks": BLOCKS, "lipschitz": LIPSCHITZ, "batch_size": BATCH, "budget_seconds": asked.seconds}
    done = [(row["kind"], row["whitened"], row["seed"]) for row in rows]
    wanted = parameters(build(next(iter(KINDS)), WIDTH, False))
    jobs = [(seed, False, kind) for seed in asked.seeds for kind in asked.only]
    jobs += [(seed, True, kind) for seed in asked.seeds for kind in WHITENED if kind in asked.only]
    for seed, whiten, kind in jobs:
        if (kind, whiten, seed) not in done:
            rows.append(run(kind, seed, asked.seconds, whiten, width_for(kind, whiten, wanted)))
            write_json(asked.out, held | head | {"rows": rows})
            print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
