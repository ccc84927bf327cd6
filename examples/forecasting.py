"""Forecasting by conditional density: p(the next day | the last two days), and not only its mean.

    IRESNET_DATA=FOLDER python examples/forecasting.py [--small] [--seed 0] [--out FOLDER] [--record RESULTS.json]

FOLDER/series/ETTh1.csv holds two years of an electricity transformer, hour by hour: six loads, and the oil temperature OT, which
is forecast for the next 24 hours at once. The split is the usual one, in order of time: 12 months to learn from, 4 to choose by,
4 to test (Informer, Zhou et al., 2021, arXiv 2012.07436). Without the file a series with known seasons takes its place.

The baseline is strong: ridge regression on the same context, and a Gaussian with the full covariance of its residuals. The flow
models just these residuals, given the context. It starts as nearly that Gaussian, so what it gains is what is not Gaussian in
them or changes with the context.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import iresnet
from iresnet.files import write_json
from iresnet.numerics.noise import Noise

AHEAD, BACK, MONTH = 24, 48, 30 * 24
DRAWS = 100  # of each forecast, for its intervals and its CRPS


def read(seed: int) -> tuple[str, np.ndarray]:
    """A name, and a series (n, d), the last column the one to forecast."""
    random, path = np.random.default_rng(seed), Path(os.environ.get("IRESNET_DATA", "")) / "series" / "ETTh1.csv"
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            rows = np.array([line[1:] for line in list(csv.reader(file))[1:]], dtype=float)
        # The thermometer reads in steps of 0.07 degrees, on which a density has no upper limit: spread them.
        step = float(np.diff(np.unique(rows[:, -1].round(3))).min())
        rows[:, -1] += random.uniform(-step / 2, step / 2, len(rows))
        return "ETTh1", rows
    print(f"no {path}: a made series instead, of a daily season and noise that is wilder by day")
    hours = np.arange(20 * MONTH)
    day, noise = np.sin(2 * np.pi * hours / 24), np.zeros(len(hours))
    for t in range(1, len(hours)):
        noise[t] = 0.95 * noise[t - 1] + (0.6 + 0.4 * day[t]) * random.standard_t(4)
    return "made", np.stack((day, 20 + 5 * day + noise), 1)


@dataclass(frozen=True)
class Windows:
    """Futures (n, AHEAD), as differences from the last known value, their contexts (n, C), and the hour each begins at."""

    future: np.ndarray
    context: np.ndarray
    begin: np.ndarray

    @staticmethod
    def of(series: np.ndarray, first: int, last: int) -> Windows:
        """All windows whose future lies within [first, last); their past may reach back before it."""
        begin = np.arange(max(first, BACK), last - AHEAD + 1)
        target, now = series[:, -1], series[begin - 1, -1:]
        past = target[begin[:, None] - 1 - np.arange(1, BACK)] - now
        angle = 2 * np.pi * (begin % 24)[:, None] / 24
        context = (now, past, series[begin - 1, :-1], series[begin - 24, :-1], np.cos(angle), np.sin(angle))
        return Windows(target[begin[:, None] + np.arange(AHEAD)] - now, np.concatenate(context, 1), begin)


class Ridge:
    """Ridge regression of the future on the context, and the Gaussian of its residuals."""

    def __init__(self, known: Windows, penalty: float) -> None:
        self.center, self.scale = known.context.mean(0), known.context.std(0)
        inputs = self.standardize(known)
        self.constant = known.future.mean(0)
        square = inputs.T @ inputs + penalty * np.eye(inputs.shape[1])
        self.weights = np.linalg.solve(square, inputs.T @ (known.future - self.constant))
        rest = known.future - self.mean(known)
        self.triangle = np.linalg.cholesky(rest.T @ rest / len(rest))

    def standardize(self, windows: Windows) -> np.ndarray:
        return (windows.context - self.center) / self.scale

    def mean(self, windows: Windows) -> np.ndarray:
        return self.constant + self.standardize(windows) @ self.weights

    def log_prob(self, windows: Windows) -> np.ndarray:
        """log p(future | context) (n,), in nats."""
        z = np.linalg.solve(self.triangle, (windows.future - self.mean(windows)).T)
        return -0.5 * (z**2).sum(0) - np.log(self.triangle.diagonal()).sum() - AHEAD / 2 * np.log(2 * np.pi)

    def tensors(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """What the flow is given: residuals and standardised contexts. Residuals have the density of the future itself."""
        return torch.from_numpy(windows.future - self.mean(windows)).float(), torch.from_numpy(self.standardize(windows)).float()


def log_prob(flow: iresnet.Flow, x: Tensor, context: Tensor) -> np.ndarray:
    """log p(x | context) (n,), in nats; exact, since there are few dimensions."""
    with torch.no_grad():
        return flow.log_prob(x, context).double().numpy()


def by_week(values: np.ndarray, begin: np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error by weeks: windows overlap, and what is odd on Monday is odd on Tuesday."""
    weeks = (begin - begin[0]) // (7 * 24)
    means = np.array([values[weeks == week].mean() for week in np.unique(weeks)])
    return float(values.mean()), float(means.std(ddof=1) / len(means) ** 0.5)


