"""Remake results/contraction/precision.json: does it pay to train with branches in bfloat16?

    IRESNET_DATA=... python experiments/precision.py

Three ways: float32; *rounded*, where factors of products go to bfloat16 and sums stay in float32 (oneDNN's
``fp32_precision``); and *bf16*, the library's own ``train.precision``, which is ``torch.autocast`` of the branches.
Weights are constrained, and determinants added up, in float32 in all of them. ``step`` is processor time of a training
step, in turns, as a median ratio to float32, with the relative change of the gradient; ``likelihood`` is what is
reached on held-out rows after equal steps, and in equal time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from contractions import load, trainer
from convolutions import VARIANTS, build, digits
from quality import processor
from torch import Tensor

from iresnet.compiling import bfloat16
from iresnet.contract.base import Branch
from iresnet.files import write_json
from iresnet.flow import Flow
from iresnet.models import dense_flow, image_flow
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries
from iresnet.tasks.density import evaluate

RESULTS = Path(__file__).resolve().parent.parent / "results" / "contraction" / "precision.json"
WAYS = ("float32", "rounded", "bf16")
BATCH, COLUMNS = 512, 43


def rounded(on: bool) -> None:
    """Have oneDNN round the factors of float32 products and convolutions to bfloat16, or not."""
    backend: Any = torch.backends.mkldnn
    for part in (backend.matmul, backend.conv):
        part.fp32_precision = "bf16" if on else "ieee"


def step(flow: Flow, x: Tensor, way: str) -> Tensor:
    """One forward and backward pass; the gradient, flat."""
    torch.manual_seed(0)  # the same roulette in every way
    flow.zero_grad()
    for branch in (part for part in flow.modules() if isinstance(part, Branch)):
        branch.bf16 = way == "bf16"
    bound = flow.train().bind()
    rounded(way == "rounded")
    (-bound.log_prob(x).mean()).backward()
    rounded(False)
    return torch.cat([one.grad.flatten() for one in flow.parameters() if one.grad is not None])


def steps(flow: Flow, x: Tensor, turns: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step, ratio to float32, and the relative change of the gradient, by way."""
    flow.initialize(x)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith(("gain", "weights.2")):  # what starts at zero
                parameter.normal_(0, 0.3 / (parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 1))
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    gradients = {way: step(flow, x, way) for way in WAYS}
    for _ in range(turns):
        for way in WAYS:
            began = time.process_time()
            step(flow, x, way)
            spent[way].append(time.process_time() - began)
    reference = gradients["float32"]
    return {
        way: {
            "ms": 1e3 * statistics.median(seconds),
            "ratio": statistics.median(a / b for a, b in zip(seconds, spent["float32"], strict=True)),
            "gradient": float((gradients[way] - reference).norm() / reference.norm()),
        }
        for way, seconds in spent.items()
    }


def vectors(seed: int, way: str, count: int) -> dict[str, Any]:
    """The digits, 64 columns, 4 blocks of width 512: log p of test rows after ``count`` steps."""
    train, validation, test = load("digits", seed)
    one = trainer("digits", {"blocks": 4, "hidden": [512, 512]}, seed, (train, validation), count)
    if way == "bf16":
        bfloat16(one.network)
    began = time.process_time()
    one.run()
    seconds = time.process_time() - began
    return {"seconds": seconds, "log_prob": evaluate(one.network.double(), test, seed=seed)[0].value}


def images(seed: int, way: str, count: int) -> dict[str, Any]:
    """MNIST at 14 x 14 x 4, 6 blocks of 48 channels, batches of 64: bits/dim of 500 test images after ``count`` steps."""
    train, test = digits()
    torch.manual_seed(seed)
    flow = build(VARIANTS["sandwich elu"], 6, 0.97)
    flow.initialize(levels(train, torch.randint(len(train), (256,))))
    if way == "bf16":
        bfloat16(flow)
    optimizer = torch.optim.Adam(flow.parameters(), 2e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, count, pct_start=0.1, anneal_strategy="linear")
    bits, began = 784 * math.log(2), time.process_time()
    flow.train()
    for _ in range(count):
        optimizer.zero_grad()
        loss = -flow.log_prob(levels(train, torch.randint(len(train), (64,)))).mean() / bits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.process_time() - began
    flow.eval()
    torch.manual_seed(1)  # the same levels for both ways
    with torch.no_grad():
        found = [
            flow.log_prob(levels(test, rows), logdet=PowerSeries(probes=2, tol=1e-2), noise=Noise(0, rows))
            for rows in torch.arange(500).split(100)
        ]
    return {"seconds": seconds, "bits_per_dim": -float(torch.cat(found).mean()) / bits}


# 280 steps in bfloat16 take about as long as 200 in float32.
LIKELIHOODS = (
    ("mnist", images, "float32", 200),
    ("mnist", images, "bf16", 200),
    ("mnist", images, "bf16", 280),
    ("digits", vectors, "float32", 120),
    ("digits", vectors, "bf16", 120),
)


def levels(images: Tensor, rows: Tensor) -> Tensor:
    """Those images, dequantised."""
    chosen = images[rows].float()
    return chosen + torch.rand(chosen.shape).clamp(max=1 - 1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    machine = {"processor": processor(), "cores": os.cpu_count(), "threads": 1}
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    head = {"name": "precision", "remake": "python experiments/precision.py", "machine": machine, "versions": versions}
    held: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows, reached = held.get("rows", []), held.get("likelihood", [])

    def keep(target: list[dict[str, Any]], row: dict[str, Any]) -> None:
        target.append(row)
        print(row, flush=True)
        write_json(RESULTS, head | {"rows": rows, "likelihood": reached})

    known = [(row["network"], row["width"]) for row in rows]
    for family, width, blocks in product(("sandwich", "gram"), (32, 128, 512), (16,)):
        if (f"dense, {family}", width) not in known:
            torch.manual_seed(0)
            blocks = 4 if width == 512 else blocks
            flow = dense_flow(COLUMNS, blocks=blocks, hidden=(width, width), lipschitz=0.99, family=family)
            about = {"network": f"dense, {family}", "width": width, "blocks": blocks, "batch": BATCH}
            keep(rows, about | {"step": steps(flow, torch.randn(BATCH, COLUMNS), 5)})
    for width, batch in ((48, 64), (128, 32)):
        if ("convolutions, sandwich", width) not in known:
            torch.manual_seed(0)
            flow = image_flow((1, 28, 28), blocks=(2, 2, 2), hidden=(width, width), nonlinearity="elu")
            about = {"network": "convolutions, sandwich", "width": width, "blocks": 6, "batch": batch}
            keep(rows, about | {"step": steps(flow, torch.rand(batch, 1, 28, 28) * 256, 3)})
    done = [(row["data"], row["seed"], row["way"], row["steps"]) for row in reached]
    for seed, (data, train, way, count) in product(asked.seeds, LIKELIHOODS):
        if (data, seed, way, count) not in done:
            keep(reached, {"data": data, "seed": seed, "way": way, "steps": count} | train(seed, way, count))


if __name__ == "__main__":
    main()
