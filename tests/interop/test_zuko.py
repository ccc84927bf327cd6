"""The adapter to zuko and torch.distributions, held to what zuko's own flows are: shapes, gradients, inverses, copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import iresnet
from iresnet.bases import StandardNormal
from iresnet.bijections import Residual
from iresnet.bijections.base import Bijection, Transform
from iresnet.contract import SandwichBranch
from iresnet.interop.distributions import distribution_of, latent_of, transform_of

zuko = pytest.importorskip("zuko")

from iresnet.interop.zuko import LazyBijection, LazyFlow  # noqa: E402

D, C = 3, 5


def stirred(module: nn.Module) -> nn.Module:
    """In float64 with every parameter moved away from where nothing happens."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return module


def residual(context: int = 0) -> LazyBijection:
    exact = iresnet.Exact()
    branch = SandwichBranch(D, (8, 8), context=context)
    return LazyBijection(Residual(branch), context, train_logdet=exact, eval_logdet=exact)


def whole(**options: object) -> nn.Module:
    return LazyFlow(iresnet.dense_flow(D, C, blocks=2, hidden=(8, 8), **options))  # type: ignore[arg-type]


def mixed() -> nn.Module:
    """Residual blocks between a spline coupling, an autoregressive spline and a rotation, in one flow of zuko's."""
    spline = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": [(4,), (4,), (3,)]}
    base = zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, torch.zeros(D), torch.ones(D), buffer=True)
    transforms = [
        residual(),
        zuko.flows.GeneralCouplingTransform(D, C, hidden_features=(8,), **spline),
        residual(C),
        zuko.flows.MaskedAutoregressiveTransform(D, C, hidden_features=(8,), **spline),
        zuko.lazy.UnconditionalTransform(zuko.transforms.RotationTransform, torch.randn(D, D)),
    ]
    return zuko.lazy.Flow(transforms, base)


FLOWS: dict[str, Callable[[], nn.Module]] = {
    "sandwich": whole,
    "gram": lambda: whole(family="gram"),
    "diagonal base": lambda: whole(base="diagonal"),
    "student base": lambda: whole(base="student"),
    "one block": lambda: zuko.lazy.Flow(
        [residual(C)], zuko.lazy.UnconditionalDistribution(zuko.distributions.DiagNormal, *points())
    ),
    "mixed": mixed,
}
over_flows = pytest.mark.parametrize("build", FLOWS.values(), ids=FLOWS.keys())


def points() -> tuple[Tensor, Tensor]:
    return torch.zeros(D), torch.ones(D)


def without_gradient(module: nn.Module) -> list[str]:
    """The parameters that a backward pass did not reach, or left a gradient that is no number."""
    return [name for name, one in module.named_parameters() if one.grad is None or not bool(torch.isfinite(one.grad).all())]


@over_flows
def test_shapes_and_contexts(build: Callable[[], nn.Module]) -> None:
    """Every way of broadcasting gives each row the density it has alone with its context."""
    flow = stirred(build()).eval()
    x, c = torch.randn(4, 6, D).double(), torch.randn(4, 6, C).double()
    with torch.no_grad():
        alone = torch.stack([flow(c[i, j]).log_prob(x[i, j]) for i in range(4) for j in range(6)]).reshape(4, 6)
        assert torch.allclose(flow(c).log_prob(x), alone, atol=1e-10)
        assert torch.allclose(flow(c[0]).log_prob(x[0]), alone[0], atol=1e-10)
        assert torch.allclose(flow(c[0, 0]).log_prob(x)[0, 0], alone[0, 0], atol=1e-10)
        assert flow(c[0]).log_prob(x).shape == (4, 6)  # contexts of the last dimension for all before it
        assert flow(c[0, 0]).sample((32,)).shape == (32, D)
        drawn, log_prob = flow(c).rsample_and_log_prob((7,))
        assert drawn.shape == (7, 4, 6, D) and log_prob.shape == (7, 4, 6)
        assert torch.allclose(flow(c).log_prob(drawn), log_prob, atol=1e-6)


@over_flows
def test_every_parameter_has_a_gradient(build: Callable[[], nn.Module]) -> None:
    flow, c = stirred(build()), torch.randn(C).double()
    log_prob = flow(c).log_prob(torch.randn(256, D).double())
    assert log_prob.shape == (256,) and log_prob.requires_grad
    log_prob.mean().backward()
    assert without_gradient(flow) == []
    flow.zero_grad(set_to_none=True)
    flow(c).rsample((16,)).square().sum().sqrt().backward()
    assert without_gradient(flow) == []


