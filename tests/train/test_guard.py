"""Numbers that are not finite: training stops, says where they came from, and keeps the last good weights."""

from __future__ import annotations

import pytest
import torch

import iresnet
from iresnet import Flow, dense_flow, fit
from iresnet.data import toy
from iresnet.settings import Settings
from iresnet.tasks.rows import Rows
from iresnet.train import Diverged, Trainer

ROWS = toy.sample("moons", 400, seed=1)


def prepared() -> Flow:
    flow = dense_flow(2, blocks=3, hidden=(16,))
    flow.initialize(ROWS)
    return flow


def finite(flow: Flow) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in flow.state_dict().values())


def test_a_rate_that_is_too_large() -> None:
    flow = prepared()
    with pytest.raises(Diverged, match=r"at step \d+, .*; the last good weights are kept: lower the learning rate"):
        fit(flow, ROWS, steps=50, lr=1e30, warmup=0)
    assert finite(flow) and bool(torch.isfinite(flow.eval().log_prob(ROWS)).all())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_data_that_are_not_finite(value: float) -> None:
    flow = prepared()
    before = {key: entry.clone() for key, entry in flow.state_dict().items()}
    rows = ROWS.clone()
    rows[399, 1] = value
    with pytest.raises(Diverged, match="at step 1, in the data itself"):
        fit(flow, rows, steps=5, batch_size=400)
    assert all(torch.equal(flow.state_dict()[key], entry) for key, entry in before.items())


def test_a_weight_that_is_not_finite_is_named() -> None:
    flow = prepared()
    name, parameter = list(flow.named_parameters())[-3]
    with torch.no_grad():
        parameter.flatten()[0] = torch.nan
    with pytest.raises(Diverged, match=f"in the parameter {name.replace('.', '[.]')}"):
        fit(flow, ROWS, steps=5)


def test_the_block_that_overflows_is_named() -> None:
    """The second ActNorm (part 3: whitening, ActNorm, block, ActNorm) multiplies by e^500."""
    flow = prepared()
    with torch.no_grad():
        flow.bijection.parts[3].log_scale.fill_(500.0)  # type: ignore[index, union-attr]
    with pytest.raises(Diverged, match="first after block 3"):
        fit(flow, ROWS, steps=5)


def test_the_last_good_weights_are_those_of_the_last_validation() -> None:
    """Good for twelve steps; then the rate explodes. What is kept was validated, and so were its averages."""
    flow = prepared()
    trainer = Trainer(flow, Rows(ROWS[:300]), Rows(ROWS[300:]), Settings(steps=40, validate_every=5, lr=1e-2, warmup=0))
    trainer.run(until=12)
    best = trainer.best
    at_ten = {key: value.clone() for key, value in trainer._good.items()}
    trainer.settings = Settings(steps=40, validate_every=100, lr=1e30, warmup=0)
    with pytest.raises(Diverged):
        trainer.run()
    assert all(torch.equal(flow.state_dict()[key], value) for key, value in at_ten.items())
    kept = trainer.best_network()
    assert finite(kept)
    assert abs(float(kept.log_prob(ROWS[300:]).mean().detach()) - best) < 1e-4


def test_a_run_that_diverges_leaves_a_model_that_answers(tmp_path, monkeypatch) -> None:
    """From the command line: nothing was validated yet, so the Gaussian that training started from is kept."""
    import json

    from iresnet.config import build_config
    from iresnet.runs import train_run

    monkeypatch.chdir(tmp_path)
    options = {"data.name": "moons", "data.n": 200, "train.lr": 1e30, "model.blocks": 1, "train.steps": 30}
    with pytest.raises(Diverged):
        train_run(build_config(options=options), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "diverged"
    flow = iresnet.load(tmp_path / "run")
    assert bool(torch.isfinite(flow.log_prob(ROWS)).all())
    assert iresnet.certify(flow).holds
