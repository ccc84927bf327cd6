"""Two views in one density: p(a, b) = p(a) p(b | a), and the view that is missing inferred from the other.

    python examples/two_views.py [--small] [--seed 0] [--out FOLDER] [--record RESULTS.json]

The views are the left and the right halves of scikit-learn's handwritten digits, 32 pixels each; any two measurements of the same
thing would do. Two flows make one joint density: one for the left half, one for the right half given the left. The second models
what a regression of the right half on the left leaves over: what is simple need not be learnt by a flow. Three questions:

- how likely is a pair? The joint density tells pairs that belong together from pairs that do not;
- what is the right half of this left half? Draws of p(b | a), and their mean where one answer is wanted;
- is that better than to look up the training digits whose left halves are nearest? The same is asked of these.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

import iresnet
from iresnet.files import write_json
from iresnet.numerics.noise import Noise

HALF, DRAWS, PAIRS = 32, 20, 10  # pixels; draws of each right half; right halves to choose from


def read(seed: int) -> list[tuple[Tensor, Tensor]]:
    """Left and right halves (n, 32) to learn from, to choose by and to test, levels 0 to 16 spread over [0, 17)."""
    random = np.random.default_rng(seed)
    digits: Any = load_digits()
    images = digits.images[random.permutation(1797)]
    images = torch.from_numpy(images + random.uniform(size=images.shape)).float()
    left, right = images[:, :, :4].flatten(1), images[:, :, 4:].flatten(1)
    return [(left[part], right[part]) for part in (slice(0, 1200), slice(1200, 1400), slice(1400, 1797))]


def told(values: np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error, that of the finite number of test rows."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def energy(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The energy score (n,) of draws (n, m, d), least for those of the true distribution; one draw is its distance.

    Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting and Raftery, 2007): E|X - b| - E|X - X'| / 2, unbiased.
    """
    off = np.linalg.norm(draws - truth[:, None], axis=2).mean(1)
    m = draws.shape[1]
    if m == 1:
        return off
    apart = np.linalg.norm(draws[:, :, None] - draws[:, None], axis=3).sum((1, 2)) / (m * (m - 1))
    return off - 0.5 * apart