def judge(draws: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of draws (n, DRAWS, AHEAD): the share of hours within their 90 % interval, and the mean CRPS, each (n,).

    Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting and Raftery, 2007): E|X - y| - E|X - X'| / 2, unbiased.
    """
    low, high = np.quantile(draws, (0.05, 0.95), axis=1)
    ordered = np.sort(draws, axis=1)
    weights = 2 * np.arange(1, DRAWS + 1) - DRAWS - 1
    spread = 2 * np.einsum("k,nkh->nh", weights, ordered) / (DRAWS * (DRAWS - 1))
    crps = np.abs(draws - truth[:, None]).mean(1) - 0.5 * spread
    return ((low <= truth) & (truth <= high)).mean(1), crps.mean(1)


def picture(futures: np.ndarray, draws: dict[str, np.ndarray], path: Path) -> None:
    """Three days with the 90 % interval of each forecast."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    FigureCanvasSVG(figure)
    hours = np.arange(1, AHEAD + 1)
    for axes, day in zip(figure.subplots(1, 3, sharey=True), np.linspace(0, len(futures) - 1, 5).astype(int)[1:4], strict=True):
        for index, (name, drawn) in enumerate(draws.items()):
            low, high = np.quantile(drawn[day], (0.05, 0.95), axis=0)
            axes.fill_between(hours, low, high, color=f"C{index}", alpha=0.3, label=f"90 %, {name}")
        axes.plot(hours, futures[day], color="0.2", label="what came")
        axes.set(xlabel="hours ahead")
    figure.axes[0].set_ylabel("change from now")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run it; the figures that it prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="some seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--record", type=Path, help="write the figures into this JSON file, under this script's name")
    asked = parser.parse_args(arguments)
    name, series = read(asked.seed)
    months = ((0, 12), (12, 16), (16, 20))
    learn, choose, test = (Windows.of(series, first * MONTH, last * MONTH) for first, last in months)
    print(f"{name}: {len(learn.begin)} windows to learn from, {len(choose.begin)} to choose by, {len(test.begin)} to test")

    # The baseline gets the penalty that the months to choose by like best; so does the flow get its weights.
    ridge = max((Ridge(learn, 10.0**power) for power in range(6)), key=lambda one: one.log_prob(choose).mean())
    (x, context), held, (rest, given) = (ridge.tensors(part) for part in (learn, choose, test))
    torch.manual_seed(asked.seed)
    flow = iresnet.dense_flow(AHEAD, context=context.shape[1], blocks=4, base="student")
    steps = 30 if asked.small else 400
    iresnet.fit(flow, x, context, steps=steps, batch_size=256, lr=2e-3, seed=asked.seed, validation=(held[0][::4], held[1][::4]))

    per_hour = {"flow": log_prob(flow, rest, given) / AHEAD, "ridge, Gaussian": ridge.log_prob(test) / AHEAD}
    figures: dict[str, float] = {"windows": len(test.begin), "context": context.shape[1]}

    def note(what: str, values: np.ndarray, begin: np.ndarray) -> str:
        """Put the mean and its error among the figures; both as text."""
        figures[what], figures[f"{what}_stderr"] = by_week(values, begin)
        return f"{figures[what]:.3f} ± {figures[f'{what}_stderr']:.3f}"

    print("log-density of the test months, nats an hour; errors by weeks")
    for method, values in per_hour.items():
        print(f"  {note(f'log_prob {method}', values, test.begin)}  {method}")
    paired = per_hour["flow"] - per_hour["ridge, Gaussian"]
    print(f"  {note('log_prob gain', paired, test.begin)}  difference, window by window")

    # Draws for one window a day: a forecast is judged as a distribution too.
    days = np.arange(0, len(test.begin), 24 * (4 if asked.small else 1))
    chosen = Windows(test.future[days], test.context[days], test.begin[days])
    middle = ridge.mean(chosen)[:, None]
    count = len(days) * DRAWS
    drawn = flow.sample(count, given[days].repeat_interleave(DRAWS, 0), noise=Noise(asked.seed, torch.arange(count)))
    normal = np.random.default_rng(asked.seed).normal(size=(len(days), DRAWS, AHEAD))
    draws = {"flow": middle + drawn.numpy().reshape(normal.shape), "ridge, Gaussian": middle + normal @ ridge.triangle.T}
    print(f"of {DRAWS} draws for each of {len(days)} days: share of hours within the 90 % interval, and CRPS")
    for method, values in draws.items():
        inside, crps = judge(values, chosen.future)
        told = note(f"coverage {method}", 100 * inside, chosen.begin), note(f"crps {method}", crps, chosen.begin)
        print(f"  {told[0]} %, {told[1]}  {method}")
    gain = judge(draws["flow"], chosen.future)[1] - judge(draws["ridge, Gaussian"], chosen.future)[1]
    print(f"  CRPS of the flow less that of the baseline: {note('crps difference', gain, chosen.begin)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    picture(chosen.future, draws, asked.out / "forecasting.svg")
    print(f"three days are in {asked.out / 'forecasting.svg'}")
    if asked.record:
        known = json.loads(asked.record.read_text(encoding="utf-8")) if asked.record.exists() else {}
        write_json(asked.record, known | {"forecasting": {"data": name, "seed": asked.seed, "steps": steps} | figures})
    return figures


if __name__ == "__main__":
    main()
