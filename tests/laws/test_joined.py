"""Log-determinants of several blocks found together are those that each block has alone, and so are their gradients."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from law_cases import MONOTONE, branch, rows

from iresnet.bijections import ActNorm, Chain, Residual, waiting
from iresnet.numerics.logdet import Exact
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries
from iresnet.testing import randomized

ESTIMATORS = (
    PowerSeries(4),
    PowerSeries(3, probes=3),
    PowerSeries(2, product="jvp", distribution="gaussian"),
    PowerSeries(3, first_trace=False),
    PowerSeries(3, recompute=True),
    PowerSeries(3, probes=2, first_trace=False, product="jvp"),
)
ROULETTES = ({"roulette": "geometric", "tail": 0.5}, {"roulette": "adaptive"}, {"roulette": "adaptive", "tail": 0.7})


class Alone:
    """An estimator that takes one block at a time: the naive twin."""

    def __init__(self, estimator):
        self.estimator = estimator

    def __call__(self, function, x, noise=None):
        return self.estimator(function, x, noise)


def chain(family="gram", shapes=((8, 6),) * 5, name="tanh", context=0, features=3, lipschitz=0.8):
    """Blocks of these hidden widths with ActNorms between some of them, in float64."""
    parts = []
    for index, hidden in enumerate(shapes):
        parts += [Residual(branch(family, features, hidden, lipschitz, name, context, seed=index))]
        parts += [randomized(ActNorm(features), 0.3, index).double()] if index % 2 else []
    return Chain(parts).double()


def answers(made, estimator, x, context=None, *, latents=True, volume=True):
    """Latents, log-determinants with their errors, and gradients of a random combination by x and all parameters."""
    x = x.clone().requires_grad_(True)
    z, estimate = made.bind(context).forward_and_logdet(x, estimator, Noise(3, torch.arange(len(x)) + 11))
    weights = rows(len(x), z.shape[1] + 1, 5)
    loss = (weights[:, 1:] * z).sum() * latents + (weights[:, 0] * estimate.value).sum() * volume
    found = torch.autograd.grad(loss, [x, *made.parameters()], materialize_grads=True)
    return z.detach(), estimate.value.detach(), estimate.stderr, estimate.bias, *found


def same(mine, other):
    for one, two in zip(mine, other, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.fixture
def joins(monkeypatch):
    """How many blocks were joined in each call, which tells that a test has joined any."""
    seen = []

    def counted(self, at, lipschitz, noises, luck, _plain=PowerSeries.joint):
        seen.append(len(noises))
        return _plain(self, at, lipschitz, noises, luck)

    monkeypatch.setattr(PowerSeries, "joint", counted)
    return seen


@pytest.mark.parametrize("name", MONOTONE)
@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_together_is_alone(family, name, joins):
    for hidden, context, estimator in product(((5,), (8, 6), (4, 7, 5)), (0, 2), ESTIMATORS):
        made = chain(family, (hidden,) * 3, name, context)
        x, given = rows(7, 3), rows(7, context, 9) if context else None
        same(answers(made, estimator, x, given), answers(made, Alone(estimator), x, given))
    assert set(joins) == {3}


def test_blocks_wait_for_those_of_their_shape_and_for_as_many_as_there_is_room_for(joins, monkeypatch):
    shapes = ((8, 6), (8, 6), (8, 6), (5,), (5,), (8, 6))
    made, x = chain(shapes=shapes), rows(7, 3)
    wanted = answers(made, Alone(PowerSeries(3)), x)
    same(answers(made, PowerSeries(3), x), wanted)
    assert joins == [3, 2, 1]
    joins.clear()
    monkeypatch.setattr(waiting, "_ENTRIES", 2 * 8 * len(x))  # of the wider ones two at a time, of the narrower ones three
    same(answers(made, PowerSeries(3), x), wanted)
    assert joins == [2, 1, 2, 1]
    joins.clear()
    monkeypatch.setattr(waiting, "_ENTRIES", 8 * len(x) - 1)
    same(answers(made, PowerSeries(3), x), wanted)
    answers(made, PowerSeries(3), x[:0])
    assert joins == []


@pytest.mark.parametrize("roulette", ROULETTES, ids=str)
def test_a_roulette_does_not_depend_on_the_batch_nor_on_who_waits_together(roulette, joins, monkeypatch):
    """What lets training go on with another number of processes, each of which has fewer rows and so larger groups."""
    made, x = chain(shapes=((8, 6),) * 4 + ((5,),), features=6, lipschitz=0.95), rows(12, 6)
    estimator, seeds = PowerSeries(1, first_trace=False, **roulette), range(20)

    def found(part, seed):
        given = x[part].requires_grad_(True)
        z, estimate = made.bind().forward_and_logdet(given, estimator, Noise(seed, torch.arange(12)[part] + 11))
        gradients = torch.autograd.grad(estimate.value.sum() + z.square().sum(), [given, *made.parameters()])
        return estimate.value.detach(), *gradients

    whole = [found(slice(None), seed) for seed in seeds]
    assert joins == [4, 1] * 20
    assert len({round(float(values[0].sum()), 6) for values in whole}) > 10  # another draw for another seed
    joins.clear()
    monkeypatch.setattr(waiting, "_ENTRIES", 3 * 8 * 5)
    for seed, (values, by_x, *by_parameters) in zip(seeds, whole, strict=True):
        parts = [found(part, seed) for part in (slice(0, 5), slice(5, 11), slice(11, 12))]
        same([torch.cat([part[index] for part in parts]) for index in (0, 1)], [values, by_x])
        same([sum(part[index + 2] for part in parts) for index in range(len(by_parameters))], by_parameters)
    assert joins == [3, 1, 1, 2, 2, 1, 4, 1] * 20
    joins.clear()
    monkeypatch.setattr(waiting, "_ENTRIES", 0)
    same(found(slice(None), 7), whole[7])
    assert joins == []


@pytest.mark.parametrize("estimator", (PowerSeries(3, gradient="series"), PowerSeries(), Exact()), ids=repr)
def test_some_estimators_take_one_block_at_a_time(estimator, joins):
    made, x = chain(), rows(7, 3)
    answers(made, estimator, x)
    assert joins == []


@pytest.mark.parametrize("name", ("sine", "lipswish", "maxmin"))
def test_some_branches_go_alone(name, joins):
    made, x = chain(name=name), rows(7, 3)
    same(answers(made, PowerSeries(3), x), answers(made, Alone(PowerSeries(3)), x))
    assert joins == []


def test_a_part_of_the_graph_has_its_own_gradient(joins):
    made, x = chain(), rows(7, 3)
    for used in ({"volume": False}, {"latents": False}):
        same(answers(made, PowerSeries(3), x, **used), answers(made, Alone(PowerSeries(3)), x, **used))
    z, estimate = made.bind().forward_and_logdet(x, PowerSeries(3), Noise(3, torch.arange(7)))
    inputs = list(made.parameters())
    first = torch.autograd.grad(estimate.value.sum(), inputs, retain_graph=True, materialize_grads=True)
    torch.autograd.grad(z.sum(), inputs, retain_graph=True, materialize_grads=True)
    again = torch.autograd.grad(estimate.value.sum(), inputs, retain_graph=True, materialize_grads=True)
    same(first, again)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(estimate.value.sum() + z.sum(), inputs, create_graph=True)
    assert joins


def test_blocks_wait_only_for_those_of_their_constant(joins):
    """By which a geometric roulette goes on, and a remainder is bounded."""
    constants = (0.9, 0.9, 0.5, 0.5, 0.9)
    made = Chain(Residual(branch("gram", 3, (8, 6), constant, "tanh", seed=k)) for k, constant in enumerate(constants)).double()
    x = rows(7, 3)
    same(answers(made, PowerSeries(3), x), answers(made, Alone(PowerSeries(3)), x))
    assert joins == [2, 2, 1]


@pytest.mark.parametrize("roulette", ROULETTES, ids=str)
def test_one_roulette_for_all_is_unbiased(roulette, joins):
    made, estimator = chain(shapes=((6, 6),) * 4, lipschitz=0.6), PowerSeries(1, **roulette)
    x = rows(1, 3).expand(64, 3).contiguous()
    exact = answers(made, Exact(), x[:1])[1]
    parameter = dict(made.named_parameters())["parts.0.branch.weights.1"]

    def gradient(log_determinants):
        return torch.autograd.grad(log_determinants.mean(), parameter)[0].flatten()

    slope = gradient(made.bind().forward_and_logdet(x[:1], Exact(), Noise())[1].value)
    found, slopes = [], []
    for seed in range(150):
        _, estimate = made.bind().forward_and_logdet(x, estimator, Noise(seed, torch.arange(64)))
        found.append(estimate.value.detach().mean())
        slopes.append(gradient(estimate.value))
    for values, truth in ((torch.stack(found)[:, None], exact), (torch.stack(slopes), slope)):
        score = (values.mean(0) - truth) / (values.std(0) / len(values) ** 0.5)
        assert float(score.abs().max()) < 4.5
    assert set(joins) == {4}


def test_joined_noise_is_each_sources_own():
    sources = [
        Noise(seed, torch.tensor(numbers)) for seed, numbers in ((5, (1, 2, 3)), (2**63 + 1, (7, 8, 2**40)), (0, (1, 2, 3)))
    ]
    blank = torch.zeros(9, 4, dtype=torch.float64)
    for draw in (Noise.signs, Noise.uniforms):
        joined = draw(Noise.joined(sources), blank)
        assert torch.equal(joined, torch.cat([draw(source, blank[:3]) for source in sources]))
    with pytest.raises(ValueError, match="sources without rows"):
        Noise.joined([*sources, Noise(4)])