@over_flows
def test_inverse_and_volume(build: Callable[[], nn.Module]) -> None:
    """t.inv(t(x)) = x, J J_inv = I, and the log-determinant is slogdet's."""
    flow = stirred(build()).eval()
    x, c = torch.randn(64, D).double(), torch.randn(64, C).double()
    t = flow(c).transform
    assert torch.allclose(t.inv(t(x)), x, atol=1e-5)
    t, x = flow(c[0]).transform, x[0]
    z = t(x).detach()
    there = torch.autograd.functional.jacobian(t, x)
    back = torch.autograd.functional.jacobian(t.inv, z)
    assert torch.allclose(there @ back, torch.eye(D).double(), atol=1e-5)
    truth = torch.linalg.slogdet(there).logabsdet
    assert torch.allclose(t.log_abs_det_jacobian(x, z), truth, atol=1e-8)
    assert torch.allclose(t.call_and_ladj(x)[1], truth, atol=1e-8)
    assert torch.allclose(t.inv.log_abs_det_jacobian(z, x), -truth, atol=1e-8)


def test_gradient_of_samples_is_that_of_finite_differences() -> None:
    flow, c = stirred(whole(base="diagonal")), torch.randn(C).double()

    def loss() -> Tensor:
        torch.manual_seed(1)
        return flow(c).rsample((8,)).square().sum()

    loss().backward()
    directions = {name: torch.randn_like(parameter) for name, parameter in flow.named_parameters()}
    found = []
    for step in (1e-6, -1e-6):
        with torch.no_grad():
            for name, parameter in flow.named_parameters():
                parameter += step * directions[name]
            found.append(float(loss()))
            for name, parameter in flow.named_parameters():
                parameter -= step * directions[name]
    along = sum(
        float((parameter.grad * directions[name]).sum())
        for name, parameter in flow.named_parameters()
        if parameter.grad is not None
    )
    assert along == pytest.approx((found[0] - found[1]) / 2e-6, rel=1e-4)


