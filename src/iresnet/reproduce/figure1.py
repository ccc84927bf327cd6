"""Figure 1 of the i-ResNet paper: paths of points through an ordinary and through an invertible ResNet of one dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..contract.branches import DenseBranch, dense_branch
from ..settings import Settings
from .base import I_RESNET, Bar, Cell, Picture, Record, Reproduction, Table
from .telling import mean_and_spread

__all__ = ["REPRODUCTION", "Figure1", "states"]

_KINDS = {"ordinary": ("free", "ordinary ResNet"), "invertible": ("gram", "i-ResNet")}
_GRID = 2001  # starting points on [-2, 2] at which folds are looked for
_DRAWN = 51  # of them are drawn


@dataclass(frozen=True)
class Figure1:
    """``blocks`` residual branches of ``hidden`` units; noisy x^3 is asked for after half of them, noisy x after all."""

    blocks: int = 10
    hidden: tuple[int, ...] = (32, 32)
    lipschitz: float = 0.97
    points: int = 50
    noise: float = 0.8
    steps: int = 1000
    lr: float = 5e-3
    seeds: int = 3


def states(branches: nn.ModuleList, x: Tensor) -> Tensor:
    """The points x (B, 1) before each block and after the last: (blocks + 1, B)."""
    found = [x]
    for branch in branches:
        found.append(found[-1] + branch.bind()(found[-1]))  # type: ignore[operator]
    return torch.stack(found)[..., 0]


def _train(family: str, setting: Figure1, seed: int, advance: Any) -> tuple[nn.ModuleList, float, tuple[Tensor, Tensor]]:
    """The blocks, the root mean square distance from the noisy points that they were asked for, and the last of these."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x = torch.linspace(-2, 2, setting.points)[:, None]
        middle, end = (target + setting.noise * torch.randn_like(x) for target in (x**3, x))
        branches = nn.ModuleList(
            dense_branch(family, 1, setting.hidden, setting.lipschitz, "elu", 0) for _ in range(setting.blocks)
        )
        for branch in branches:  # as an ordinary ResNet starts, not as the identity: the same weights in both
            for weight, bias in zip(branch.weights, branch.biases, strict=True):  # type: ignore[arg-type]
                nn.init.kaiming_uniform_(weight, math.sqrt(5))
                nn.init.uniform_(bias, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
    settings = Settings(steps=setting.steps, lr=setting.lr)
    optimizer, loss = settings.build_optimizer(branches.parameters()), torch.zeros(())
    for step in range(setting.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(step)
        passed = states(branches, x)
        loss = (passed[setting.blocks // 2] - middle[:, 0]).square().mean() + (passed[-1] - end[:, 0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(branches.parameters(), settings.clip)
        optimizer.step()
        advance(1)
    return branches, float((loss.detach() / 2).sqrt()), (x[:, 0], end[:, 0])


def _measure_one(kind: str, setting: Figure1, seed: int, record: Record, advance: Any) -> Cell:
    branches, error, points = _train(_KINDS[kind][0], setting, seed, advance)
    x = torch.linspace(-2, 2, _GRID, dtype=torch.float64)[:, None]
    with torch.no_grad():
        passed = states(branches.double(), x)
        bounds = [branch.bind().lipschitz for branch in branches if isinstance(branch, DenseBranch)]
    gaps = passed.diff(dim=1)  # the order of neighbouring points, at every depth
    turned = torch.nn.functional.pad(gaps < 0, (0, 1))  # this point has passed its neighbour
    if seed == 0:
        kept = {"start": x[:, 0], "paths": passed, "turned": turned, "points": points[0], "asked": points[1]}
        record.keep(f"{kind}/0", **{name: values.numpy() for name, values in kept.items()})
    # Outputs between the smallest and the largest that more than one point of the grid is mapped past.
    ends = passed[-1]
    levels = torch.linspace(float(ends.min()), float(ends.max()), 1001, dtype=ends.dtype)[1:-1]
    crossings = ((ends[None, :-1] - levels[:, None]) * (ends[None, 1:] - levels[:, None]) < 0).sum(1)
    return {
        "rms": error,
        "folded": float((gaps < 0).any(0).double().mean()),
        "ambiguous": float((crossings > 1).double().mean()),
        "smallest_slope": float(gaps.min()) / (4 / (_GRID - 1)),
        "largest_bound": max(bounds),
        "guaranteed": max(bounds) < 1,
    }


def measure(setting: Figure1, record: Record, bar: Bar) -> None:
    """Both networks, for every seed."""
    with bar("two networks", 2 * setting.seeds * setting.steps) as advance:
        for seed in range(setting.seeds):
            for kind in _KINDS:
                record.cell(f"{kind}/{seed}", lambda kind=kind, seed=seed: _measure_one(kind, setting, seed, record, advance))


def draw(record: Record) -> list[Picture]:
    """Of the first seed: paths above, and below what comes out of what goes in."""
    import matplotlib as mpl

    from ..pictures.canvas import DATA, NOTE, new_figure, save

    blocks = record.arguments["blocks"]
    with new_figure(2, 2, size=4.0) as (figure, axes):
        for column, (kind, (_, name)) in enumerate(_KINDS.items()):
            kept, (above, below) = record.kept(f"{kind}/0"), axes[:, column]
            start, paths, turned = kept["start"], kept["paths"], kept["turned"]
            some = slice(None, None, (len(start) - 1) // (_DRAWN - 1))
            for place, path in enumerate(paths.T[some]):
                above.plot(path, color=mpl.colormaps["coolwarm"](place / (_DRAWN - 1)), linewidth=0.8)
            depth, place = np.nonzero(turned[:, some])
            above.scatter(depth, paths[:, some][depth, place], s=16, c="black", zorder=3, linewidths=0)
            above.axvline(blocks // 2, color=NOTE, linewidth=0.8, linestyle=":")
            above.set(title=name, xlabel="depth (blocks)", xlim=(0, blocks), xticks=[0, blocks // 2, blocks], ylim=(-9, 9))
            below.scatter(kept["points"], kept["asked"], s=12, c=DATA, alpha=0.6, linewidths=0)
            below.plot(start, paths[-1], color="black", linewidth=1.6)
            below.set(xlabel="what goes in", xlim=(-2, 2), ylim=(-4, 4))
        axes[0, 0].set_ylabel("value")
        axes[1, 0].set_ylabel("what comes out")
        save(figure, record.path / "figure1.png")
    told = (
        f"Above, paths of {_DRAWN} points of [-2, 2], coloured by where they start, and black where they have changed places "
        "with their neighbours. After half of the blocks (dotted) noisy x³ is asked for, after all of them noisy x. Below, "
        "the whole map and the points that it was asked for."
    )
    return [Picture("figure1.png", told)]


def tables(record: Record) -> list[Table]:
    """What the paths do, over all seeds."""
    header = ("network", "distance from what was asked, rms", "of [-2, 2] folded over at some depth, %", "smallest slope")
    header = (*header, "outputs of more than one input, %", "bijection for certain")
    rows = []
    for kind, (_, name) in _KINDS.items():
        cells = record.under(kind)
        slope = min(cell["smallest_slope"] for cell in cells)
        told = [
            name,
            mean_and_spread([cell["rms"] for cell in cells]),
            mean_and_spread([100 * cell["folded"] for cell in cells]),
            f"{slope:.2g}",
            mean_and_spread([100 * cell["ambiguous"] for cell in cells]),
            "yes" if all(cell["guaranteed"] for cell in cells) else "no",
        ]
        rows.append(told)
    return [Table("Crossing and folding", header, rows)]


def findings(record: Record) -> list[str]:
    """The claim, by the numbers."""
    ordinary, invertible = ([cell["folded"] for cell in record.under(kind)] for kind in _KINDS)
    crossed, kept = sum(share > 0 for share in ordinary), sum(share == 0 for share in invertible)
    told = (
        f"Paths cross in {crossed} of {len(ordinary)} ordinary ResNets, and in {len(invertible) - kept} of {len(invertible)} "
        "i-ResNets"
    )
    return [f"{told}, whose largest block bound is {max(cell['largest_bound'] for cell in record.under('invertible')):.3f}."]


REPRODUCTION = Reproduction(
    "Figure 1: paths through an ordinary and an invertible ResNet",
    "Two networks of the same depth and widths start from the same weights and are trained alike to map the interval [-2, 2] "
    "to a noisy x³ at half depth and to a noisy identity at full depth. Since y = x + g(x) is increasing where g contracts, "
    "and so is x + s g(x) for every s in [0, 1], paths drawn as straight lines from block to block cannot meet in an "
    "i-ResNet. In an ordinary one nothing keeps them apart.",
    [I_RESNET("Figure 1")],
    {"tiny": Figure1(), "paper": Figure1(blocks=100, hidden=(64, 64), steps=10_000, lr=2e-3)},
    measure,
    draw,
    tables,
    findings,
    [
        "The paper's figure has no numbers, and does not give the widths, the depth or the noise of its two networks; these "
        "are ours.",
        "A point counts as folded if it has changed places with its neighbour, 2,001 of them on [-2, 2], after some block.",
    ],
)
