"""Training: it learns, says how it goes, keeps the best averaged weights, and takes its rows as it promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from iresnet import Flow, dense_flow, fit
from iresnet.contract import penalty
from iresnet.data import toy
from iresnet.settings import Settings
from iresnet.tasks.rows import Rows
from iresnet.train import Trainer

ROWS = toy.sample("moons", 600, seed=1)
HELD = toy.sample("moons", 400, seed=2)


def small(seed: int = 0, **more: object) -> Flow:
    torch.manual_seed(seed)
    return dense_flow(2, **{"blocks": 2, "hidden": (16,), **more})  # type: ignore[arg-type]


def gaussian(x: Tensor, held: Tensor) -> float:
    """Mean log-density of ``held`` under the Gaussian of ``x``."""
    normal = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.mT, correction=0))
    return float(normal.log_prob(held).mean())


def mean(flow: Flow, x: Tensor, context: Tensor | None = None) -> float:
    """Mean log-density under ``flow``."""
    with torch.no_grad():
        return float(flow.log_prob(x, context).mean())


def weights(flow: Flow) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in flow.state_dict().items()}


def test_training_starts_at_the_gaussian_and_passes_it() -> None:
    flow = small()
    flow.initialize(ROWS)
    flow.eval()
    base = gaussian(ROWS, HELD)
    assert abs(mean(flow, HELD) - base) < 1e-3, "a new flow is the full-covariance Gaussian"
    history = fit(flow, ROWS, steps=150, batch_size=200, lr=2e-2, validation=HELD)
    assert not flow.training
    reached = mean(flow, HELD)
    assert reached > base + 0.2
    best = max(record["log_prob"] for record in history if record["split"] == "validation")
    assert abs(reached - best) < 1e-4, "the flow holds its best averaged weights"


def test_records() -> None:
    told: list[dict] = []
    history = fit(small(), ROWS, steps=30, seed=3, validation=HELD, log_every=10, validate_every=15, callbacks=[told.append])
    assert told == history
    train = [record for record in history if record["split"] == "train"]
    assert [record["step"] for record in train] == [10, 20, 30]
    assert all({"loss", "grad_norm", "lr", "seconds"} <= record.keys() for record in train)
    held = [record for record in history if record["split"] == "validation"]
    assert [record["step"] for record in held] == [15, 30]
    assert held[0]["best"] and held[0]["stderr_data"] > 0 and held[0]["stderr_estimator"] == 0.0


def test_the_logged_loss_is_the_mean_of_the_steps_since() -> None:
    """With a rate too small to change anything, it is minus the mean log-density of the rows that were used."""
    flow = small()
    history = fit(flow, ROWS, steps=6, batch_size=100, lr=1e-12, log_every=6)
    flow.eval()
    assert math.isclose(history[0]["loss"], -mean(flow, ROWS), abs_tol=1e-4)


def test_warm_up_and_decay() -> None:
    settings = Settings(steps=100, lr=0.1, warmup=10)
    rates = [settings.rate(step) for step in range(100)]
    assert math.isclose(rates[0], 0.01, rel_tol=1e-3) and rates.index(max(rates)) in (9, 10) and max(rates) <= 0.1
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 1e-4
    assert Settings(steps=8, lr=0.1, warmup=50).rate(1) > 0.08, "a short run does not spend itself on warming up"


@pytest.mark.parametrize(
    "name, value", [("steps", 0), ("batch_size", 0), ("lr", 0.0), ("lr", math.nan), ("ema", 1.0), ("log_every", 0)]
)
def test_settings_refuse_what_cannot_be(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="training needs"):
        Settings(**{name: value})  # type: ignore[arg-type]


def test_the_gradient_is_clipped() -> None:
    """AdamW divides lengths away, so this looks at the gradient itself."""
    flow = small()
    flow.initialize(ROWS)
    trainer = Trainer(flow, Rows(ROWS), None, Settings(steps=3, clip=1e-3))
    trainer.run()
    norm = torch.stack([parameter.grad.norm() for parameter in trainer.parameters if parameter.grad is not None]).norm()
    assert float(norm) <= 1e-3 * (1 + 1e-5)


def test_each_epoch_is_an_order_of_its_own() -> None:
    trainer = Trainer(small(), Rows(ROWS[:103]), None, Settings(batch_size=10, seed=5))
    taken = torch.cat([trainer.places(step) for step in range(103)])
    epochs = taken.reshape(10, 103)
    for order in epochs:
        assert torch.equal(order.sort().values, torch.arange(103)), "every row once an epoch"
    assert not torch.equal(epochs[0], epochs[1])
    again = Trainer(small(), Rows(ROWS[:103]), None, Settings(batch_size=10, seed=5))
    assert torch.equal(again.places(77), trainer.places(77)), "a function of seed and step, whatever came before"
    other = Trainer(small(), Rows(ROWS[:103]), None, Settings(batch_size=10, seed=6))
    assert not torch.equal(other.places(77), trainer.places(77))


def test_a_batch_larger_than_the_data_is_the_data() -> None:
    trainer = Trainer(small(), Rows(ROWS[:30]), None, Settings(batch_size=1000))
    assert torch.equal(trainer.places(3).sort().values, torch.arange(30))
    assert len(fit(small(), ROWS[:30], steps=2, batch_size=1000, log_every=1)) == 2


def test_the_same_seed_is_the_same_training() -> None:
    flows = [small(), small(), small()]
    for flow, seed in zip(flows, (1, 1, 2), strict=True):
        torch.manual_seed(seed * 17 + len(flows))  # the global generator has no say
        fit(flow, ROWS, steps=5, seed=seed)
    first, second, other = (weights(flow) for flow in flows)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_averages_follow_floats_and_copy_the_rest() -> None:
    """Power iteration's flags and counters must not be averaged: a mean of counters is no counter."""
    flow = small()
    flow.register_buffer("count", torch.zeros((), dtype=torch.int64))
    flow.initialize(ROWS)
    trainer = Trainer(flow, Rows(ROWS), None, Settings(steps=100, ema=0.9))
    name = next(name for name, parameter in flow.named_parameters() if parameter.numel() > 4)
    expected = weights(flow)[name]
    for step in range(1, 30):
        flow.count += 3  # type: ignore[operator]
        trainer.run(until=step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * flow.state_dict()[name]
    torch.testing.assert_close(trainer.average[name], expected, rtol=1e-5, atol=1e-6)
    assert int(trainer.average["count"]) == int(flow.count) == 87  # type: ignore[arg-type]
    assert trainer.average["count"].dtype == torch.int64


def test_early_stopping_keeps_the_best() -> None:
    """Forty rows are learned by heart; validation says when."""
    flow = small(blocks=4, hidden=(32,))
    settings = {"steps": 400, "lr": 3e-2, "validate_every": 10, "patience": 3, "ema": 0.0}
    history = fit(flow, ROWS[:40], validation=HELD, **settings)
    held = [record for record in history if record["split"] == "validation"]
    values = [record["log_prob"] for record in held]
    assert held[-1]["step"] < 400, "it stopped early"
    assert len(values) - 1 - values.index(max(values)) == 3, "after three validations without a new best"
    assert abs(mean(flow, HELD) - max(values)) < 1e-4


def test_the_soft_constraint_pulls_weights_down() -> None:
    found = []
    for strength in (0.0, 10.0):
        flow = small(family="free")
        fit(flow, ROWS, steps=40, lr=2e-2, penalty=strength)
        found.append(float(penalty(flow).detach()))
    assert found[1] < 0.7 * found[0]


def test_weights_that_have_been_initialised_are_not_again() -> None:
    flow = small()
    flow.initialize(ROWS)
    before = weights(flow)
    fit(flow, ROWS * 100, steps=1, lr=1e-12, ema=0.0)
    for key, value in weights(flow).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)


def test_context_must_fit_the_flow() -> None:
    label = torch.nn.functional.one_hot(torch.arange(600) % 2, 2).double()
    with pytest.raises(ValueError, match="unconditional"):
        fit(small(), ROWS, label, steps=1)
    with pytest.raises(ValueError, match="needs a context"):
        fit(small(context=2), ROWS, steps=1)
    with pytest.raises(ValueError, match="needs a context"):
        fit(small(context=2), ROWS, label, steps=1, validation=HELD)
    with pytest.raises(ValueError, match="no rows"):
        Trainer(small(), Rows(ROWS[:0]), None, Settings())


def test_a_context_that_matters_is_used() -> None:
    points, label = toy.sample_labelled("moons", 600, seed=1)
    held, held_label = toy.sample_labelled("moons", 400, seed=2)
    codes, held_codes = (torch.nn.functional.one_hot(part.long(), 2).double() for part in (label, held_label))
    flow = small(context=2)
    fit(flow, points, codes, steps=150, lr=2e-2, validation=(held, held_codes))
    right, wrong = mean(flow, held, held_codes), mean(flow, held, 1 - held_codes)
    assert right > wrong + 0.5 and right > gaussian(points, held) + 0.3
