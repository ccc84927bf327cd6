"""Images: bijections of pixels, shapes and channels, and whole image flows, against the autograd Jacobian in float64."""

from __future__ import annotations

import math

import pytest
import torch

from iresnet import Exact, Picard, load, save
from iresnet.bases import ClassNormal, StandardNormal
from iresnet.bijections import ActNorm, Chain, Flatten, Pixels, Residual, Split, Squeeze, Unflatten, Unsqueeze
from iresnet.bijections.base import Bijection
from iresnet.certify import certify
from iresnet.contract.conv_branches import conv_branch
from iresnet.flow import Flow
from iresnet.models import image_flow
from iresnet.numerics.noise import Noise
from iresnet.testing import check_chain_rule, check_inverse_logdet, jacobian, randomized


def images(count, shape, seed=0, levels=256):
    """Dequantised images, some of their pixels at either end."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, *shape, generator=generator, dtype=torch.float64) * levels
    return torch.where(torch.rand(count, *shape, generator=generator) < 0.2, drawn / levels, drawn)


def latents(count, shape, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def actnorm(channels):
    made = ActNorm(channels).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, dtype=torch.float64))
    return made


def block(shape, seed=0):
    made = conv_branch("sandwich", shape, 6, 0.8)
    return Residual(randomized(made.double(), 1.0, seed))


def small(shape=(2, 4, 4), **more):
    """An image flow of two stages with random weights, in float64; heights of 8 squeeze."""
    torch.manual_seed(0)
    made = image_flow(shape, blocks=(1, 1), hidden=6, lipschitz=0.8, **more).double()
    context = torch.eye(made.context, dtype=torch.float64)[torch.arange(64) % made.context] if made.context else None
    made.initialize(images(64, shape, 3, more.get("levels", 256)), context)
    return randomized(made, 0.5, 1).eval()


PARTS: dict[str, tuple[Bijection, tuple[int, ...]]] = {
    "pixels": (Pixels(256, 0.05), (1, 3, 3)),
    "pixels, tight": (Pixels(17, 1e-6), (1, 3, 3)),
    "scale": (Pixels(256, None), (1, 3, 3)),
    "squeeze": (Squeeze(), (2, 4, 6)),
    "squeeze by three": (Squeeze(3), (1, 3, 6)),
    "unsqueeze": (Unsqueeze(), (8, 2, 3)),
    "flatten": (Flatten((2, 3, 2)), (2, 3, 2)),
    "unflatten": (Unflatten((2, 3, 2)), (12,)),
    "actnorm": (actnorm(3), (3, 2, 4)),
    "split": (Split(actnorm(2)), (4, 2, 3)),
    "split of a chain": (Split(Chain([Squeeze(), actnorm(4), block((4, 2, 2)), Unsqueeze()])), (2, 4, 4)),
    "split in a split": (Split(Chain([actnorm(2), Split(block((1, 4, 4))), actnorm(2)])), (4, 4, 4)),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_have_the_log_determinant_of_their_jacobian(name):
    part, shape = PARTS[name]
    levels = part.levels if isinstance(part, Pixels) else None
    x = latents(3, shape) if levels is None else images(3, shape, levels=levels)
    check_inverse_logdet(part, x, tolerance=1e-6)


@pytest.mark.parametrize("name", PARTS)
def test_parts_stay_within_their_bounds(name):
    part, shape = PARTS[name]
    levels = part.levels if isinstance(part, Pixels) else None
    x, y = (latents(200, shape, seed) if levels is None else images(200, shape, seed, levels) for seed in (1, 2))
    there, back = part.bind().lipschitz()
    ratio = (part(x) - part(y)).flatten(1).norm(dim=1) / (x - y).flatten(1).norm(dim=1)
    assert ratio.max() <= there * (1 + 1e-10) and 1 / ratio.min() <= back * (1 + 1e-10)


def test_the_chain_rule_holds_over_shapes():
    parts = [Pixels(), Squeeze(), actnorm(4), block((4, 2, 2)), Split(actnorm(2)), Unsqueeze()]
    check_chain_rule(parts, Chain(parts), images(4, (1, 4, 4)))


def test_pixels_state_the_rounding_of_their_inverse():
    for alpha in (0.05, 1e-6, None):
        transform = Pixels(256, alpha).bind()
        x = images(500, (1, 2, 2))
        found = transform.inverse(transform.forward(x).float(), Picard())
        true = transform.attach(transform.forward(x).float().double(), x)
        error = (found.value.double() - true).flatten(1).norm(dim=1)
        assert (error <= found.error_bound.double()).all() and float(found.error_bound.max()) < 1e-2
    infinite = Pixels().bind().inverse(torch.tensor([[[[math.nan]]], [[[0.0]]]]), Picard())
    assert infinite.converged.tolist() == [False, True]


def test_squeezing_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    z = Squeeze()(x)
    naive = torch.stack([x[0, 0, i::2, j::2] for i in range(2) for j in range(2)])
    assert torch.equal(z[0], naive) and torch.equal(Unsqueeze()(z), x)


def test_actnorm_of_images_normalises_channels_and_equals_a_naive_loop():
    x = 3 * latents(50, (3, 4, 5)) + torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    made = ActNorm(3).double()
    z = made.initialize(x)
    for channel in range(3):
        mine = x[:, channel]
        torch.testing.assert_close(z[:, channel], (mine - mine.mean()) / mine.std(correction=0))
    _, estimate = made.bind().forward_and_logdet(x, Exact(), Noise())
    torch.testing.assert_close(estimate.value, 20 * made.log_scale.sum().expand(50))


def test_uniform_noise_measures_eight_bits_without_a_logit():
    class Uniform(StandardNormal):
        def log_prob(self, z):
            return torch.where(((z >= 0) & (z <= 1)).flatten(1).all(1), 0.0, -math.inf).to(z.dtype)

    flow = Flow(Chain([Pixels(256, None), Squeeze(), Split(Chain([])), Unsqueeze()]), Uniform((3, 4, 4))).double()
    levels = torch.randint(0, 256, (100, 3, 4, 4))
    noise = Noise(0, torch.arange(100)).uniforms(torch.empty(100, 3, 4, 4, dtype=torch.float64))
    bits = -flow.log_prob(levels + noise) / (48 * math.log(2))
    torch.testing.assert_close(bits, torch.full((100,), 8.0, dtype=torch.float64), rtol=0, atol=1e-12)


VARIANTS = {
    "two stages": ((1, 8, 8), {}),
    "no split": ((1, 8, 8), {"split": False}),
    "odd": ((1, 5, 7), {}),
    "colour": ((3, 4, 4), {}),
    "dense": ((1, 4, 4), {"dense": 1}),
    "gram": ((1, 8, 8), {"family": "gram", "nonlinearity": "lipswish", "preactivate": True}),
    "levels": ((1, 4, 4), {"levels": 17, "alpha": 1e-6, "base": "diagonal"}),
    "no logit": ((1, 4, 4), {"alpha": None}),
    "classes": ((1, 8, 8), {"classes": 3}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_image_flows_have_the_density_of_their_jacobian(name):
    shape, more = VARIANTS[name]
    flow, x = small(shape, **more), images(3, shape, levels=more.get("levels", 256))
    context = torch.eye(3, dtype=torch.float64)[torch.tensor([0, 2, 1])] if flow.context else None
    z = flow.encode(x, context)
    assert z.shape == x.shape
    bound = flow.bind(context)
    true = bound.base.log_prob(z) + torch.linalg.slogdet(jacobian(bound.encode, x)).logabsdet
    torch.testing.assert_close(flow.log_prob(x, context, logdet=Exact()), true, rtol=1e-8, atol=1e-7)
    estimate = flow.estimate(x, context, noise=Noise(0, torch.arange(3)))
    spread = estimate.stderr + estimate.bias
    assert ((estimate.value - true).abs() <= 6 * spread + 1e-6).all()
    back = flow.invert(z, context)
    assert float((back.value - x).abs().max()) < 1e-5
    assert float(back.backward_error.max()) < 1e-6
    leaves = sum(1 for part in flow.modules() if not isinstance(part, (Chain, Split)) and isinstance(part, Bijection))
    assert back.block_bounds.shape == (leaves, 3)


def test_the_error_bound_of_a_split_covers_the_half_that_stays():
    """An error that comes from after the split is in both halves, and an inner inverse that shrinks does not shrink all of it."""
    shrink = ActNorm(1).double()
    with torch.no_grad():
        shrink.log_scale.fill_(5.0)
    inexact = block((2, 4, 4))
    chain = Chain([Split(shrink), inexact])
    x = latents(4, (2, 4, 4))
    solution = chain.bind().inverse(chain(x), Picard(tol=1e-2))
    error = (solution.value - x).flatten(1).norm(dim=1)
    assert (error <= solution.error_bound).all() and float(error.max()) > 1e-5


def test_names_of_blocks_agree_between_certificate_and_inverse():
    flow = small((1, 8, 8))
    names = [item.name for item in certify(flow, images(4, (1, 8, 8))).blocks]
    assert len(names) == 2 and "." not in names[0] and "." in names[1]
    bare = [part for part in flow.modules() if isinstance(part, Residual)]
    with torch.no_grad():
        for parameter in bare[1].parameters():
            parameter.fill_(math.nan)
    with pytest.raises(RuntimeError, match=rf"^block {names[1]}: "):
        flow.invert(latents(2, (1, 8, 8)))


def test_save_and_load_keep_the_flow(tmp_path):
    for more in ({}, {"classes": 3}, {"dense": 1, "blocks": (2,), "hidden": [5, 7]}):
        torch.manual_seed(0)
        flow = image_flow((1, 8, 8), **({"blocks": (1, 1), "hidden": 5} | more))
        context = torch.eye(3)[:2] if flow.context else None
        save(flow, tmp_path)
        again = load(tmp_path)
        x = images(2, (1, 8, 8)).float()
        assert repr(again) == repr(flow) and torch.equal(again.encode(x, context), flow.eval().encode(x, context))


def test_a_new_flow_is_its_pixels_and_a_class_base_starts_normal():
    flow = image_flow((1, 4, 4), classes=2, blocks=(1,), hidden=4)
    x, context = images(2, (1, 4, 4)).float(), torch.eye(2)
    torch.testing.assert_close(flow.encode(x, context), Pixels()(x))
    assert isinstance(flow.base, ClassNormal)
    z = latents(2, (1, 4, 4)).float()
    torch.testing.assert_close(flow.base.bind(context).log_prob(z), StandardNormal((1, 4, 4)).log_prob(z))
    with torch.no_grad():
        flow.base.mean[1] += 3.0
        flow.base.log_scale[1] -= 1.0
    true = torch.distributions.Independent(torch.distributions.Normal(3.0 * torch.ones(1, 4, 4), math.exp(-1)), 3)
    torch.testing.assert_close(flow.base.bind(context).log_prob(z)[1], true.log_prob(z[1]))
    drawn = flow.base.bind(context[1]).sample(Noise(0, torch.arange(2000)), 2000)
    assert abs(float(drawn.mean()) - 3) < 0.02 and abs(float(drawn.std()) - math.exp(-1)) < 0.02


def test_temperature_pulls_towards_the_center():
    flow = image_flow((1, 4, 4), blocks=(1,), hidden=4, base="diagonal")
    with torch.no_grad():
        flow.base.mean.fill_(2.0)
    noise = Noise(0, torch.arange(4))
    warm, cold = flow.bind().latents(4, noise), flow.bind().latents(4, noise, 0.5)
    torch.testing.assert_close(cold - 2, (warm - 2) / 2)


def test_messages():
    for more, told in (
        ({"shape": (1, 8)}, "needs a shape"),
        ({"blocks": ()}, "at least one block a stage"),
        ({"base": "mixture"}, "for images there are"),
        ({"classes": 1}, "needs classes >= 2"),
        ({"classes": 2, "base": "student"}, "needs classes >= 2 and base='normal'"),
        ({"alpha": 0.5}, "alpha in"),
        ({"levels": 1}, "levels >= 2"),
    ):
        with pytest.raises(ValueError, match=told):
            image_flow(**({"shape": (1, 8, 8)} | more))
    with pytest.raises(ValueError, match="even number of channels"):
        Split(ActNorm(1))(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ValueError, match="this base is conditional"):
        ClassNormal((2,), 3).bind(None)
