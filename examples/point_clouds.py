"""Clouds of points on surfaces: a density of sets that generates, scores and classifies them.

    python examples/point_clouds.py [--small] [--attention] [--steps N] [--seed 0] [--out FOLDER]

Each cloud is points sampled from a sphere, a torus or an ellipsoid, turned at random, of random size, with noise. One flow,
conditional on the class, learns the density of whole clouds, which does not depend on the order of the points. Bayes' rule makes
it a classifier: no single point tells the class, only all together do.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import iresnet
from iresnet.models import point_flow
from iresnet.numerics.noise import Noise

SURFACES = ("sphere", "torus", "ellipsoid")
_NOISE = 0.05  # a surface has no volume: its density is finite only with some noise


def clouds(count: int, points: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clouds (count, points, 3) and their classes (count,), of sizes between 0.8 and 1.2, turned at random."""
    random = np.random.default_rng(seed)
    kind = random.integers(len(SURFACES), size=count)
    direction = random.normal(size=(count, points, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    around, tube = random.uniform(0, 2 * np.pi, (2, count, points))
    radius = 0.8 + 0.3 * np.cos(tube)
    torus = np.stack((radius * np.cos(around), radius * np.sin(around), 0.3 * np.sin(tube)), -1)
    shapes = np.stack((direction, torus, direction * np.array([1.3, 0.8, 0.5])))
    turn = np.linalg.qr(random.normal(size=(count, 3, 3))).Q * random.uniform(0.8, 1.2, (count, 1, 1))
    x = shapes[kind, np.arange(count)] @ turn + _NOISE * random.normal(size=(count, points, 3))
    return torch.from_numpy(x).float(), torch.from_numpy(kind)


def indicators(kind: Tensor) -> Tensor:
    """The classes as the flow's context (B, 3)."""
    return torch.nn.functional.one_hot(kind, len(SURFACES)).float()


def normals(x: Tensor, kind: Tensor, new: Tensor, truth: Tensor) -> float:
    """Mean log-density of a cloud by the simplest rival: its points independent, of one normal distribution for each class."""
    total = 0.0
    for k in range(len(SURFACES)):
        known = x[kind == k].flatten(0, 1)
        normal = torch.distributions.MultivariateNormal(known.mean(0), torch.cov(known.mT))
        total += float(normal.log_prob(new[truth == k]).sum())
    return total / len(new)


def rate_error(hits: int, rows: int) -> float:
    """Standard error of a share by the Beta posterior of a flat prior: not zero where all are right."""
    return ((hits + 1) * (rows - hits + 1) / ((rows + 2) ** 2 * (rows + 3))) ** 0.5


def picture(rows: dict[str, Tensor], path: Path) -> None:
    """One cloud of each class in each row."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6 * len(rows)), layout="constrained")
    FigureCanvasSVG(figure)
    for row, (name, table) in enumerate(rows.items()):
        for column, surface in enumerate(SURFACES):
            axes = figure.add_subplot(len(rows), len(SURFACES), len(SURFACES) * row + column + 1, projection="3d")
            axes.scatter(*table[column].numpy().T, s=4)
            axes.set(title=f"{surface}, {name}", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), zlim=(-1.4, 1.4))
            axes.set(xticks=[], yticks=[], zticks=[], box_aspect=(1, 1, 1))
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run it; the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="12 points, a small flow, few steps: under a minute on one core")
    parser.add_argument("--attention", action="store_true", help="a block of self-attention after each block")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("."))
    asked = parser.parse_args(arguments)
    torch.manual_seed(asked.seed)
    points, blocks, hidden, steps, held = (12, 4, (32, 32), 250, 300) if asked.small else (32, 8, (64, 64), 2000, 600)
    steps = asked.steps or steps

    (x, kind), (new, truth) = (clouds(count, points, asked.seed + k) for k, count in enumerate((6000, held)))
    flow = point_flow(3, points, len(SURFACES), blocks, hidden, attention=asked.attention)
    began = time.process_time()
    iresnet.fit(flow, x, indicators(kind), steps=steps, batch_size=128, seed=asked.seed)
    print(f"{len(x)} clouds of {points} points, {steps} steps: {time.process_time() - began:.0f} s of CPU")

    # Scores: the density of every held-out cloud under every class, in nats, with the estimator's own error.
    with torch.no_grad():
        columns = [
            flow.estimate(new, indicators(torch.full_like(truth, k)), noise=Noise(1, torch.arange(held))) for k in range(3)
        ]
    table = torch.stack([one.value for one in columns], 1)
    doubt = torch.stack([torch.hypot(one.stderr, one.bias) for one in columns], 1)
    own = table[torch.arange(held), truth] / points
    told, spread = float(own.mean()), float(own.std() / held**0.5)
    print(f"log p of a held-out cloud of its own class: {told:.3f} ± {spread:.3f} nats a point; ", end="")
    print(f"the log-determinant errs by at most {float(doubt.max()) / points:.1g} nats a point (standard error and bias)")
    alone = normals(x, kind, new, truth) / points
    print(f"independent points of one normal a class: {alone:.3f} nats a point")

    # Bayes' rule with equal priors; a row is certain where its error cannot change the answer.
    best = table.topk(2, 1)
    right = (table.argmax(1) == truth).float()
    share, error = float(right.mean()), rate_error(int(right.sum()), held)
    close = int((best.values[:, 0] - best.values[:, 1] < 3 * doubt.amax(1)).sum())
    print(f"classified by Bayes' rule: {100 * share:.1f} ± {100 * error:.1f} % right; {close} of {held} nearer than 3 errors")

    drawn = flow.sample(3, indicators(torch.arange(3)), generator=torch.Generator().manual_seed(asked.seed))
    asked.out.mkdir(parents=True, exist_ok=True)
    firsts = torch.stack([new[truth == k][0] for k in range(3)])
    picture({"data": firsts, "generated": drawn}, asked.out / "points.svg")
    print(f"generated clouds are in {asked.out / 'points.svg'}")
    return {"nats": told, "normal": alone, "accuracy": share}


if __name__ == "__main__":
    main()
