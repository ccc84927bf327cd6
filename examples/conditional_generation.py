"""Conditional generation: digits drawn by label, and graded by a classifier that has never seen the flow or its data.

    python examples/conditional_generation.py [--small] [--seed 0] [--out FOLDER] [--record RESULTS.json]

One flow learns p(image | label) of scikit-learn's digits; the label is a context of ten indicators. Its draws are graded twice,
by support vector machines:

- agreement: one trained on *other* real images reads the draws. How often does it read the label that was asked for? A flow that
  always drew the same good image would be graded well;
- usefulness: so another one is trained on draws alone and reads real images (Classification Accuracy Score, Ravuri and Vinyals,
  2019, arXiv 1905.10887). Draws without variety, or of blurred classes, teach little.

The baseline is one Gaussian for each label, with its covariance shrunk as Ledoit and Wolf do, which for so few images is strong.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor
from torch.nn.functional import one_hot

import iresnet
from iresnet.files import write_json
from iresnet.numerics.noise import Noise

PIXELS, CLASSES, LEVELS = 64, 10, 17


def read(seed: int) -> tuple[Tensor, Tensor]:
    """Images (1797, 64) in a random order, their 17 levels spread over [0, 17), and labels (1797,)."""
    digits: Any = load_digits()
    random = np.random.default_rng(seed)
    order = random.permutation(len(digits.data))
    x = digits.data[order] + random.uniform(size=digits.data.shape)  # levels are no density: spread them
    return torch.from_numpy(x).float(), torch.from_numpy(digits.target[order]).long()


def levels(x: Tensor) -> np.ndarray:
    """Images as a classifier sees them: whole levels, as real ones have."""
    return x.floor().clamp(0, LEVELS - 1).numpy()


def rate(hits: np.ndarray) -> tuple[float, float]:
    """A share in per cent, with its binomial standard error."""
    share = float(hits.mean())
    return 100 * share, 100 * (share * (1 - share) / len(hits)) ** 0.5


def gaussians(x: Tensor, y: Tensor, asked_for: Tensor, seed: int) -> Tensor:
    """Draws of the baseline, for each label asked for."""
    random, drawn = np.random.default_rng(seed), np.zeros((len(asked_for), PIXELS))
    for label in range(CLASSES):
        found, rows = LedoitWolf().fit(x[y == label].numpy()), np.flatnonzero(asked_for.numpy() == label)
        drawn[rows] = random.multivariate_normal(found.location_, found.covariance_, len(rows), method="cholesky")
    return torch.from_numpy(drawn).float()


def picture(drawn: Tensor, asked_for: Tensor, path: Path) -> None:
    """Eight draws of each label."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.8), layout="constrained")
    FigureCanvasSVG(figure)
    for column in range(CLASSES):
        for row, image in enumerate(drawn[asked_for == column][:8]):
            axes = figure.add_subplot(8, CLASSES, CLASSES * row + column + 1)
            axes.imshow(levels(image).reshape(8, 8), cmap="gray_r", vmin=0, vmax=LEVELS - 1)
            axes.set(xticks=[], yticks=[], title=str(column) if row == 0 else "")
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run it; the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="some seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--record", type=Path, help="write the figures into this JSON file, under this script's name")
    asked = parser.parse_args(arguments)
    images, labels = read(asked.seed)
    x, y, held, held_y = images[:900], labels[:900], images[900:1000], labels[900:1000]
    others, others_y = images[1000:], labels[1000:]  # the grader's own, which the flow never sees
    print(f"digits: {len(x)} to learn from, {len(held)} to choose by, {len(others)} for the grader and as the real ones")

    # The flow is that of differences from the mean image of the label: it need not learn to make ten clusters of one.
    means = torch.stack([x[y == label].mean(0) for label in range(CLASSES)])
    torch.manual_seed(asked.seed)
    flow = iresnet.dense_flow(PIXELS, context=CLASSES, blocks=4)
    steps = 60 if asked.small else 400
    context, known = one_hot(y, CLASSES).float(), one_hot(held_y, CLASSES).float()
    iresnet.fit(
        flow, x - means[y], context, steps=steps, batch_size=256, seed=asked.seed, validation=(held - means[held_y], known)
    )

    count = 500 if asked.small else 2000
    asked_for = torch.arange(count) % CLASSES
    noise = Noise(asked.seed, torch.arange(count))
    draws = {
        "flow": means[asked_for] + flow.sample(count, one_hot(asked_for, CLASSES).float(), noise=noise),
        "Gaussian for each label": gaussians(x, y, asked_for, asked.seed),
    }

    grader = SVC().fit(levels(others[:500]), others_y[:500])
    real = rate(grader.predict(levels(others[500:])) == others_y[500:].numpy())
    taught = rate(SVC().fit(levels(x), y).predict(levels(others)) == others_y.numpy())
    figures: dict[str, float] = {"draws": count, "agreement real": real[0], "agreement real_stderr": real[1]}
    figures |= {"usefulness real": taught[0], "usefulness real_stderr": taught[1]}
    print("label read as asked for by a classifier of other images; real images read by one taught by draws alone")
    print(f"  {real[0]:.1f} ± {real[1]:.1f} %  {taught[0]:.1f} ± {taught[1]:.1f} %  real images")
    for method, drawn in draws.items():
        agreement = rate(grader.predict(levels(drawn)) == asked_for.numpy())
        useful = rate(SVC().fit(levels(drawn), asked_for).predict(levels(others)) == others_y.numpy())
        print(f"  {agreement[0]:.1f} ± {agreement[1]:.1f} %  {useful[0]:.1f} ± {useful[1]:.1f} %  {method}")
        figures |= {f"agreement {method}": agreement[0], f"agreement {method}_stderr": agreement[1]}
        figures |= {f"usefulness {method}": useful[0], f"usefulness {method}_stderr": useful[1]}
    asked.out.mkdir(parents=True, exist_ok=True)
    picture(draws["flow"], asked_for, asked.out / "conditional_generation.svg")
    print(f"eight draws of each label are in {asked.out / 'conditional_generation.svg'}")
    if asked.record:
        known_figures = json.loads(asked.record.read_text(encoding="utf-8")) if asked.record.exists() else {}
        told = {"data": "digits", "seed": asked.seed, "steps": steps} | figures
        write_json(asked.record, known_figures | {"conditional_generation": told})
    return figures


if __name__ == "__main__":
    main()
