"""Heart beats as time series: learn the density of normal beats, and call unlikely beats abnormal.

    IRESNET_DATA=FOLDER python examples/heartbeats.py [--small] [--seed 0] [--out FOLDER] [--record RESULTS.json]

FOLDER/series/ECG5000_anomaly.npz holds the beats of ECG5000 (UCR archive), 140 points each: x_train_normal, x_test and y_test, 1
for an abnormal beat. Without it the script says so and takes scikit-learn's digits, those below 5 as the normal ones.

Neighbouring points of a beat are nearly equal, so its 140 numbers lie close to a few smooth curves. A basis says so: the
principal components that hold 95 % of the variance. The density of a whole beat is then that of its coordinates there, by a flow,
times that of what the basis leaves over, an isotropic normal: probabilistic PCA (Tipping and Bishop, 1999, doi
10.1111/1467-9868.00196) with the Gaussian of the coordinates replaced by something that can bend. It is still a density of 140
numbers.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.datasets import load_digits
from sklearn.ensemble import IsolationForest

import iresnet
from iresnet.files import write_json

FALSE_ALARMS = 0.05  # of normal beats, that the threshold is chosen for


def read(seed: int) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """A name, normal rows to learn from, rows to score, and whether each of those is abnormal."""
    path = Path(os.environ.get("IRESNET_DATA", "")) / "series" / "ECG5000_anomaly.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as content:
            return "ECG5000", content["x_train_normal"], content["x_test"], content["y_test"] == 1
    print(f"no {path}: scikit-learn's digits instead, those below 5 as the normal ones, each a series of 64 greys")
    digits: Any = load_digits()
    random = np.random.default_rng(seed)
    x = digits.data / 17 + random.uniform(0, 1 / 17, digits.data.shape)  # levels are no density: spread them
    normal = random.permutation(np.flatnonzero(digits.target < 5))
    test = np.concatenate((normal[:200], np.flatnonzero(digits.target >= 5)))
    return "digits", x[normal[200:]], x[test], digits.target[test] >= 5


@dataclass(frozen=True)
class Basis:
    """The principal components that hold a share of the variance, and the variance of what they leave over."""

    mean: np.ndarray
    components: np.ndarray
    left_over: float

    @staticmethod
    def of(x: np.ndarray, share: float = 0.95) -> Basis:
        mean = x.mean(0)
        _, sizes, directions = np.linalg.svd(x - mean, full_matrices=False)
        variance = sizes**2 / len(x)
        count = 1 + int(np.searchsorted(variance.cumsum() / variance.sum(), share))
        return Basis(mean, directions[:count], variance[count:].sum() / (x.shape[1] - count))

    def split(self, x: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """Coordinates (n, k), and the log-density (n,) of what is left over."""
        z = (x - self.mean) @ self.components.T
        rest = x - self.mean - z @ self.components
        free = x.shape[1] - z.shape[1]
        log_prob = -0.5 * (rest**2).sum(1) / self.left_over - 0.5 * free * np.log(2 * np.pi * self.left_over)
        return torch.from_numpy(z).float(), log_prob


def score(flow: iresnet.Flow, basis: Basis, x: np.ndarray) -> np.ndarray:
    """log p (n,) of rows x (n, d), in nats; exact, since the flow has few dimensions."""
    z, rest = basis.split(x)
    with torch.no_grad():
        return flow.log_prob(z).double().numpy() + rest


def auroc(abnormal: np.ndarray, oddness: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve and its standard error, that of the finite number of rows of each kind.

    Comparing the Areas under Two or More Correlated Receiver Operating Characteristic Curves (DeLong et al., 1988)
    """
    odd, usual = oddness[abnormal], oddness[~abnormal]
    ranks = rankdata(np.concatenate((odd, usual)))
    # For each abnormal row the share of normal ones below it; for each normal row the share of abnormal ones above it.
    below = (ranks[: len(odd)] - rankdata(odd)) / len(usual)
    above = 1 - (ranks[len(odd) :] - rankdata(usual)) / len(odd)
    return float(below.mean()), float(np.sqrt(below.var(ddof=1) / len(odd) + above.var(ddof=1) / len(usual)))


def rate(hits: np.ndarray) -> tuple[float, float]:
    """A share in per cent, with its binomial standard error."""
    share = float(hits.mean())
    return 100 * share, 100 * (share * (1 - share) / len(hits)) ** 0.5


