"""An invertible feature map whose distances are certified: features that neither merge nor tear apart.

    python examples/feature_map.py [--small] [--seed 0] [--out FOLDER] [--record RESULTS.json]

A residual block with a branch of Lipschitz constant c stretches every distance by a factor between 1 - c and 1 + c: it is
bi-Lipschitz. Of n blocks the factors lie between (1 - c)^n and (1 + c)^n. That is a guarantee for *all* pairs of inputs, seen or
not, and it says something as long as blocks are few and c is small. For a deep network near c = 1 it is sound and says nothing:
8 blocks at 0.97 may shrink a distance by 10^12, whatever they do in fact. So one chooses before training.

Here the map is the body of a classifier of scikit-learn's digits: two blocks at c = 0.5, beside eight at 0.97. All pairs of test
images are compared with the bounds, and the features are inverted back to images, each with a bound of its error.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import cross_entropy, pdist

import iresnet
from iresnet.bases import StandardNormal
from iresnet.bijections import Chain, Residual
from iresnet.classifier import Classifier
from iresnet.contract.branches import dense_branch
from iresnet.files import write_json

PIXELS, CLASSES = 64, 10


def read(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images in [0, 1]^64 and labels, to learn from and to test."""
    digits: Any = load_digits()
    order = np.random.default_rng(seed).permutation(1797)
    x, y = torch.from_numpy(digits.data[order] / 16).float(), torch.from_numpy(digits.target[order]).long()
    return x[:1297], y[:1297], x[1297:], y[1297:]


def feature_map(blocks: int, lipschitz: float) -> iresnet.Flow:
    """Nothing but residual blocks: whitening or ActNorm between them would stretch too, and widen the bounds."""
    branches = [dense_branch("sandwich", PIXELS, (64, 64), lipschitz, "elu", 0) for _ in range(blocks)]
    return iresnet.Flow(Chain([Residual(branch) for branch in branches]), StandardNormal(PIXELS))


def train(network: Classifier, x: Tensor, y: Tensor, steps: int, seed: int) -> None:
    """Cross-entropy of the labels, in the plainest of loops: the constraint is in the weights, whatever moves them."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(x), (128,), generator=generator)
        optimizer.zero_grad()
        cross_entropy(network(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    network.eval()


def rate(wrong: np.ndarray) -> tuple[float, float]:
    """A share in per cent, with its binomial standard error."""
    share = float(wrong.mean())
    return 100 * share, 100 * (share * (1 - share) / len(wrong)) ** 0.5


def stretches(flow: iresnet.Flow, x: Tensor) -> list[tuple[float, float, Tensor]]:
    """For each block, and last for the whole map: certified bounds below and above, and what it does to each pair of x."""
    bounds = [block.bound for block in iresnet.certify(flow, x).blocks]
    found, steps, here = [], [x.double()], flow.bind().to(torch.float64)
    for part in here.transform.parts:  # type: ignore[attr-defined]
        steps.append(part.forward(steps[-1]))
    distances = [pdist(step) for step in steps]
    for bound, before, after in zip(bounds, distances, distances[1:], strict=False):
        found.append((1 - bound, 1 + bound, after / before))
    low, high = (float(np.prod([1 + sign * bound for bound in bounds])) for sign in (-1, 1))
    return [*found, (low, high, distances[-1] / distances[0])]


def picture(found: dict[str, tuple[float, float, Tensor]], x: Tensor, back: Tensor, path: Path) -> None:
    """What the maps do to distances, within their bounds; images and what their features are inverted to."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasSVG(figure)
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.6, 1))
    left, right = halves
    axes = left.add_subplot()
    for index, (name, (low, high, ratios)) in enumerate(found.items()):
        axes.hist(ratios.log10().numpy(), bins=80, density=True, alpha=0.6, color=f"C{index}", label=name)
        for bound in (low, high):
            axes.axvline(np.log10(bound), color=f"C{index}", linestyle="--", linewidth=0.8)
    axes.set(xlabel="log10 of feature distance / image distance; dashed: certified bounds", xlim=(-2, 2.6))
    axes.legend(frameon=False)
    for index, image in enumerate([*x[:5], *back[:5]]):
        place = right.add_subplot(2, 5, index + 1)
        place.imshow(image.reshape(8, 8).numpy(), cmap="gray_r", vmin=0, vmax=1)
        place.set(xticks=[], yticks=[], ylabel={0: "image", 5: "inverted"}.get(index, ""))
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Run it; the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="some seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--record", type=Path, help="write the figures into this JSON file, under this script's name")
    asked = parser.parse_args(arguments)
    x, y, test, labels = read(asked.seed)
    steps = 60 if asked.small else 600
    pairs = len(test) * (len(test) - 1) // 2
    print(f"digits, {len(x)} to learn from, {len(test)} to test: {pairs} pairs")
    linear = LogisticRegression(max_iter=2000).fit(x.numpy(), y.numpy())
    wrong, error = rate(linear.predict(test.numpy()) != labels.numpy())
    print(f"logistic regression of the pixels: {wrong:.1f} ± {error:.1f} % wrong")
    figures: dict[str, float] = {"pairs": pairs, "wrong linear": wrong, "wrong linear_stderr": error}

    drawn, back = {}, test
    for name, blocks, lipschitz in (("2 blocks, c = 0.5", 2, 0.5), ("8 blocks, c = 0.97", 8, 0.97)):
        torch.manual_seed(asked.seed)
        network = Classifier(feature_map(blocks, lipschitz), CLASSES)
        train(network, x, y, steps, asked.seed)
        with torch.no_grad():
            wrong, error = rate((network(test).argmax(1) != labels).numpy())
            found = stretches(network.flow, test)
        print(f"{name}: {wrong:.1f} ± {error:.1f} % wrong")
        print("         certified below, above   measured least, most   pairs outside")
        for index, (low, high, ratios) in enumerate(found):
            # Distances of float64 carry a relative rounding of about 1e-14; nothing else may be outside.
            outside = int(((ratios < low * (1 - 1e-12)) | (ratios > high * (1 + 1e-12))).sum())
            part = "whole" if index == blocks else f"block {index + 1}"
            print(f"  {part:<8} {low:10.4g}  {high:10.4g}  {ratios.min():10.4g}  {ratios.max():10.4g}  {outside:10d}")
            kept = {"below": low, "above": high, "outside": outside, "least": float(ratios.min()), "most": float(ratios.max())}
            figures |= {f"{name}, {part} {what}": value for what, value in kept.items()}

        # Back again: from features alone, each image within a bound of its error.
        with torch.no_grad():
            solution = network.flow.invert(network.flow.encode(test))
        off, worst = float((solution.value - test).norm(dim=1).max()), float(solution.block_bounds.max())
        print(f"  inverted: images off by at most {off:.1e}; of any block alone at most {worst:.1e}, certified")
        figures |= {f"{name}, wrong": wrong, f"{name}, wrong_stderr": error, f"{name}, off": off, f"{name}, block bound": worst}
        drawn[name], back = found[-1], solution.value
    asked.out.mkdir(parents=True, exist_ok=True)
    picture(drawn, test, back, asked.out / "feature_map.svg")
    print(f"the distances are in {asked.out / 'feature_map.svg'}")
    if asked.record:
        known = json.loads(asked.record.read_text(encoding="utf-8")) if asked.record.exists() else {}
        write_json(asked.record, known | {"feature_map": {"data": "digits", "seed": asked.seed, "steps": steps} | figures})
    return figures


if __name__ == "__main__":
    main()
