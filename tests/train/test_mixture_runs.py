"""Runs over a mixture base: set by EM at step 0, and on the latents of another run's flow where --init brings one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from iresnet import load
from iresnet.config import build_config
from iresnet.runs import train_run

SMALL = {"data.name": "pinwheel", "data.n": 500, "model.blocks": 2, "model.hidden": [8], "train.lr": 1e-3}
MIXTURE = {"model.base": "mixture", "model.components": 7}


def first_figure(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(line["log_prob"] for line in lines if line["split"] == "validation")


def test_a_run_starts_at_a_mixture(tmp_path: Path) -> None:
    steps = {"train.steps": 4, "train.validate_every": 2}
    train_run(build_config(options=SMALL | steps), tmp_path / "normal")
    train_run(build_config(options=SMALL | steps | MIXTURE), tmp_path / "mixture")
    assert first_figure(tmp_path / "mixture") > first_figure(tmp_path / "normal") + 0.3
    base = load(tmp_path / "mixture").base
    assert bool(base.initialized) and base.components == 7


def test_a_mixture_is_fitted_to_the_latents_of_a_given_flow(tmp_path: Path) -> None:
    train_run(build_config(options=SMALL | {"train.steps": 60, "train.lr": 1e-2}), tmp_path / "normal")
    train_run(build_config(options=SMALL | MIXTURE | {"train.steps": 2}), tmp_path / "mixture", init=tmp_path / "normal")
    before, after = load(tmp_path / "normal"), load(tmp_path / "mixture")
    assert bool(after.base.initialized)
    kept, given = after.bijection.state_dict(), before.bijection.state_dict()
    for key, value in given.items():  # two small steps on
        torch.testing.assert_close(kept[key], value, rtol=0, atol=0.01)
    assert any(float(value.abs().max()) > 0.1 for key, value in given.items() if "gain" in key), "no longer the identity"
    train_run(build_config(options=SMALL | MIXTURE | {"train.steps": 2}), tmp_path / "again", init=tmp_path / "mixture")
    assert torch.equal(load(tmp_path / "again").base.centers, after.base.centers), "a mixture that is given is not fitted again"
