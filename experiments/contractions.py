"""Remake results/contraction/dense.json: which dense branch learns best at equal time; and docs/contractions.md.

    python experiments/contractions.py                       all runs that the file does not hold (about two hours on two cores)
    python experiments/contractions.py --only activation     one question
    python experiments/contractions.py --page                write docs/contractions.md from results/contraction/*.json
    python experiments/contractions.py --check               exit with 1 if the page is not what the files say

Equal time means equal steps of a reference: each run measures the cost of its step beside that of the reference, in
turns and after both have trained a little, and takes as many steps as the reference's take. A busy machine so slows
both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from contraction_page import PAGE, page
from quality import processor
from tried_activations import ACTIVATIONS
from tried_branches import exchange

from iresnet.data import toy
from iresnet.files import write_json
from iresnet.flow import Flow
from iresnet.models import dense_flow
from iresnet.tasks.density import evaluate
from iresnet.tasks.rows import Rows
from iresnet.train import Settings, Trainer

RESULTS = Path(__file__).resolve().parent.parent / "results" / "contraction" / "dense.json"


# The reference of each data set: the command's own defaults, and those of its preset small-table.
REFERENCES: dict[str, dict[str, Any]] = {
    "checkerboard": {"blocks": 16, "hidden": [32, 32], "lipschitz": 0.99, "lr": 1e-2, "base": "normal"},
    "digits": {"blocks": 8, "hidden": [32, 32], "lipschitz": 0.99, "lr": 5e-3, "base": "student"},
}
REFERENCE_STEPS = {"checkerboard": 1000, "digits": 600}

# Question: what each answer changes of the reference. The reference itself is an answer to every question.
QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "reference": {"reference": {}},
    "activation": {name: {"nonlinearity": name} for name in ("elu", "softplus", "relu", "sigmoid", *ACTIVATIONS)},
    "depth": {"1 x 32": {"hidden": [32]}, "3 x 32": {"hidden": [32] * 3}, "4 x 32": {"hidden": [32] * 4}},
    "shape": {
        "4 blocks of 128": {"blocks": 4, "hidden": [128, 128]},
        "8 blocks of 64": {"blocks": 8, "hidden": [64, 64]},
        "32 blocks of 16": {"blocks": 32, "hidden": [16, 16]},
    },
    "lipschitz": {str(c): {"lipschitz": c} for c in (0.9, 0.97, 0.995, 0.999)},
    "family": {
        "gram tanh": {"family": "gram"},
        "gram elu": {"family": "gram", "nonlinearity": "elu"},
        "gram lipswish": {"family": "gram", "nonlinearity": "lipswish"},
        "gram tanh, lr 0.003": {"family": "gram", "lr": 3e-3},
    },
    "held": {
        "almost orthogonal layers": {"kind": "held", "hold": "aol"},
        "sandwich, [A B] almost orthogonal": {"kind": "held sandwich", "hold": "aol"},
        "sandwich, [A B] over its Gram bound": {"kind": "held sandwich", "hold": "gram"},
    },
    "residual": {
        "SLL, 32 wide": {"kind": "residual", "way": "sll", "width": 32},
        "SLL, as wide as x": {"kind": "residual", "way": "sll"},
        "CPL, 32 wide": {"kind": "residual", "way": "cpl", "width": 32},
        "CPL, as wide as x": {"kind": "residual", "way": "cpl"},
        "SLL, as wide as x, 3 layers": {"kind": "residual", "way": "sll", "hidden": [32] * 3},
    },
    "concatenation": {
        "concatenated tanh": {"kind": "concatenated"},
        "concatenated lipswish": {"kind": "concatenated", "nonlinearity": "lipswish"},
        "concatenated clipswish": {"kind": "concatenated", "nonlinearity": "clipswish"},
        "concatenated tanh, 3 layers of 16": {"kind": "concatenated", "hidden": [16] * 3},
        "sandwich with 2 linear units more": {"kind": "skip sandwich", "linear": 2},
        "sandwich with 8 linear units more": {"kind": "skip sandwich", "linear": 8},
    },
}
# What an answer gives to a branch of experiments/tried_branches.py.
TRIED = ("kind", "hold", "way", "width", "linear")


def build(data: str, change: dict[str, Any], seed: int) -> tuple[Flow, float]:
    """The flow of an answer, and its learning rate."""
    given = {"family": "sandwich", "nonlinearity": "tanh"} | REFERENCES[data] | change
    rate, nonlinearity = given.pop("lr"), given.pop("nonlinearity")
    tried = {key: given.pop(key) for key in TRIED if key in given}
    columns = 2 if data == "checkerboard" else 64
    torch.manual_seed(seed)
    if tried:
        flow = dense_flow(columns, **given)
        return exchange(flow, tried.pop("kind"), given["hidden"], given["lipschitz"], nonlinearity, **tried), rate
    return dense_flow(columns, nonlinearity=ACTIVATIONS.get(nonlinearity, nonlinearity), **given), rate


def load(data: str, seed: int) -> tuple[Rows, Rows | None, Rows]:
    """Training, validation and test rows; fresh points need no validation."""
    if data == "checkerboard":
        return Rows(toy.sample(data, 50_000, seed=seed)), None, Rows(toy.sample(data, 20_000, seed=1_000_000 + seed))
    from iresnet.config import build_config
    from iresnet.runs.folder import load_dataset, rows_of

    dataset = load_dataset(build_config(options={"data.name": data, "seed": seed}))
    train, validation, test = (rows_of(dataset, split) for split in ("train", "validation", "test"))
    return train, validation, test


def trainer(data: str, change: dict[str, Any], seed: int, rows: tuple[Rows, Rows | None], steps: int) -> Trainer:
    """A trainer of a flow that is initialised on its rows."""
    flow, rate = build(data, change, seed)
    flow.initialize(rows[0].all(torch.zeros((), dtype=torch.float64)).x)
    period = 20 if rows[1] is not None else None
    return Trainer(flow, *rows, Settings(steps=steps, lr=rate, seed=seed, log_every=10**6, validate_every=period))


def relative_cost(data: str, change: dict[str, Any], seed: int, rows: tuple[Rows, Rows | None]) -> float:
    """The cost of a step in steps of the reference: the median of turns, after both have trained for 60 steps."""
    pair = [trainer(data, one, seed, (rows[0], None), 10_000) for one in ({}, change)]
    ratios = []
    for turn in range(8):
        spent = []
        for one in pair:
            began = time.process_time()
            one.run(until=one.step + (60 if turn == 0 else 10))
            spent.append(time.process_time() - began)
        ratios.append(spent[1] / spent[0])
    return statistics.median(ratios[1:])


def run(data: str, change: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run: its held-out figures and what it took."""
    torch.set_num_threads(1)
    train, validation, test = load(data, seed)
    pair = (train, validation)
    ratio = relative_cost(data, change, seed, pair) if change else 1.0
    steps = round(REFERENCE_STEPS[data] / ratio)
    one = trainer(data, change, seed, pair, steps)
    began = time.process_time()
    one.run()
    seconds, flow = time.process_time() - began, one.network.double()
    figure, values = evaluate(flow, test, seed=seed)
    told: dict[str, Any] = {"steps": steps, "relative_cost": ratio, "seconds": seconds, "log_prob": figure.value}
    told["parameters"] = sum(parameter.numel() for parameter in flow.parameters())
    if data in toy.NAMES:
        told["nats_above_truth"] = float((toy.log_density(data, test.values) - values).mean())
    return told


