"""A real run folder without a flow: every number in it is computed here, from moons and a mixture fitted to them by EM.

What the report needs is a model that learns in steps, has a density and gives samples; scikit-learn's mixture is one,
and is fitted in a second. The certificate and the round trip are of a small residual network with random weights.
"""

from __future__ import annotations

import json
import math
import platform
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from iresnet import pictures

NOISE = 0.1
CONFIG = '[data]\nname = "moons"\n\n[model]\nblocks = 8\nhidden = [64, 64]\nlipschitz = 0.97\n\n[train]\nlr = 0.002\n'


def moons(rows: int, seed: int) -> np.ndarray:
    return make_moons(rows, noise=NOISE, random_state=seed)[0]


def true_log_density(x: np.ndarray) -> np.ndarray:
    """Log-density of the moons: Gaussian noise around two half circles, the angle uniform."""
    t = np.linspace(0, np.pi, 600)
    arcs = np.concatenate([np.c_[np.cos(t), np.sin(t)], np.c_[1 - np.cos(t), 0.5 - np.sin(t)]])
    squares = ((x[:, None, :] - arcs) ** 2).sum(-1) / (2 * NOISE**2)
    low = squares.min(1)
    return -low + np.log(np.exp(low[:, None] - squares).mean(1)) - math.log(2 * math.pi * NOISE**2)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def write_moons_run(folder: Path, *, steps: int = 120) -> Path:
    """Fit the mixture, step by step, and write everything a finished run holds."""
    started = time.monotonic()
    train, validation, test = moons(4000, 0), moons(1000, 1), moons(4000, 2)
    model = GaussianMixture(24, warm_start=True, max_iter=1, random_state=0, init_params="random_from_data")
    lines, best = [], -math.inf
    for step in range(1, steps + 1):
        batch = train[np.random.default_rng(step).integers(0, len(train), 256)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # one EM step at a time never converges
            model.fit(train)
        lines.append({"step": step, "split": "train", "loss": -float(model.score(batch))})
        if step % 10 == 0:
            value, error = mean_and_error(model.score_samples(validation))
            exact = {"stderr_estimator": 0.0, "stderr_data": error, "bias": 0.0}
            lines.append({"step": step, "split": "validation", "log_prob": value, **exact, "best": value > best})
            best = max(best, value)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scores, truth = model.score_samples(test), true_log_density(test)
    samples = model.sample(2000)[0]
    gaussian = GaussianMixture(1).fit(train).score_samples(test)
    evaluation = _evaluation(scores, truth, gaussian)
    blocks, evaluation["roundtrip"] = _network(test[:1000])
    write(folder, "evaluation.json", evaluation)
    write(folder, "certificate.json", certificate_of(blocks))
    write(folder, "run.json", _run(train, validation, test, steps, time.monotonic() - started))
    (folder / "config.toml").write_text(CONFIG)
    np.savez(folder / "samples.npz", X=samples)
    extent = (-1.6, 2.6, -1.2, 1.7)
    xs, ys = np.linspace(*extent[:2], 160), np.linspace(*extent[2:], 120)
    grid = model.score_samples(np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)).reshape(120, 160)
    pictures.density_2d(folder / "pictures" / "density.png", torch.from_numpy(grid), extent, test, samples)
    return folder


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def certificate_of(blocks: list[dict]) -> dict:
    return {
        "holds": all(block["holds"] for block in blocks),
        "lipschitz": math.prod(1 + block["bound"] for block in blocks),
        "amplification": None,
        "inverse_lipschitz": math.prod(1 / (1 - block["bound"]) for block in blocks),
        "blocks": blocks,
    }


def _evaluation(scores: np.ndarray, truth: np.ndarray, gaussian: np.ndarray) -> dict:
    value, error = mean_and_error(scores)
    above, above_error = mean_and_error(truth - scores)
    gain, gain_error = mean_and_error(scores - gaussian)
    return {
        "split": "test",
        "rows": len(scores),
        "log_prob": {"value": value, "stderr_estimator": 0.0, "stderr_data": error, "bias": 0.0},
        "bits_per_dim": None,
        "true_log_density": float(truth.mean()),
        "nats_above_truth": {"value": above, "stderr": above_error},
        "baselines": {"full-covariance Gaussian": float(gaussian.mean())},
        "nats_above_gaussian": {"value": gain, "stderr": gain_error},
        "logdet": "Exact()",
        "seconds": 0.1,
    }


def _network(x: np.ndarray, lipschitz: float = 0.97) -> tuple[list[dict], dict]:
    """Eight blocks x + W2 tanh(W1 x): bounds, measured expansions, and the error of Picard's inverse."""
    rng = np.random.default_rng(3)
    weights = [(rng.normal(size=(16, 2)), rng.normal(size=(2, 16))) for _ in range(8)]
    weights = [(w1 / np.linalg.norm(w1, 2), lipschitz * w2 / np.linalg.norm(w2, 2)) for w1, w2 in weights]
    blocks, z = [], x
    for index, (w1, w2) in enumerate(weights):
        measured = max(np.linalg.norm(w2 @ np.diag(1 - np.tanh(w1 @ row) ** 2) @ w1, 2) for row in z[:100])
        held = {"name": f"blocks.{index}", "family": "gram", "bound": lipschitz, "measured": float(measured)}
        blocks.append({**held, "guarantee": "sound", "holds": bool(measured <= lipschitz)})
        z = z + np.tanh(z @ w1.T) @ w2.T
    y, steps, worst = z, 0, 0.0
    for w1, w2 in reversed(weights):
        target, last, move = y, y, math.inf
        while move > 1e-9:
            y = target - np.tanh(last @ w1.T) @ w2.T
            move, last, steps = np.linalg.norm(y - last, axis=1).max(), y, steps + 1
        worst = max(worst, float(lipschitz / (1 - lipschitz) * move))
    again = y
    for w1, w2 in weights:
        again = again + np.tanh(again @ w1.T) @ w2.T
    errors, backward = np.linalg.norm(y - x, axis=1), np.linalg.norm(again - z, axis=1).max()
    measured = {"max_error": float(errors.max()), "rms_error": float(np.sqrt((errors**2).mean()))}
    bounds = {"worst_block_bound": worst, "latent_backward_error": float(backward), "steps_mean": steps / len(weights)}
    return blocks, {"rows": len(x), **measured, **bounds, "solver": "Picard(tol=1e-09)"}


def _run(train: np.ndarray, validation: np.ndarray, test: np.ndarray, steps: int, seconds: float) -> dict:
    rows = {"train": len(train), "validation": len(validation), "test": len(test)}
    return {
        "task": "density",
        "data": {"name": "moons", "kind": "toy", "columns": ["x", "y"], "rows": rows, "warnings": []},
        "model": {
            "recipe": "dense_flow",
            "arguments": {"features": 2, "blocks": 8, "hidden": [64, 64], "lipschitz": 0.97},
            "parameters": 24 * 6 - 1,
            "family": "sandwich",
        },
        "versions": {"numpy": np.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"device": "cpu", "threads": torch.get_num_threads()},
        "seed": 0,
        "steps": steps,
        "seconds": seconds,
        "status": "finished",
        "command": "iresnet train moons --steps 120 --seed 0 --out runs/moons",
    }
