"""A run that stopped at any step goes on to the same end, bit for bit: dequantised levels, labels, early stopping, averages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from iresnet.checkpoint import load_state, save_state
from iresnet.config import Config, build_config
from iresnet.errors import UserError
from iresnet.models import dense_flow
from iresnet.runs import train_run
from iresnet.settings import Settings
from iresnet.tasks.rows import Rows
from iresnet.train import Trainer

EARLY = {"train.lr": 0.3, "train.patience": 1, "train.validate_every": 5, "model.blocks": 4}
BASE = {"model.blocks": 1, "model.hidden": [8], "train.steps": 40, "train.batch_size": 100, "train.log_every": 6}
CASES: dict[str, dict[str, Any]] = {
    "levels, estimated log-determinant": {"data.name": "digits", "data.n": 300},
    "by label": {"data.name": "moons", "data.n": 300, "data.label": "moon"},
    "power iteration, which has state": {"data.name": "moons", "data.n": 300, "model.family": "power"},
    "a mixture as base": {"data.name": "moons", "data.n": 300, "model.base": "mixture", "model.components": 6},
    "early stopping": {"data.name": "moons", "data.n": 20, **EARLY},
    "classes": {"task": "classify", "data.name": "digits", "data.n": 300, "train.smoothing": 0.1},
    "classes by momentum": {"task": "classify", "data.name": "moons", "train.optimizer": "sgd", "train.lr": 0.1},
    "an ordinary ResNet, which has statistics": {"task": "classify", "data.name": "digits", "model.kind": "resnet"},
    "density and classes": {"task": "hybrid", "data.name": "moons", "data.n": 300},
    "weight decay and the soft constraint": {"data.name": "moons", "train.penalty": 0.1, "train.weight_decay": 0.1},
}


def after(steps: int) -> Any:
    """Asked after each step: stop once that many were taken."""
    left = iter(range(steps))
    return lambda: next(left, None) is None


def outcome(run: Path) -> tuple[dict, dict, list[dict]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return load_file(run / "state.safetensors"), load_file(run / "best" / "model.safetensors"), lines


def settings(case: str) -> Config:
    return build_config(options=BASE | CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_resumed_is_the_same_run(case: str, tmp_path: Path) -> None:
    whole = train_run(settings(case), tmp_path / "whole")
    assert whole.complete
    first = train_run(settings(case), tmp_path / "parts", stop=after(5))
    assert not first.complete and first.status["step"] == 6 and first.status["status"] == "interrupted"
    train_run(Config(), tmp_path / "parts", resume=True, stop=after(7))
    assert train_run(Config(), tmp_path / "parts", resume=True).complete
    for mine, theirs in zip(outcome(tmp_path / "parts")[:2], outcome(tmp_path / "whole")[:2], strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert torch.equal(value, theirs[key]), key
    records = outcome(tmp_path / "whole")[2]
    assert outcome(tmp_path / "parts")[2] == records and records
    if case == "early stopping":
        assert records[-1]["step"] < 40, "a case of early stopping has to stop early"


def test_stopped_early_stays_stopped(tmp_path: Path) -> None:
    """A kill between the last save and the word "finished" must not train on."""
    config = settings("early stopping")
    train_run(config, tmp_path / "run")
    before = outcome(tmp_path / "run")
    told = tmp_path / "run" / "run.json"
    told.write_text(told.read_text().replace('"finished"', '"running"'))
    assert train_run(config, tmp_path / "run", resume=True).complete
    after_all = outcome(tmp_path / "run")
    assert after_all[2] == before[2]
    assert all(torch.equal(value, before[0][key]) for key, value in after_all[0].items())


def test_more_steps_in_python_are_one_training() -> None:
    """Trainer.run(until=...) in parts is one run."""
    ends = []
    for parts in ((30,), (1, 2, 15, 16, 30)):
        torch.manual_seed(0)
        flow = dense_flow(2, blocks=1, hidden=(8,))
        rows = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
        flow.initialize(rows)
        records: list[dict] = []
        trainer = Trainer(flow, Rows(rows), Rows(rows[:50]), Settings(steps=30, batch_size=64, log_every=7), [records.append])
        done = [trainer.run(until=part) for part in parts]
        assert done == [False] * (len(parts) - 1) + [True]
        ends.append((flow.state_dict(), [{k: v for k, v in record.items() if k != "seconds"} for record in records]))
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(value, ends[1][0][key]) for key, value in ends[0][0].items())


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    def trainer(width: int) -> Trainer:
        flow = dense_flow(2, blocks=1, hidden=(width,))
        return Trainer(flow, Rows(torch.randn(20, 2)), None, Settings(steps=2))

    save_state(trainer(8), tmp_path / "state", extra={"note": "kept"})
    assert load_state(trainer(8), tmp_path / "state") == {"note": "kept"}
    with pytest.raises(UserError, match="belongs to another model"):
        load_state(trainer(9), tmp_path / "state")
    with pytest.raises(UserError, match="cannot read"):
        load_state(trainer(8), tmp_path / "nothing")