def picture(x: np.ndarray, log_prob: np.ndarray, abnormal: np.ndarray, threshold: float, path: Path) -> None:
    """The most and the least likely rows, and the densities of both kinds with the threshold."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    FigureCanvasSVG(figure)
    likely, unlikely, densities = figure.subplots(1, 3)
    order = np.argsort(log_prob)
    for axes, rows, title in ((likely, order[-8:], "most likely"), (unlikely, order[:8], "least likely")):
        for row in rows:
            axes.plot(x[row], color="C1" if abnormal[row] else "C0", linewidth=0.8)
        axes.set(title=f"{title}: {abnormal[rows].sum()} of {len(rows)} abnormal", xlabel="point")
    low = np.quantile(log_prob, 0.05)  # the least likely are so unlikely that nothing else would be seen
    bins = np.linspace(low, log_prob.max(), 50).tolist()
    for kind, color, name in ((~abnormal, "C0", "normal"), (abnormal, "C1", "abnormal")):
        densities.hist(log_prob[kind].clip(min=low), bins=bins, color=color, alpha=0.6, label=name)
    densities.axvline(threshold, color="0.3", linewidth=0.8, label="threshold")
    densities.set(xlabel="log p, nats")
    densities.legend(frameon=False)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run it; the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="some seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--record", type=Path, help="write the figures into this JSON file, under this script's name")
    asked = parser.parse_args(arguments)
    name, x, test, abnormal = read(asked.seed)

    # A fifth of the normal rows is held out: it stops the training in time and, unlike rows trained on, sets an honest threshold.
    order = np.random.default_rng(asked.seed).permutation(len(x))
    held, train = x[order[: len(x) // 5]], x[order[len(x) // 5 :]]
    basis = Basis.of(train)
    z, _ = basis.split(train)
    print(f"{name}: {len(train)} normal rows to learn from, {len(held)} held out, {len(test)} scored, {abnormal.sum()} abnormal")
    print(f"{z.shape[1]} of {x.shape[1]} components hold 95 % of the variance")

    # Heavy tails in the base: an abnormal beat should be unlikely, and not a division by zero.
    torch.manual_seed(asked.seed)
    flow = iresnet.dense_flow(z.shape[1], blocks=4, base="student")
    flow.initialize(z)
    gaussian = score(flow.eval(), basis, test), score(flow, basis, held)  # before training: whitening, nearly the Gaussian
    steps = 60 if asked.small else 600
    iresnet.fit(flow, z, steps=steps, batch_size=256, seed=asked.seed, validation=basis.split(held)[0])
    log_prob, usual = score(flow, basis, test), score(flow, basis, held)
    gained = usual - gaussian[1]
    gain = float(gained.mean()), float(gained.std(ddof=1) / len(gained) ** 0.5)
    print(f"held-out normal rows: {gain[0]:.1f} ± {gain[1]:.1f} nats a row above the flow before training")

    # The threshold is chosen on normal rows alone: no label is used.
    threshold = float(np.quantile(usual, FALSE_ALARMS))
    found, false = rate(log_prob[abnormal] < threshold), rate(log_prob[~abnormal] < threshold)
    print(f"threshold: log p < {threshold:.1f} nats, for {100 * FALSE_ALARMS:g} % false alarms")
    print(f"  abnormal rows found {found[0]:.1f} ± {found[1]:.1f} %; false alarms {false[0]:.1f} ± {false[1]:.1f} %")

    forest = IsolationForest(random_state=asked.seed).fit(train)
    areas = {
        "flow": auroc(abnormal, -log_prob),
        "before training": auroc(abnormal, -gaussian[0]),
        "isolation forest": auroc(abnormal, -forest.score_samples(test)),
    }
    for method, (area, error) in areas.items():
        print(f"  AUROC {area:.4f} ± {error:.4f}  {method}")
    asked.out.mkdir(parents=True, exist_ok=True)
    picture(test, log_prob, abnormal, threshold, asked.out / "heartbeats.svg")
    print(f"the most and the least likely rows are in {asked.out / 'heartbeats.svg'}")

    figures = {"components": z.shape[1], "rows": len(test), "abnormal": int(abnormal.sum()), "threshold": threshold}
    figures |= {"gain": gain[0], "gain_stderr": gain[1], "found": found[0], "found_stderr": found[1]}
    figures |= {"false": false[0], "false_stderr": false[1]}
    for method, (area, error) in areas.items():
        figures |= {f"auroc {method}": area, f"auroc {method}_stderr": error}
    if asked.record:
        known = json.loads(asked.record.read_text(encoding="utf-8")) if asked.record.exists() else {}
        write_json(asked.record, known | {"heartbeats": {"data": name, "seed": asked.seed, "steps": steps} | figures})
    return figures


if __name__ == "__main__":
    main()
