"""Remake the quality figures of results/quality/: train by the command line, over seeds, beside the baselines of the same rows.

    python experiments/quality.py                      all of it (about three hours on two cores)
    python experiments/quality.py moons digits         some of it
    python experiments/quality.py moons --seeds 0      one seed

One JSON file an experiment, written beside and renamed; seeds that a file already holds for the same command are not run again.
``python experiments/table.py`` turns the files into docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results" / "quality"
POWER = ["power_month", "--drop", "Sub_metering_1,Sub_metering_2,Sub_metering_3"]
MIXTURE = ["--set", "model.base=mixture", "--set", "model.components=400"]
# Name: arguments of `iresnet train`, and whether a Gaussian mixture chosen on validation stands beside it.
EXPERIMENTS: dict[str, tuple[list[str], bool]] = {
    "moons": (["moons"], False),
    "checkerboard": (["checkerboard", "--steps", "6000"], False),
    "power": (
        [*POWER, "--dequantize", "auto", "--steps", "14000", "--set", "model.blocks=32", "--set", "model.lipschitz=0.999"],
        True,
    ),
    # Settings by validation of seed 0: a larger learning rate moves the flow by more than the narrowest components' width.
    "power-raw": ([*POWER, *MIXTURE, "--steps", "3000", "--set", "train.lr=2e-4", "--set", "train.ema=0.999"], True),
    "miniboone-head": (["miniboone_head", "--preset", "small-table"], True),
    "digits": (["digits", "--preset", "small-table"], True),
    "moons-by-moon": (["moons", "--label", "moon"], False),
    "swiss-roll": (["swiss_roll"], False),
    "swiss-roll-by-angle": (["swiss_roll", "--context", "angle"], False),
    "digits-by-label": (["digits", "--label", "label", "--preset", "small-table"], False),
}
COMPONENTS = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 400)


def train(arguments: list[str], seed: int, threads: int) -> dict[str, Any]:
    """One run in a process of its own: its held-out figures."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "iresnet", "train", *arguments, "--seed", str(seed), "--out", str(run), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()}")
        evaluation = json.loads(done.stdout)["evaluation"]
        status = json.loads((run / "run.json").read_text())
    kept = ("rows", "log_prob", "bits_per_dim", "nats_above_truth", "baselines", "logdet", "roundtrip")
    told = {"seed": seed, "steps": status["steps"], "seconds": status["seconds"], "parameters": status["model"]["parameters"]}
    return told | {key: evaluation[key] for key in kept}


def mixture(arguments: list[str], seed: int) -> dict[str, Any]:
    """scikit-learn's GaussianMixture with its default reg_covar, components chosen on validation, on the same rows."""
    import torch
    from sklearn.mixture import GaussianMixture

    from iresnet.config import build_config
    from iresnet.numerics.noise import Noise
    from iresnet.runs.folder import load_dataset, rows_of

    options = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    asked = {"data.name": arguments[0], "data.dequantize": options.get("--dequantize"), "seed": seed}
    drop = options.get("--drop")
    dataset = load_dataset(build_config(options=asked | {"data.drop": drop.split(",") if drop else None}))
    like = torch.zeros((), dtype=torch.float64)
    fitted, held, test = (rows_of(dataset, split).all(like, Noise(seed)) for split in ("train", "validation", "test"))
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EM that has not converged is part of the default setting
        for count in COMPONENTS:
            if 5 * count <= len(fitted.x):
                model = GaussianMixture(count, random_state=seed).fit(fitted.x.numpy())
                figures = [float((model.score_samples(p.x.numpy()) + p.log_jacobian.numpy()).mean()) for p in (held, test)]
                found.append((*figures, count))
    best = max(found)
    return {"log_prob": best[1], "components": best[2]}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread (standard deviation over seeds) of every figure."""

    def over(values: list[float]) -> dict[str, float]:
        return {"mean": statistics.fmean(values), "spread": statistics.stdev(values) if len(values) > 1 else math.nan}

    figures = {"log_prob": over([run["log_prob"]["value"] for run in runs])}
    for key in ("bits_per_dim", "nats_above_truth"):
        if runs[0][key] is not None:
            figures[key] = over([run[key]["value"] for run in runs])
    figures["gaussian"] = over([next(iter(run["baselines"].values())) for run in runs])
    if "mixture" in runs[0]:
        figures["mixture"] = over([run["mixture"]["log_prob"] for run in runs])
        figures["gain_over_mixture"] = over([run["log_prob"]["value"] - run["mixture"]["log_prob"] for run in runs])
    figures["roundtrip_max_error"] = over([run["roundtrip"]["max_error"] for run in runs])
    return figures


def experiment(name: str, seeds: list[int], threads: int, workers: int) -> None:
    """Run what is missing of one experiment and write its file."""
    from iresnet.files import write_json

    arguments, beside = EXPERIMENTS[name]
    path, command = RESULTS / f"{name}.json", f"iresnet train {' '.join(arguments)} --seed SEED"
    known = json.loads(path.read_text()) if path.exists() else {}
    runs = {run["seed"]: run for run in known.get("runs", []) if known.get("command") == command}

    def one(seed: int) -> None:
        runs[seed] = train(arguments, seed, threads) | ({"mixture": mixture(arguments, seed)} if beside else {})
        print(name, seed, json.dumps(summary([runs[seed]])), flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, [seed for seed in seeds if seed not in runs]))
    ordered = [runs[seed] for seed in sorted(runs)]
    machine = {"processor": processor(), "cores": os.cpu_count(), "threads": threads, "at_once": workers}
    content = {"name": name, "command": command, "remake": f"python experiments/quality.py {name}", "machine": machine}
    write_json(path, content | {"summary": summary(ordered), "runs": ordered})


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="experiments; all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    parser.add_argument("--workers", type=int, default=1, help="runs at once")
    given = parser.parse_args()
    unknown = set(given.names) - set(EXPERIMENTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(EXPERIMENTS)}")
    for name in given.names or EXPERIMENTS:
        experiment(name, given.seeds, given.threads, given.workers)


if __name__ == "__main__":
    main()
