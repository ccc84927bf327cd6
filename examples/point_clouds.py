"""Clouds of points, on surfaces and on pen strokes: a density of sets that generates, scores and classifies them.

    python examples/point_clouds.py [--strokes] [--small] [--attention] [--steps N] [--seed 0] [--out FOLDER] [--record FILE]

Surfaces: points of a sphere, a torus or an ellipsoid, turned at random, of random size, with noise. Strokes: points of MNIST's
digits, drawn from the pixels in proportion to their ink and uniform within a pixel; without MNIST, of scikit-learn's. One flow,
conditional on the class, learns the density of whole clouds, which does not depend on the order of the points. Bayes' rule makes
it a classifier: hardly a single point tells the class, all together do.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import iresnet
from iresnet.data.images import find
from iresnet.errors import UserError
from iresnet.files import write_json
from iresnet.models import point_flow
from iresnet.numerics.noise import Noise

SURFACES = ("sphere", "torus", "ellipsoid")
_NOISE = 0.05  # a surface has no volume: its density is finite only with some noise


@dataclass(frozen=True)
class Clouds:
    """Clouds (N, points, d) to learn from and their classes (N,); others to be told; the names of the classes.

    ``cells`` is the number of pixels along a side where points lie in pixels of the square [-1, 1)^2, else 0.
    """

    names: tuple[str, ...]
    x: Tensor
    kind: Tensor
    new: Tensor
    truth: Tensor
    cells: int = 0

    def indicators(self, kind: Tensor) -> Tensor:
        """Classes (B,) as the flow's context (B, K)."""
        return torch.nn.functional.one_hot(kind, len(self.names)).float()


def surfaces(count: int, held: int, points: int, seed: int) -> Clouds:
    """Three surfaces, of sizes between 0.8 and 1.2."""

    def some(count: int, seed: int) -> tuple[Tensor, Tensor]:
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

    return Clouds(SURFACES, *some(count, seed), *some(held, seed + 1))


