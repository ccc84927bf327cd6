"""Anomaly detection from end to end: a table, a threshold with its error rates, the ROC curve, and why a row is odd.

    python examples/anomaly_detection.py [TABLE.npz] [--steps 300] [--seed 0] [--out FOLDER]

TABLE.npz holds X (n, d) and y (n,), 1 for an anomaly, as the tables of ADBench do; labels are used for the error rates and never
for training. Without one it is scikit-learn's breast cancer table: benign tumours, and one malignant for every nine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score, roc_curve

from iresnet.estimators import ResidualFlowOutlierDetector


def read(path: Path | None, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """X (n, d), y (n,) and the columns' names."""
    if path is not None:
        with np.load(path, allow_pickle=False) as content:
            x, y = content["X"].astype(np.float64), content["y"].astype(int)
        return x, y, [f"column {k}" for k in range(x.shape[1])]
    data = load_breast_cancer()
    benign, malignant = np.flatnonzero(data.target == 1), np.flatnonzero(data.target == 0)
    few = np.random.default_rng(seed).permutation(malignant)[: len(benign) // 9]
    rows = np.concatenate((benign, few))
    return data.data[rows], (data.target[rows] == 0).astype(int), list(data.feature_names)


def rate(hits: np.ndarray) -> str:
    """A share with its standard error, that of the finite number of rows."""
    share = float(hits.mean())
    return f"{100 * share:.1f} ± {100 * (share * (1 - share) / len(hits)) ** 0.5:.1f} %"


def auroc(y: np.ndarray, score: np.ndarray, seed: int) -> tuple[float, float]:
    """Area under the ROC curve and its standard error by 200 bootstrap draws of the rows of each kind."""
    random, kinds = np.random.default_rng(seed), [np.flatnonzero(y == kind) for kind in (0, 1)]
    draws = []
    for _ in range(200):
        rows = np.concatenate([random.choice(kind, len(kind)) for kind in kinds])
        draws.append(roc_auc_score(y[rows], score[rows]))
    return float(roc_auc_score(y, score)), float(np.std(draws))


def picture(y: np.ndarray, score: np.ndarray, threshold: float, path: Path) -> None:
    """The ROC curve, with the threshold as a point on it."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    false, true, _ = roc_curve(y, score)
    axes.plot(false, true)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes.plot(np.mean(score[y == 0] > threshold), np.mean(score[y == 1] > threshold), "o", label="threshold")
    axes.set(xlabel="ordinary rows called outliers", ylabel="anomalies found", aspect="equal")
    axes.legend(frameon=False)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run it; the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("."))
    asked = parser.parse_args(arguments)

    x, y, names = read(asked.table, asked.seed)
    order = np.random.default_rng(asked.seed).permutation(len(x))
    train, test = np.array_split(order, 2)
    print(f"{len(x)} rows of {x.shape[1]} columns, {100 * y.mean():.1f} % of them anomalies; half train, half are scored")

    # The threshold: a tenth of the training rows lies beyond it. No label is used.
    detector = ResidualFlowOutlierDetector(contamination=0.1, max_steps=asked.steps, random_state=asked.seed).fit(x[train])
    score, threshold = -detector.score_samples(x[test]), -detector.offset_
    found, false = score[y[test] == 1] > threshold, score[y[test] == 0] > threshold
    print(f"threshold: -log p > {threshold:.2f} nats")
    print(f"anomalies found: {rate(found)}; ordinary rows called outliers: {rate(false)}")

    area, error = auroc(y[test], score, asked.seed)
    asked.out.mkdir(parents=True, exist_ok=True)
    picture(y[test], score, threshold, asked.out / "roc.svg")
    print(f"AUROC {area:.3f} ± {error:.3f}; the curve is in {asked.out / 'roc.svg'}")

    # Which columns make the oddest row odd: shares of its -log p above that of the nearest ordinary row.
    oddest = test[[int(score.argmax())]]
    why = detector.explain(x[oddest], x[train])
    print(f"row {oddest[0]} is {why.total[0]:.1f} nats less likely than the nearest ordinary row; of these")
    for k in np.argsort(-np.abs(why.value[0]))[:5]:
        here, there = x[oddest[0], k], why.reference[0, k]
        print(f"  {why.value[0, k]:8.1f} ± {why.error[0, k]:.1g}  {names[k]}: {here:.5g}, there {there:.5g}")
    missed = why.value[0].sum() - why.total[0]
    print(f"all {len(names)} shares add up to the difference within {abs(missed):.1g} nats")
    return {"auroc": area, "stderr": error, "missed": float(missed)}


if __name__ == "__main__":
    main()
