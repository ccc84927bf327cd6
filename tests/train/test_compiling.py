"""Switches of how one trains: compiled kernels and recomputation change no number, no name and no evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import iresnet
from iresnet import compiling, kernels
from iresnet.contract.base import Branch
from iresnet.data import toy

ROWS = toy.sample("moons", 300, seed=1)


def trained(**settings: object) -> tuple[iresnet.Flow, list[dict]]:
    torch.manual_seed(0)
    flow = iresnet.dense_flow(2, blocks=3, hidden=(16, 16), family="gram")
    flow.train_logdet = iresnet.PowerSeries(terms=2, roulette="adaptive")
    history = iresnet.fit(flow, ROWS, steps=12, batch_size=64, log_every=1, **settings)  # type: ignore[arg-type]
    return flow, history


def test_recomputation_trains_the_same_flow_bit_for_bit() -> None:
    plain, first = trained()
    slim, second = trained(recompute=True)
    assert [record["loss"] for record in first] == [record["loss"] for record in second]
    for (name, one), (other_name, other) in zip(plain.state_dict().items(), slim.state_dict().items(), strict=True):
        assert name == other_name and torch.equal(one, other)
    assert slim.train_logdet == iresnet.PowerSeries(terms=2, roulette="adaptive", recompute=True)


def test_an_estimator_that_cannot_recompute_is_refused() -> None:
    @dataclass(frozen=True)
    class FirstTrace:
        """One term: an estimator of somebody's own."""

        def __call__(self, function, x, noise=None):
            at = function.linearize(x)
            return at.value, iresnet.Estimate.sure(at.trace())

    flow = iresnet.dense_flow(2, blocks=1)
    flow.train_logdet = FirstTrace()
    with pytest.raises(ValueError, match="FirstTrace cannot recompute"):
        compiling.recompute(flow)
    with pytest.raises(iresnet.UserError, match=r"train.recompute: FirstTrace cannot"):
        iresnet.fit(flow, ROWS, steps=2, recompute=True)
    assert iresnet.fit(flow, ROWS, steps=2)