def test_evaluation_is_training_where_it_should_be() -> None:
    """Exact log-determinants do not know the mode; estimated ones are drawn in training and fixed in evaluation."""
    flow, x, c = stirred(whole()), torch.randn(9, D).double(), torch.randn(C).double()
    assert torch.equal(flow.train()(c).log_prob(x), flow.eval()(c).log_prob(x))
    block = LazyBijection(Residual(SandwichBranch(D, (8, 8, 8))), train_logdet=iresnet.PowerSeries(terms=2, roulette="geometric"))
    stirred(block)
    z = block()(x)
    one, other = (block.train()().log_abs_det_jacobian(x, z) for _ in range(2))
    assert not torch.equal(one, other)
    one, other = (block.eval()().log_abs_det_jacobian(x, z) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(block.train()()(x), block.eval()()(x))


@over_flows
def test_copies(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Saved, loaded strictly into a fresh one, and copied: the same densities bit for bit; a repr."""
    flow, x, c = stirred(build()).eval(), torch.randn(D).double(), torch.randn(C).double()
    log_prob = flow(c).log_prob(x)
    torch.save(flow.state_dict(), tmp_path / "flow.pt")
    fresh = stirred(build()).eval()
    fresh.load_state_dict(torch.load(tmp_path / "flow.pt", weights_only=True))
    assert torch.equal(fresh(c).log_prob(x), log_prob)
    assert torch.equal(copy.deepcopy(flow)(c).log_prob(x), log_prob)
    assert "Sandwich" in repr(flow) or "Normalized" in repr(flow)
    assert "BijectionTransform(" in repr(flow(c))


def test_modules_are_shared(tmp_path: Path) -> None:
    """What zuko trains is the flow that was wrapped, which our own files hold."""
    flow = iresnet.dense_flow(D, C, blocks=2, hidden=(8, 8)).double()
    lazy, x, c = stirred(LazyFlow(flow)).eval(), torch.randn(4, D).double(), torch.randn(4, C).double()
    assert torch.equal(lazy(c).log_prob(x), flow.eval().log_prob(x, c))
    iresnet.save(flow, tmp_path / "flow")
    assert torch.equal(LazyFlow(iresnet.load(tmp_path / "flow"))(c).log_prob(x), lazy(c).log_prob(x))  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["normal", "mixture", "student", "diagonal"])
def test_plain_torch_distributions(base: str) -> None:
    """TransformedDistribution agrees with the flow; what it drew it need not invert again."""
    flow = stirred(iresnet.dense_flow(D, C, blocks=2, hidden=(8, 8), base=base)).eval()
    c = torch.randn(6, C).double()
    found = distribution_of(flow, c)
    assert found.batch_shape == (6,) and found.event_shape == (D,)
    x = found.rsample((4,))
    assert x.shape == (4, 6, D) and x.requires_grad
    expected = flow.log_prob(x.reshape(-1, D), c.repeat(4, 1)).reshape(4, 6)
    assert torch.allclose(found.log_prob(x), expected, atol=1e-6)
    latents = latent_of(flow.base).log_prob(flow.encode(x.reshape(-1, D), c.repeat(4, 1)).reshape(4, 6, D))
    assert latents.shape == (4, 6)


class Counting(Bijection):
    """A residual block that counts how often its branch is evaluated."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.count = Residual(SandwichBranch(D, (8, 8))), 0

    def bind(self, context: Tensor | None = None) -> Transform:
        self.bound = self.block.bind(context)
        return self

    def forward_and_logdet(self, x: Tensor, *given: Any) -> Any:
        self.count += len(x)
        return self.bound.forward_and_logdet(x, *given)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.count += len(x)
        return self.bound.forward(x)


def test_a_density_takes_one_pass() -> None:
    counted = Counting().double().eval()
    flow = iresnet.Flow(counted, StandardNormal(D)).double()
    found, x = distribution_of(flow, logdet=iresnet.Exact()), torch.randn(32, D).double()
    expected = iresnet.Flow(counted.block, StandardNormal(D)).double().log_prob(x, logdet=iresnet.Exact())
    assert torch.equal(found.log_prob(x), expected) and counted.count == 32
    assert torch.equal(found.expand((4, 32)).log_prob(x), expected.expand(4, 32))


def test_images_have_three_event_dimensions() -> None:
    flow = iresnet.image_flow((1, 4, 4), classes=3, blocks=(1,), hidden=4).double().eval()
    context = torch.eye(3).double()
    found, x = distribution_of(flow, context), 256 * torch.rand(5, 3, 1, 4, 4).double()
    assert found.batch_shape == (3,) and found.event_shape == (1, 4, 4)
    expected = flow.log_prob(x.reshape(15, 1, 4, 4), context.repeat(5, 1)).reshape(5, 3)
    assert torch.allclose(found.log_prob(x), expected)


def test_cache_spares_the_second_pass() -> None:
    block = Residual(SandwichBranch(D, (8, 8))).double()
    t, x = transform_of(block, cache_size=1), torch.randn(4, D).double()
    z = t(x)
    assert t.inv(z) is x and t.with_cache(0).inv(z) is not x and t.with_cache(1) is t


def test_density_of_draws_made_without_a_graph_has_its_whole_gradient() -> None:
    flow = iresnet.dense_flow(D, blocks=2, hidden=(8, 8))
    stirred(flow).eval()
    found, exact = distribution_of(flow, logdet=iresnet.Exact()), iresnet.Exact()
    x, parameters = found.sample((16,)).requires_grad_(), list(flow.bijection.parameters())
    with torch.no_grad():
        found.log_prob(x)
    wanted = torch.autograd.grad(flow.log_prob(x, logdet=exact).sum(), [x, *parameters], materialize_grads=True)
    given = torch.autograd.grad(found.log_prob(x).sum(), [x, *parameters], materialize_grads=True)
    for one, other in zip(given, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_refusals() -> None:
    flow = iresnet.dense_flow(D, C, blocks=1, hidden=(8,))
    with pytest.raises(ValueError, match="context of width 5, got none"):
        LazyFlow(flow)(None)
    with pytest.raises(ValueError, match="context of width 5, got shape"):
        LazyFlow(flow)(torch.zeros(4))
    with pytest.raises(ValueError, match="unconditional"):
        LazyFlow(iresnet.dense_flow(D, blocks=1))(torch.zeros(C))
    with pytest.raises(ValueError, match="width 5, got width 2"):
        distribution_of(flow, torch.zeros(2))
    with pytest.raises(ValueError, match=r"acts on vectors, in the last dimensions, got shape \(\)"):
        transform_of(Residual(SandwichBranch(D, (8,))))(torch.tensor(1.0))
    for found in (LazyFlow(flow)(torch.zeros(C)), distribution_of(flow, torch.zeros(C))):
        for call in (found.log_prob, found.transforms[0].inv if hasattr(found, "transforms") else found.transform):
            with pytest.raises(ValueError, match=r"acts on rows of shape \(3,\), in the last dimensions, got shape \(6, 4\)"):
                call(torch.zeros(6, 4))


def test_what_is_no_flow_is_refused() -> None:
    with pytest.raises(TypeError, match=r"LazyFlow wraps an iresnet\.Flow, got Linear"):
        LazyFlow(torch.nn.Linear(2, 2))