def picture(left: Tensor, right: Tensor, draws: np.ndarray, path: Path) -> None:
    """Ten left halves: the true right half, the mean of the draws, and three draws."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasSVG(figure)
    rows = ("true", "mean", "draw", "draw", "draw")
    for column in range(10):
        halves = (right[column].numpy(), draws[column].mean(0), *draws[column, :3])
        for row, half in enumerate(halves):
            axes = figure.add_subplot(5, 10, 10 * row + column + 1)
            whole = np.concatenate((left[column].numpy().reshape(8, 4), half.reshape(8, 4)), 1)
            axes.imshow(whole, cmap="gray_r", vmin=0, vmax=17)
            axes.axvline(3.5, color="C1", linewidth=0.8)
            axes.set(xticks=[], yticks=[], ylabel=rows[row] if column == 0 else "")
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run it; the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="some seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--record", type=Path, help="write the figures into this JSON file, under this script's name")
    asked = parser.parse_args(arguments)
    (a, b), (held_a, held_b), (left, right) = read(asked.seed)

    # One joint density, as two flows: that of the left half, and that of the right half given the left, about a regression of it.
    # Residuals of rows that the regression was fitted to are too small, so those to learn from are of folds it has not seen.
    steps = 60 if asked.small else 400
    torch.manual_seed(asked.seed)
    first = iresnet.dense_flow(HALF, blocks=4)
    iresnet.fit(first, a, steps=steps, batch_size=256, seed=asked.seed, validation=held_a)
    middle = b.mean(0)
    choices = {"alpha": [0.03, 0.1, 0.3, 1.0], "gamma": [3e-4, 1e-3, 3e-3]}
    search = GridSearchCV(KernelRidge(kernel="rbf"), choices, cv=5).fit(a.numpy(), (b - middle).numpy())
    regression = search.best_estimator_
    residual = b - middle - torch.from_numpy(cross_val_predict(regression, a.numpy(), (b - middle).numpy(), cv=10)).float()

    def context(view: Tensor) -> Tensor:
        return (view - a.mean(0)) / (a.std(0) + 0.1)

    def expected(view: Tensor) -> Tensor:
        return middle + torch.from_numpy(regression.predict(view.numpy())).float()

    torch.manual_seed(asked.seed)
    second = iresnet.dense_flow(HALF, context=HALF, blocks=4)
    held = held_b - expected(held_a), context(held_a)
    iresnet.fit(second, residual, context(a), steps=steps, batch_size=256, seed=asked.seed, validation=held)

    def conditional(view: Tensor, other: Tensor) -> np.ndarray:
        """log p(other | view) (n,), in nats; exact, since there are few dimensions."""
        with torch.no_grad():
            return second.log_prob(other - expected(view), context(view)).double().numpy()

    with torch.no_grad():
        alone = first.log_prob(left).double().numpy()
    belongs = conditional(left, right)
    joint = told(alone + belongs)
    print(f"digits, {len(a)} to learn from, {len(held_a)} to choose by, {len(left)} to test; halves of {HALF} pixels")
    print(f"log p(left, right) = {joint[0]:.2f} ± {joint[1]:.2f} nats")

    # Which of ten right halves belongs to a left half: the most likely one, or that most like the nearest neighbours'.
    neighbours = NearestNeighbors(n_neighbors=DRAWS).fit(a.numpy())
    near = neighbours.kneighbors(left.numpy())[1]
    others = [right.roll(-shift, 0) for shift in range(PAIRS)]  # the first is the true one
    likely = np.stack([belongs, *(conditional(left, other) for other in others[1:])])
    distances = np.stack([np.linalg.norm(b[near[:, 0]].numpy() - other.numpy(), axis=1) for other in others])
    chosen = {"flow": likely.argmax(0) == 0, "nearest neighbour": distances.argmin(0) == 0}

    # The right half inferred: draws of the flow, the right halves of the nearest neighbours, the one of the nearest.
    count = len(left) * DRAWS
    repeated = left.repeat_interleave(DRAWS, 0)
    drawn = second.sample(count, context(repeated), noise=Noise(asked.seed, torch.arange(count)))
    drawn += expected(left).repeat_interleave(DRAWS, 0)
    inferred = {
        "flow": drawn.numpy().reshape(len(left), DRAWS, HALF),
        "kernel regression": expected(left).numpy()[:, None],
        f"{DRAWS} nearest neighbours": b.numpy()[near],
        "nearest neighbour": b.numpy()[near[:, :1]],
    }
    figures: dict[str, float] = {"rows": len(left), "log_prob": joint[0], "log_prob_stderr": joint[1]}
    print(f"right half found among {PAIRS}:")
    for method, right_one in chosen.items():
        share, error = told(100.0 * right_one)
        figures |= {f"found {method}": share, f"found {method}_stderr": error}
        print(f"  {share:.1f} ± {error:.1f} %  {method}")
    print("right half inferred: root mean square error of the mean, in grey levels of 17; energy score of the draws")
    for method, draws in inferred.items():
        square, error = told(np.square(draws.mean(1) - right.numpy()).mean(1))
        score, about = told(energy(draws, right.numpy()))
        figures |= {f"rmse {method}": square**0.5, f"rmse {method}_stderr": error / (2 * square**0.5)}
        figures |= {f"energy {method}": score, f"energy {method}_stderr": about}
        print(f"  {square**0.5:.3f} ± {error / (2 * square**0.5):.3f}  {score:.2f} ± {about:.2f}  {method}")
    asked.out.mkdir(parents=True, exist_ok=True)
    picture(left, right, inferred["flow"], asked.out / "two_views.svg")
    print(f"ten digits are in {asked.out / 'two_views.svg'}")
    if asked.record:
        known = json.loads(asked.record.read_text(encoding="utf-8")) if asked.record.exists() else {}
        write_json(asked.record, known | {"two_views": {"data": "digits", "seed": asked.seed, "steps": steps} | figures})
    return figures


if __name__ == "__main__":
    main()
