"""Flows as modules: gradients everywhere, nothing moves in evaluation, copies agree bit for bit, messages are told."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from law_cases import ACTIVATIONS, MONOTONE, SOUND, branch, flow, rows

from iresnet import dense_flow, load, save
from iresnet.bijections import Chain, Residual
from iresnet.bijections.base import Bijection
from iresnet.contract import FAMILIES, Branch, NormalizedBranch, SandwichBranch, dense_branch, penalty
from iresnet.flow import Flow, evaluating
from iresnet.models import BASES
from iresnet.numerics.fixed_point import NotConverged, Picard
from iresnet.numerics.krylov import Krylov
from iresnet.numerics.logdet import Exact
from iresnet.numerics.series import PowerSeries
from iresnet.testing import check_copies, check_parameter_gradients, check_unchanged

LOGDETS = (
    Exact(),
    PowerSeries(terms=2, roulette="adaptive"),
    PowerSeries(probes=2),
    PowerSeries(terms=5, gradient="series"),
    Krylov(probes=2),
)


@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("context", (0, 2))
def test_every_parameter_gets_a_gradient(base, context):
    for family, training in product(SOUND, (True, False)):
        made = flow(3, context, 2, family, base).train(training)
        given = rows(5, context, 3) if context else None
        for logdet in LOGDETS:
            check_parameter_gradients(
                made, lambda made=made, given=given, logdet=logdet: -made.log_prob(rows(5, 3), given, logdet=logdet).sum()
            )
        # The base does not enter an inverse; drawing from it does.
        check_parameter_gradients(
            made, lambda made=made, given=given: made.decode(rows(5, 3), given).square().sum(), unused=("base",)
        )
    one = given[0] if given is not None else None
    loss = flow(3, context, 2, "sandwich", base)
    check_parameter_gradients(loss, lambda: sum(part.sum() for part in loss.sample_and_log_prob(6, one)))


def test_a_new_flow_can_learn_though_its_branches_are_zero():
    """Some part of every branch has a gradient at the identity; after one step all have."""
    for family in FAMILIES:
        made = dense_flow(3, blocks=2, hidden=(6, 6), family=family, whiten=False).double()
        optimizer = torch.optim.SGD(made.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            (-made.log_prob(rows(20, 3)).mean()).backward()
            optimizer.step()
        made.eval()
        unused = ("biases.2",) if family == "power" else ()
        check_parameter_gradients(made, lambda made=made: -made.log_prob(rows(20, 3)).mean(), unused=unused)


@pytest.mark.parametrize("family", FAMILIES[:5])
def test_nothing_changes_in_evaluation(family):
    for context, logdet in ((0, Exact()), (2, PowerSeries(probes=4))):
        made = flow(2, context, 2, family, eval_logdet=logdet, solver=Picard())
        check_unchanged(made, rows(6, 2), rows(6, context, 3) if context else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_agree_bit_for_bit(family):
    for context, dtype, base in ((0, torch.float64, "student"), (2, torch.float32, "diagonal")):

        def build(context=context, base=base):
            return dense_flow(3, context, blocks=2, hidden=(6, 4), family=family, base=base)

        made = build().to(dtype)
        made.initialize(rows(50, 3), rows(50, 2) if context else None)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        check_copies(made, build, rows(7, 3).to(dtype), rows(7, context, 3).to(dtype) if context else None)


def test_training_draws_anew_and_the_seed_rules_it():
    made = flow(3, eval_logdet=PowerSeries(probes=2)).train()
    x = rows(6, 3)
    torch.manual_seed(5)
    first, second = made.log_prob(x), made.log_prob(x)
    torch.manual_seed(5)
    assert torch.equal(made.log_prob(x), first) and not torch.equal(first, second)
    made.eval()
    assert torch.equal(made.log_prob(x), made.log_prob(x))


def test_a_rows_density_does_not_depend_on_its_batch():
    made = flow(3, 2, eval_logdet=PowerSeries(probes=4))
    x, context = rows(20, 3), rows(20, 2, 3)
    whole = made.estimate(x, context)
    for row in (0, 11, 19):
        alone = made.estimate(x[row : row + 1], context[row : row + 1])
        torch.testing.assert_close(alone.value, whole.value[row : row + 1], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(alone.stderr, whole.stderr[row : row + 1], rtol=1e-9, atol=1e-11)
    shared = made.estimate(x, context[0])
    torch.testing.assert_close(shared.value, made.estimate(x, context[:1].expand(20, -1)).value, rtol=1e-12, atol=1e-12)
    bound = made.bind(context[0])
    assert torch.equal(bound.log_prob(x), shared.value)


def test_round_trips_and_their_bounds():
    for seed, family, context in product(range(2), ("sandwich", "gram"), (0, 2)):
        made = flow(3, context, 4, family, seed=seed)
        given = rows(10, context, 3) if context else None
        x = rows(10, 3, seed)
        found = made.invert(made.encode(x, given).detach(), given)
        error = (found.value - x).norm(dim=1)
        assert (error <= found.error_bound).all() and float(error.max()) < 1e-7
        assert float(found.backward_error.max()) < 1e-8 and found.converged.all()
        assert found.block_bounds.shape == (len(made.bijection.parts), 10)
        single = made.float()
        z = single.encode(x.float(), given).detach()
        back = single.invert(z, given)
        bound = single.bind(given)
        wide = replace(bound, transform=bound.transform.to(torch.float64))  # the same weights, which float64 would constrain anew
        truth = wide.invert(z.double(), solver=Picard(tol=1e-13), throw=False).value
        assert ((truth - back.value.double()).norm(dim=1) <= back.error_bound).all()


def test_samples():
    made = flow(2, 2)
    context = rows(5, 2, 3)
    generator = torch.Generator().manual_seed(1)
    x, log_prob = made.sample_and_log_prob(5, context, generator=generator, solver=Picard(tol=1e-12))
    torch.testing.assert_close(log_prob, made.log_prob(x, context), rtol=1e-9, atol=1e-9)
    again = made.sample(5, context, generator=torch.Generator().manual_seed(1), solver=Picard(tol=1e-12))
    torch.testing.assert_close(again, x.detach(), rtol=1e-10, atol=1e-10)
    assert x.requires_grad and not again.requires_grad
    torch.testing.assert_close(made.decode(made.encode(x, context), context), x, rtol=1e-8, atol=1e-8)


def test_an_inverse_without_a_certificate_is_refused_by_the_flow():
    made = Flow(Chain([Residual(branch("free", 3, scale=60.0))]), BASES["normal"](3)).double()
    with pytest.raises(
        NotConverged, match="block 0: 4 of 4 rows not inverted; its numbers are not finite, or nothing guarantees"
    ):
        made.invert(rows(4, 3), solver=Picard(max_steps=20))
    found = made.invert(rows(4, 3), solver=Picard(max_steps=20), throw=False)
    assert not found.converged.any() and found.error_bound.isinf().all()
    with pytest.raises(NotConverged):
        made.sample(2, solver=Picard(max_steps=20))
    chain = made.bijection.bind().inverse(rows(4, 3), Picard(max_steps=20))
    assert chain.error_bound.isinf().all() and not chain.converged.any()


def test_messages_of_flows():
    plain, conditional = flow(3), flow(3, 2)
    x = rows(4, 3)
    for call, match in (
        (lambda: plain.log_prob(rows(4, 2)), r"takes batches of shape \(B, 3\), got \(4, 2\)"),
        (lambda: plain.log_prob(x[0]), r"takes batches of shape \(B, 3\), got \(3,\)"),
        (lambda: plain.log_prob(x, rows(4, 2)), "this flow is unconditional: build it with context=C"),
        (lambda: conditional.log_prob(x), r"needs a context of shape \(2,\) or \(B, 2\), got none"),
        (lambda: conditional.log_prob(x, rows(4, 3)), r"needs a context of shape \(2,\) or \(B, 2\), got \(4, 3\)"),
        (lambda: conditional.log_prob(x, rows(3, 2)), r"4 rows need as many contexts, or one of shape \(C,\) for all, got 3"),
        (lambda: conditional.decode(x, rows(1, 2)), "4 rows need as many contexts"),
        (lambda: conditional.encode(x, rows(5, 2)), "4 rows need as many contexts"),
        (lambda: conditional.initialize(x, rows(5, 2)), "4 rows need as many contexts"),
        (lambda: dense_flow(2, whiten=x), r"this whitening is for rows of 2 numbers, got shape \(4, 3\)"),
        (lambda: plain.sample(0), "sample needs n >= 1, got 0"),
        (lambda: conditional.sample(3, rows(4, 2)), r"3 samples need a context of shape \(2,\) or \(3, 2\), got \(4, 2\)"),
        (lambda: dense_flow(2, blocks=0), "a flow needs at least one block, got blocks=0"),
        (lambda: dense_flow(2, base="cauchy"), "unknown base 'cauchy'; known are diagonal, mixture, normal, student"),
        (lambda: dense_flow(2, lipschitz=1.2), r"lipschitz must lie in \(0, 1\) for x \+ g\(x\) to be invertible, got 1.2"),
        (lambda: dense_flow(2, family="spectral"), "unknown family 'spectral'; known are sandwich, gram"),
        (lambda: dense_flow(2, nonlinearity="gelu"), "unknown activation 'gelu'"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_messages_of_branches():
    for call, match in (
        (lambda: dense_branch("gram", 0, (4,), 0.9, "tanh", 0), "needs features >= 1 and hidden widths >= 1, got 0"),
        (lambda: dense_branch("gram", 2, (), 0.9, "tanh", 0), "needs features >= 1 and hidden widths >= 1"),
        (lambda: dense_branch("sandwich", 2, (4, 0), 0.9, "tanh", 0), "needs features >= 1 and hidden widths >= 1"),
        (lambda: dense_branch("gram", 2, (4,), 0.0, "tanh", 0), r"lipschitz must lie in \(0, 1\)"),
        (lambda: dense_branch("gram", 2, (4,), float("nan"), "tanh", 0), r"lipschitz must lie in \(0, 1\)"),
        (lambda: dense_branch("gram", 2, (3,), 0.9, "maxmin", 0), "MaxMin needs hidden widths that are multiples of 2"),
        (lambda: NormalizedBranch(2, family="none"), "unknown family 'none'; known are bjorck"),
        (lambda: NormalizedBranch(2, place="input"), "place must be 'layer' or 'output', got 'input'"),
        (lambda: penalty(torch.nn.Linear(2, 2)), "penalty found no branch in this module"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    for name in set(ACTIVATIONS) - set(MONOTONE):
        with pytest.raises(ValueError, match="sandwich layers need a monotone activation"):
            SandwichBranch(2, (4, 4), nonlinearity=name)
    with pytest.raises(TypeError, match="abstract method bind"):
        Bijection()  # type: ignore[abstract]
    for call in (Branch().raw, Branch().constrain, lambda: Branch().assemble((), None)):
        with pytest.raises(NotImplementedError):
            call()


def test_positional_arguments_are_remembered_too():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = dense_flow(2, 0, 3, (8,), lipschitz=0.9)
    assert made.recipe == {
        "name": "dense_flow",
        "arguments": {"features": 2, "context": 0, "blocks": 3, "hidden": [8], "lipschitz": 0.9},
    }


def test_numbers_of_numpy_are_remembered_as_numbers(tmp_path):
    made = dense_flow(np.int64(2), hidden=[np.int64(8)], blocks=1, lipschitz=np.float32(0.5))
    assert made.recipe["arguments"] == {"features": 2, "hidden": [8], "blocks": 1, "lipschitz": 0.5}
    save(made, tmp_path)
    assert repr(load(tmp_path)) == repr(made)


def test_loading_leaves_the_generator_alone(tmp_path):
    save(dense_flow(2, blocks=1), tmp_path)
    before = torch.get_rng_state()
    load(tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_evaluating_gives_every_part_its_mode_back():
    made = flow(2).train()
    made.bijection.parts[1].eval()
    modes = [part.training for part in made.modules()]
    with evaluating(made):
        assert not any(part.training for part in made.modules())
    assert [part.training for part in made.modules()] == modes and not all(modes)
