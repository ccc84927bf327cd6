"""Time until the exact test likelihood passes that of normflows' own example after 6,000 of its steps.

The peer's curve is recorded once (``python -m benchmarks.curves``); its time is 6,000 times what 40 of its steps take here,
measured before each of our runs. Ours is the whole of ``iresnet.fit``, from the first step to the averaged weights, with
settings fixed beforehand: the default family, 16 blocks with hidden widths 32 and 32, c = 0.99, learning rate 0.01, batches
of 512 out of 100,000 points, five seeds. Both likelihoods are those of the same 10,000 test points, by the full Jacobian in
float64; the target is met only if every seed passes.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor

import iresnet
from iresnet.data import toy

from .curves import STEPS, ExampleStep, curve, test_points
from .harness import Options, Row, compare

__all__ = ["OUR_STEPS", "rows"]

OUR_STEPS = {"moons": 300, "checkerboard": 300}
SEEDS, TIMED, POINTS = 5, 40, 100_000


def ours(name: str, seed: int) -> tuple[float, iresnet.Flow]:
    """Seconds of training, and the flow."""
    torch.manual_seed(seed)
    x = toy.sample(name, POINTS, seed).float()
    flow = iresnet.dense_flow(2, blocks=16, hidden=(32, 32), lipschitz=0.99)
    began = time.perf_counter()
    iresnet.fit(flow, x, steps=OUR_STEPS[name], batch_size=512, lr=1e-2, seed=seed)
    return time.perf_counter() - began, flow.eval()


def exact(flow: iresnet.Flow, test: Tensor) -> float:
    """The mean log-density of the test points in float64."""
    with torch.no_grad():
        return float(flow.double().log_prob(test, logdet=iresnet.Exact()).mean())


def rows(options: Options) -> list[Row]:
    """Seconds to the peer's likelihood, on the moons and on the checkerboard."""
    found: list[Row] = []
    for name in OUR_STEPS:
        recorded, test = curve(name), test_points(name)
        truth, goal = recorded["true_log_prob"], recorded["rows"][-1]["log_prob"]
        step, our_seconds, their_seconds, reached = ExampleStep(name), [], [], []
        step()
        for seed in range(SEEDS):
            began = time.perf_counter()
            for _ in range(TIMED):
                step()
            their_seconds.append((time.perf_counter() - began) / TIMED * STEPS)
            seconds, flow = ours(name, seed)
            our_seconds.append(seconds)
            reached.append(exact(flow, test))
            print(f"{name}, seed {seed}: {seconds:.1f} s, {truth - reached[-1]:.4f} nats above the truth", flush=True)
        passed = min(reached) >= goal
        row = compare(f"{name}, {OUR_STEPS[name]} steps", "normflows", "s", our_seconds, their_seconds, target=20.0)
        found.append(row | {"met": row["met"] and passed})
        above = {"ours_worst": truth - min(reached), "ours_best": truth - max(reached), "theirs": truth - goal}
        found.append({"nats_above_the_truth": name, **above, "our_steps": OUR_STEPS[name], "their_steps": STEPS})
    return found