def images(random: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test images (N, H, W), each with labels (N,): MNIST from the folder that IRESNET_DATA names, or sklearn's."""
    try:
        source = find("mnist") if os.environ.get("IRESNET_DATA") else None
    except UserError:  # the folder has none
        source = None
    if source is not None:
        splits = source.read(None)
        return [(splits[name].images[:, 0], np.asarray(splits[name].labels, int)) for name in ("train", "test")]
    print("no MNIST: scikit-learn's digits instead")
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = random.permutation(len(digits.images))
    parts = order[len(order) // 5 :], order[: len(order) // 5]
    return [(digits.images[part], digits.target[part]) for part in parts]


def strokes(count: int, held: int, points: int, seed: int) -> Clouds:
    """Ten digits: ``count`` training images and ``held`` test images, each a cloud of its own."""
    random = np.random.default_rng(seed)
    train, test = images(random)

    def some(images: np.ndarray, labels: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
        chosen = random.permutation(len(images))[:count]
        ink, side = images[chosen].reshape(len(chosen), -1).astype(float).cumsum(1), images.shape[-1]
        # The pixel in which the ink so far exceeds a uniform share of all of it.
        share = random.uniform(size=(len(chosen), points)) * ink[:, -1:]
        place = np.stack([np.searchsorted(one, wanted, side="right") for one, wanted in zip(ink, share, strict=True)])
        row, column = place // side + random.uniform(size=place.shape), place % side + random.uniform(size=place.shape)
        x = np.stack((2 * column / side - 1, 1 - 2 * row / side), -1)
        return torch.from_numpy(x).float(), torch.from_numpy(labels[chosen])

    return Clouds(tuple("0123456789"), *some(*train, count), *some(*test, held), cells=train[0].shape[-1])


def normals(data: Clouds) -> Tensor:
    """log p (N, K) of the new clouds under each class by the simplest rival: points independent, of one normal for each class."""
    columns = []
    for k in range(len(data.names)):
        known = data.x[data.kind == k].flatten(0, 1)
        normal = torch.distributions.MultivariateNormal(known.mean(0), torch.cov(known.mT))
        columns.append(normal.log_prob(data.new).sum(1))
    return torch.stack(columns, 1)


def mean_images(data: Clouds) -> Tensor:
    """The same for points in pixels, drawn independently from the mean image of each class; one point more in every pixel."""

    def places(x: Tensor) -> Tensor:
        column, row = ((x + 1) * data.cells / 2).long().clamp(0, data.cells - 1).unbind(-1)
        return row * data.cells + column

    columns = []
    for k in range(len(data.names)):
        found = torch.bincount(places(data.x[data.kind == k]).flatten(), minlength=data.cells**2) + 1.0
        columns.append((found / found.sum() * (data.cells / 2) ** 2).log()[places(data.new)].sum(1))
    return torch.stack(columns, 1)


def grade(data: Clouds, table: Tensor) -> dict[str, float]:
    """Nats a point of the own class, and the share that Bayes' rule with equal priors tells, in per cent; each with its error."""
    rows, points = len(data.new), data.new.shape[1]
    own = table[torch.arange(rows), data.truth] / points
    right = int((table.argmax(1) == data.truth).sum())
    found = {"nats": float(own.mean()), "nats_stderr": float(own.std() / rows**0.5)}
    return found | {"right": 100 * right / rows, "right_stderr": 100 * rate_error(right, rows)}


def rate_error(hits: int, rows: int) -> float:
    """Standard error of a share by the Beta posterior of a flat prior: not zero where all are right."""
    return ((hits + 1) * (rows - hits + 1) / ((rows + 2) ** 2 * (rows + 3))) ** 0.5


def picture(data: Clouds, rows: dict[str, Tensor], path: Path) -> None:
    """One cloud of each class in each row."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    deep, across = data.new.shape[-1] == 3, len(data.names)
    figure = Figure(figsize=(7, 2.6 * len(rows)) if deep else (1.1 * across, 1.25 * len(rows)), layout="constrained")
    FigureCanvasSVG(figure)
    for place, (name, table) in enumerate(rows.items()):
        for column, cloud in enumerate(table):
            where: Any = (len(rows), across, across * place + column + 1)
            axes = figure.add_subplot(*where, projection="3d") if deep else figure.add_subplot(*where, aspect="equal")
            axes.scatter(*cloud.numpy().T, s=4)
            width = 1.4 if deep else 1.0
            axes.set(xlim=(-width, width), ylim=(-width, width), xticks=[], yticks=[])
            if deep:
                axes.set(title=f"{data.names[column]}, {name}", zlim=(-width, width), zticks=[], box_aspect=(1, 1, 1))
            elif column == 0:
                axes.set_ylabel(name)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run it; the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strokes", action="store_true", help="digits instead of surfaces")
    parser.add_argument("--small", action="store_true", help="12 points, a small flow, few steps: under a minute on one core")
    parser.add_argument("--attention", action="store_true", help="a block of self-attention after each block")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--record", type=Path, help="write the figures into this JSON file, under the name of the clouds")
    asked = parser.parse_args(arguments)
    torch.manual_seed(asked.seed)
    points, blocks, hidden, steps, held = (12, 4, (32, 32), 250, 300) if asked.small else (32, 8, (64, 64), 2000, 600)
    steps, make = asked.steps or steps, strokes if asked.strokes else surfaces
    data = make(60_000 if asked.strokes else 6000, held, points, asked.seed)
    classes, rows = len(data.names), len(data.new)

    flow = point_flow(data.x.shape[-1], points, classes, blocks, hidden, attention=asked.attention)
    began = time.process_time()
    iresnet.fit(flow, data.x, data.indicators(data.kind), steps=steps, batch_size=128, seed=asked.seed)
    seconds = time.process_time() - began
    print(f"{len(data.x)} clouds of {points} points, {steps} steps: {seconds:.0f} s of CPU")

    # Scores: the density of every held-out cloud under every class, in nats, with the estimator's own error.
    with torch.no_grad():
        each = [data.indicators(torch.full_like(data.truth, k)) for k in range(classes)]
        columns = [flow.estimate(data.new, one, noise=Noise(1, torch.arange(rows))) for one in each]
    table = torch.stack([one.value for one in columns], 1)
    doubt = torch.stack([torch.hypot(one.stderr, one.bias) for one in columns], 1)
    rivals: dict[str, Callable[[Clouds], Tensor]] = {"one normal a class": normals}
    rivals |= {"mean image of a class": mean_images} if data.cells else {}
    found = {"flow": grade(data, table)} | {name: grade(data, rival(data)) for name, rival in rivals.items()}
    for name, one in found.items():
        told = name if name == "flow" else f"independent points, {name}"
        print(f"log p of a held-out cloud of its own class: {one['nats']:.3f} ± {one['nats_stderr']:.3f} nats a point; ", end="")
        print(f"classified by Bayes' rule: {one['right']:.1f} ± {one['right_stderr']:.1f} % right ({told})")
    # A row is certain where the estimator's error cannot change the answer.
    best = table.topk(2, 1)
    near = int((best.values[:, 0] - best.values[:, 1] < 3 * doubt.amax(1)).sum())
    print(
        f"the log-determinant errs by at most {float(doubt.max()) / points:.1g} nats a point (standard error and bias); ", end=""
    )
    print(f"the answer is nearer than 3 errors for {near} of {rows}")

    generator = torch.Generator().manual_seed(asked.seed)
    shown = {"data": torch.stack([data.new[data.truth == k][0] for k in range(classes)])}
    shown["generated"] = flow.sample(classes, data.indicators(torch.arange(classes)), generator=generator)
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / ("strokes.svg" if asked.strokes else "points.svg")
    picture(data, shown, path)
    print(f"generated clouds are in {path}")
    figures = {"clouds": len(data.x), "points": points, "steps": steps, "seed": asked.seed, "held_out": rows}
    words = [f"--{name}" for name in ("strokes", "small", "attention") if getattr(asked, name)]
    figures |= {"remake": " ".join(["python examples/point_clouds.py", *words, f"--steps {steps} --seed {asked.seed}"])}
    figures |= {"attention": asked.attention, "processor_seconds": seconds, "torch": torch.__version__, "systems": found}
    if asked.record:
        known = json.loads(asked.record.read_text(encoding="utf-8")) if asked.record.exists() else {}
        write_json(asked.record, known | {("strokes" if asked.strokes else "surfaces"): figures})
    return figures


if __name__ == "__main__":
    main()