def agree(plain: iresnet.Flow, fast: iresnet.Flow, *histories: list[dict]) -> None:
    """Two flows were trained alike, the second by compiled kernels."""
    for one, other in zip(*histories, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5, abs=1e-5)
    assert list(plain.state_dict()) == list(fast.state_dict()) and repr(plain) == repr(fast)
    for one, other in zip(plain.state_dict().values(), fast.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    fast.load_state_dict(plain.state_dict())
    assert torch.equal(fast.log_prob(ROWS), plain.log_prob(ROWS)), "evaluation is not compiled"


def test_training_by_kernels_is_plain_training_to_rounding() -> None:
    try:
        kernels.operations()
    except kernels.Unavailable as reason:
        pytest.skip(f"no kernels here: {reason}")
    (plain, first), (fast, second) = trained(), trained(compile=True)
    assert {part.compiled for part in fast.modules() if isinstance(part, Branch)} == {"kernels"}
    agree(plain, fast, first, second)


@pytest.mark.slow
def test_training_by_torchs_compiler_is_plain_training_to_rounding(tmp_path, monkeypatch) -> None:
    if compiling.compile(iresnet.dense_flow(2, blocks=1), "inductor").bijection.parts[2].branch.compiled != "inductor":  # type: ignore[union-attr]
        pytest.skip("torch finds no C++ compiler here")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain, first = trained()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()  # of other tests in this process
    monkeypatch.setattr(compiling.compile, "__defaults__", ("inductor",))  # what "auto" is on another device
    fast, second = trained(compile=True)
    shared = "values and their gradients, product, gradients of log-determinants: each once for all three blocks"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4, shared
    assert not torch._dynamo.utils.counters["graph_break"]
    agree(plain, fast, first, second)


def test_bfloat16_is_for_the_products_of_branches_in_training_alone() -> None:
    (_, first), (short, second) = trained(), trained(precision="bf16")
    losses = [(one["loss"], other["loss"]) for one, other in zip(first, second, strict=True)]
    assert losses[0][0] == losses[0][1], "a new block is the identity, in any precision"
    assert any(one != other for one, other in losses) and all(one == pytest.approx(other, abs=0.02) for one, other in losses)
    assert all(weight.dtype == torch.float32 for weight in short.parameters())
    again = iresnet.dense_flow(2, blocks=3, hidden=(16, 16), family="gram")
    again.load_state_dict(short.state_dict())
    assert torch.equal(short.log_prob(ROWS), again.eval().log_prob(ROWS)), "evaluation is in full precision"
    assert torch.equal(short.encode(ROWS), again.encode(ROWS))
    short.train()
    seen: set[torch.dtype] = set()

    def look(function, x, noise=None):
        at = function.linearize(x)
        seen.update((at.value.dtype, function.dtype))
        return at.value, iresnet.Estimate.sure(at.trace())

    latents, estimate = short.bind().encode_and_estimate(ROWS.float(), logdet=look)  # type: ignore[arg-type]
    assert seen == {torch.bfloat16, torch.float32}, "products, and weights"
    assert latents.dtype == estimate.value.dtype == torch.float32
    with torch.no_grad():
        z, exact = short.encode(ROWS), again.encode(ROWS)
        assert 1e-5 < float((z - exact).abs().max()) < 0.1
        assert float((short.decode(exact) - ROWS).abs().max()) < 1e-4, "inverses are in full precision"


def test_bfloat16_keeps_the_gradient_of_a_branch_of_convolutions() -> None:
    torch.manual_seed(0)
    flow = iresnet.image_flow((1, 8, 8), blocks=(2,), hidden=(16, 16), nonlinearity="elu")
    images = torch.randint(0, 256, (32, 1, 8, 8)).float()
    flow.initialize(images)
    for name, parameter in flow.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    gradients = []
    for switch in (lambda network: network, compiling.bfloat16):
        torch.manual_seed(1)
        switch(flow).train().zero_grad()
        flow.log_prob(images).mean().backward()
        gradients.append(torch.cat([one.grad.flatten() for one in flow.parameters() if one.grad is not None]))
    assert 1e-4 < float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 0.1


@pytest.mark.parametrize(
    ("estimator", "settings", "said"),
    [
        (iresnet.Exact(), {}, "Exact needs more digits"),
        (iresnet.Krylov(), {}, "Krylov needs more digits"),
        (iresnet.PowerSeries(terms=2), {"recompute": True}, "without recomputation"),
    ],
)
def test_bfloat16_is_refused_where_it_cannot_be(estimator, settings, said) -> None:
    flow = iresnet.dense_flow(2, blocks=1)
    flow.train_logdet = estimator
    with pytest.raises(iresnet.UserError, match=f"train.precision: .*{said}"):
        iresnet.fit(flow, ROWS, steps=2, precision="bf16", **settings)
    with pytest.raises(ValueError, match="precision must be float32 or bf16, got 'half'"):
        iresnet.fit(flow, ROWS, steps=2, precision="half")


def test_without_a_compiler_training_goes_on(monkeypatch) -> None:
    def refuse() -> None:
        raise kernels.Unavailable("no C++ compiler was found")

    monkeypatch.setattr(kernels, "operations", refuse)
    with pytest.warns(UserWarning, match="training goes on without compiled kernels: no C\\+\\+ compiler was found"):
        flow, _ = trained(compile=True)
    assert not any(part.compiled for part in flow.modules() if hasattr(part, "compiled"))
    with pytest.raises(ValueError, match="backend is 'auto', 'kernels' or 'inductor', got 'gcc'"):
        compiling.compile(flow, backend="gcc")  # type: ignore[arg-type]


def test_images_of_convolutions_train_on_without_kernels_of_their_own() -> None:
    x = 256 * torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        flow = iresnet.image_flow((1, 8, 8), blocks=(2,), hidden=8)
        history = iresnet.fit(flow, x, steps=6, batch_size=32, log_every=1, compile=compiled)
        losses.append([record["loss"] for record in history if record["split"] == "train"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][-1] < losses[0][0]
