"""What ours costs, against dimension, width, depth, batch and Lipschitz bound: milliseconds for a whole batch.

One axis at a time, from 16 columns, 8 sandwich blocks of 64 x 64 hidden units, c = 0.97, 512 rows. Gains are drawn so that
branches use most of their bound: a new flow, whose branches are zero, would be cheaper than any trained one. The training
step is that of the defaults: exact up to five columns, unbiased by roulette beyond.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

import iresnet

from .harness import Options, Row, interleaved, spread

__all__ = ["AXES", "QUANTITIES", "Point", "rows"]


@dataclass(frozen=True)
class Point:
    """A flow and a batch."""

    columns: int = 16
    width: int = 64
    blocks: int = 8
    batch: int = 512
    lipschitz: float = 0.97


AXES: dict[str, tuple[float, ...]] = {
    "columns": (2, 5, 16, 64, 128),
    "width": (16, 32, 64, 128, 256),
    "blocks": (2, 4, 8, 16, 32),
    "batch": (32, 128, 512, 2048),
    "lipschitz": (0.5, 0.7, 0.9, 0.97, 0.99),
}
QUANTITIES = ("training step", "log_prob, exact", "log_prob, estimated", "inverse to 1e-6")


def tasks(point: Point) -> dict[str, Callable[[], Any]]:
    """The four questions asked of a flow at that point."""
    torch.manual_seed(0)
    flow = iresnet.dense_flow(
        point.columns, blocks=point.blocks, hidden=(point.width, point.width), lipschitz=point.lipschitz, whiten=False
    )
    for part in flow.modules():
        gain = getattr(part, "gain", None)
        if gain is not None:
            torch.nn.init.uniform_(gain, 1.0, 1.5)
    x = torch.randn(point.batch, point.columns)
    flow.initialize(x)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.0)  # the point stays where it is
    z = flow.encode(x).detach()

    def train() -> None:
        flow.train()
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()

    def evaluate(logdet: Any) -> Callable[[], None]:
        def run() -> None:
            with torch.no_grad():
                flow.eval().log_prob(x, logdet=logdet)

        return run

    def invert() -> None:
        flow.eval().invert(z, solver=iresnet.Picard(tol=1e-6))

    return dict(zip(QUANTITIES, (train, evaluate(iresnet.Exact()), evaluate(iresnet.Krylov()), invert), strict=True))


def rows(options: Options) -> list[Row]:
    """One row for each quantity at each point; the points of an axis are measured in turn."""
    options, found = replace(options, seconds=options.seconds / 5), []
    for axis, values in AXES.items():
        named = {}
        for value in values:
            for quantity, task in tasks(replace(Point(), **{axis: value})).items():
                named[f"{value}|{quantity}"] = task
        seconds = interleaved(named, options)
        for value in values:
            for quantity in QUANTITIES:
                figure = asdict(spread(seconds[f"{value}|{quantity}"]).scaled(1e3))
                found.append({"axis": axis, "value": value, "quantity": quantity, "ms": figure})
    return found