def missing(asked: argparse.Namespace, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The runs that are asked for and not there, seed by seed."""
    held = {(row["data"], row["question"], row["answer"], row["seed"]) for row in rows}
    every = [
        {"data": data, "question": question, "answer": answer, "seed": seed, "change": change}
        for seed in asked.seeds
        for data in asked.data
        for question in asked.only
        for answer, change in QUESTIONS[question].items()
        if asked.answers is None or answer in asked.answers
    ]
    return [one for one in every if (one["data"], one["question"], one["answer"], one["seed"]) not in held]


def run_all(asked: argparse.Namespace) -> None:
    """Each run in a process of its own; the file is written after each."""
    content: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    rows, lock = content["rows"], Lock()

    def one(job: dict[str, Any]) -> None:
        command = [sys.executable, __file__, "--job", json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        if done.returncode:
            print(f"{job} failed: {done.stderr.strip()[-1500:]}", file=sys.stderr, flush=True)
            return
        told = json.loads(done.stdout.splitlines()[-1])
        with lock:
            rows.append({key: job[key] for key in ("data", "question", "answer", "seed")} | told)
            rows.sort(key=lambda row: (row["data"], list(QUESTIONS).index(row["question"]), row["answer"], row["seed"]))
            head = {"name": "dense", "remake": "python experiments/contractions.py"}
            machine = {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "at_once": asked.workers}
            versions = {"torch": torch.__version__, "python": platform.python_version()}
            references = {"reference": REFERENCES, "reference_steps": REFERENCE_STEPS}
            write_json(RESULTS, head | {"machine": machine, "versions": versions} | references | {"rows": rows})
            print(job["data"], job["answer"], job["seed"], json.dumps(told), flush=True)

    with ThreadPoolExecutor(asked.workers) as pool:
        list(pool.map(one, missing(asked, rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(QUESTIONS), default=list(QUESTIONS))
    parser.add_argument("--answers", nargs="+", metavar="ANSWER", help="of the questions, only these answers")
    parser.add_argument("--data", nargs="+", choices=list(REFERENCES), default=list(REFERENCES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1, help="runs at once")
    parser.add_argument("--page", action="store_true", help="write the page")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is stale")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        print(json.dumps(run(asked.job["data"], asked.job["change"], asked.job["seed"])))
    elif asked.check:
        fresh = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        sys.exit(0 if fresh else "docs/contractions.md is stale: run python experiments/contractions.py --page")
    elif asked.page:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        run_all(asked)


if __name__ == "__main__":
    main()
