"""Chains that train by kernels in C++ against the same chains that do not."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from law_cases import branch, rows
from test_joined import ESTIMATORS, ROULETTES, answers, chain, same

from iresnet.bijections import ActNorm, Chain, Residual, fused
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries


@pytest.fixture
def runs(run, monkeypatch):
    """How many blocks went together in each fused run."""
    seen, plain = [], fused.FusedRun.forward_and_logdet

    def counted(self, *given):
        seen.append(len(self.blocks))
        return plain(self, *given)

    monkeypatch.setattr(fused.FusedRun, "forward_and_logdet", counted)
    return seen


def by(made, backend):
    for part in made.parts:
        if isinstance(part, Residual):
            part.branch.train().compiled = backend
    return made


def by_kernels(made):
    return by(made, "kernels")


EVERY = (*ESTIMATORS, *(PowerSeries(2, **roulette) for roulette in ROULETTES), PowerSeries(1, first_trace=False, **ROULETTES[1]))


@pytest.mark.parametrize("name", ("relu", "elu", "tanh", "sigmoid"))
@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_a_chain_by_kernels_is_the_chain(family, name, runs, two_threads):
    for hidden, context, estimator in product(((5,), (8, 6), (4, 7, 5)), (0, 2), EVERY):
        made = chain(family, (hidden,) * 4, name, context)
        x, given = rows(300, 3), rows(300, context, 9) if context else None
        wanted = answers(made, estimator, x, given)
        same(answers(by_kernels(made), estimator, x, given), wanted)
    assert set(runs) == {4}


def test_blocks_that_differ_are_in_other_runs(runs):
    shapes = ((8, 6), (8, 6), (5,), (5,), (8, 6))
    made, x = chain(shapes=shapes), rows(7, 3)
    wanted = answers(made, PowerSeries(3), x)
    same(answers(by_kernels(made), PowerSeries(3), x), wanted)
    assert runs == [2, 2, 1]
    runs.clear()
    other = Chain([*chain().parts, Residual(branch("gram", 3, (8, 6), 0.5, "tanh")), ActNorm(3).double()]).double()
    wanted = answers(other, PowerSeries(3), x)
    same(answers(by_kernels(other), PowerSeries(3), x), wanted)
    assert runs == [5, 1]
    found = answers(by_kernels(chain()), PowerSeries(3), x[:0])
    assert found[0].shape == (0, 3) and all(float(one.abs().sum()) == 0 for one in found[4:])


def test_what_kernels_do_not_do_goes_the_plain_way(runs):
    x = rows(6, 3)
    for made, estimator in ((chain(name="softplus"), PowerSeries(3)), (chain(), PowerSeries(3, gradient="series"))):
        wanted = answers(made, estimator, x)
        same(answers(by_kernels(made), estimator, x), wanted)
    made = by_kernels(chain()).eval()
    answers(made, PowerSeries(3), x)
    with torch.no_grad():
        made.train().bind().forward_and_logdet(x, PowerSeries(3), Noise(0, torch.arange(6)))
    assert not runs


def test_contexts_and_parameters_of_other_layouts(runs):
    made, x = chain(context=2), rows(30, 3)
    for context in (rows(1, 2, 9), rows(30, 2, 9)):
        wanted = answers(by(made, ""), PowerSeries(3), x, context)
        same(answers(by_kernels(made), PowerSeries(3), x, context), wanted)
    made = chain()
    made.parts[2].shift.data = torch.ones(1, dtype=torch.float64).expand(3)
    made.parts[5].log_scale.data = torch.ones(3, 2, dtype=torch.float64)[:, 0]
    wanted = answers(by(made, ""), PowerSeries(3), x)
    same(answers(by_kernels(made), PowerSeries(3), x), wanted)
    assert runs == [5, 5]


def test_transforms_of_torch_go_the_plain_way(runs):
    made, x = by_kernels(chain()), rows(6, 3)
    noise = Noise(0, torch.arange(6))

    def loss(parameters):
        return torch.func.functional_call(_Volume(made), parameters, (x, noise))

    named = {f"made.{name}": parameter.detach() for name, parameter in made.named_parameters()}
    found = torch.func.grad(loss)(named)
    assert not runs and all(torch.isfinite(gradient).all() for gradient in found.values())
    assert torch.compile(lambda y: noise.signs(y) * y, backend="eager", fullgraph=True)(x).shape == x.shape


class _Volume(torch.nn.Module):
    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, x, noise):
        return self.made.bind().forward_and_logdet(x, PowerSeries(3), noise)[1].value.sum()


def test_the_gradient_of_the_gradient_is_refused(runs):
    made, x = by_kernels(chain()), rows(6, 3).requires_grad_(True)
    z, estimate = made.bind().forward_and_logdet(x, PowerSeries(3), Noise(0, torch.arange(6)))
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(estimate.value.sum() + z.sum(), x, create_graph=True)
    assert runs == [5]
