"""normflows' own example of a residual flow, trained for 6,000 of its steps: its exact test likelihood over time.

python -m benchmarks.curves [moons] [checkerboard]     writes results/benchmarks/curves/normflows-NAME.json

The example (its notebook ``residual``): 16 blocks of 2-128-128-2 bounded by 0.9 a layer, 512 fresh points a step, Adam with
learning rate 3e-4 and weight decay 1e-5, 50 power iterations after every step. Its likelihood is measured in float64 with the
full Jacobian of its network, not by its estimator. Only training is timed. A recorded curve is not measured again.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iresnet.data import toy
from iresnet.files import write_json

from .harness import RESULTS, Options, machine, versions
from .peers import Architecture, Peer, build, exact_log_prob

__all__ = ["EXAMPLE", "STEPS", "ExampleStep", "curve", "test_points"]

FOLDER = RESULTS / "curves"
STEPS, EVERY, BATCH = 6000, 500, 512
EXAMPLE = Architecture(2, blocks=16, hidden=(128, 128), lipschitz=0.9**3, iterations=50)


def test_points(name: str) -> Tensor:
    """10,000 points (N, 2) in float64 that nobody trains on."""
    return toy.sample(name, 10_000, seed=2**31)


class ExampleStep:
    """The example's training loop, a step a call."""

    def __init__(self, name: str, seed: int = 0) -> None:
        import numpy as np

        torch.manual_seed(seed)
        np.random.seed(seed)  # the peer draws its number of terms from numpy's global generator
        self.name, self.seed, self.count = name, seed, 0
        self.peer: Peer = build("normflows", EXAMPLE)
        self.peer.initialize(self.batch())
        self.optimizer = torch.optim.Adam(self.peer.parameters(), lr=3e-4, weight_decay=1e-5)

    def batch(self) -> Tensor:
        """Fresh points, as the example draws them: scikit-learn's moons with noise 0.1."""
        if self.name != "moons":
            return toy.sample(self.name, BATCH, seed=1 + self.count + STEPS * self.seed).float()
        from sklearn.datasets import make_moons

        return torch.from_numpy(make_moons(BATCH, noise=0.1)[0]).float()

    def __call__(self) -> None:
        self.count += 1
        self.optimizer.zero_grad()
        loss = -self.peer.log_prob(self.batch()).mean()
        if torch.isfinite(loss):
            loss.backward()
            self.optimizer.step()
        self.peer.settle()


def curve(name: str, seed: int = 0, folder: Path = FOLDER) -> dict[str, Any]:
    """The recorded curve of that data set, measured first if there is none."""
    path = folder / f"normflows-{name}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    options = Options(threads=torch.get_num_threads())
    began, test = machine(options), test_points(name)
    truth = float(toy.log_density(name, test).mean())
    step, points, wall, processor = ExampleStep(name, seed), [], 0.0, 0.0
    while True:
        found = exact_log_prob(copy.deepcopy(step.peer).double().eval().encode, test)
        points.append({"steps": step.count, "seconds": wall, "processor_seconds": processor, "log_prob": float(found.mean())})
        print(name, points[-1], f"above truth {truth - points[-1]['log_prob']:.4f}", flush=True)
        if step.count == STEPS:
            break
        first, first_processor = time.perf_counter(), time.process_time()
        for _ in range(EVERY):
            step()
        wall, processor = wall + time.perf_counter() - first, processor + time.process_time() - first_processor
    remake = f"python -m benchmarks.curves {name}"
    content = {"name": f"normflows-{name}", "remake": remake, "machine": began, "versions": versions(), "seed": seed}
    write_json(path, content | {"true_log_prob": truth, "rows": points})
    return content | {"true_log_prob": truth, "rows": points}


if __name__ == "__main__":
    parser = Options.parser(__doc__)
    parser.add_argument("names", nargs="*", default=["moons", "checkerboard"])
    given = parser.parse_args()
    Options(given.threads).apply()
    for each in given.names:
        curve(each)
