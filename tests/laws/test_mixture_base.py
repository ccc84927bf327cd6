"""A mixture as base: against scipy's densities, its samples, its gradients, and what EM sets it to."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from law_cases import rows
from scipy import stats
from sklearn.mixture import GaussianMixture

from iresnet import UserError, bases, dense_flow, fit, load, save
from iresnet.bases import NormalMixture
from iresnet.fitting import start
from iresnet.numerics.noise import Noise


def parts(features: int, components: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, means and covariances, one component a thousand times narrower than the others."""
    weights = torch.softmax(rows(1, components, 1)[0], 0)
    factors = rows(components * features, features, 2).reshape(components, features, features)
    factors[0] *= 1e-3
    return weights, rows(components, features, 3), factors @ factors.mT + 1e-8 * torch.eye(features, dtype=torch.float64)


def mixture(features: int = 3, components: int = 4, moved: float = 0.0) -> NormalMixture:
    made = NormalMixture(features, components).double()
    made.set(*parts(features, components))
    with torch.no_grad():
        for index, parameter in enumerate(made.parameters()):
            parameter.add_(moved * rows(1, parameter.numel(), 10 + index).reshape(parameter.shape))
    return made


def density(weights, means, covariances, z) -> torch.Tensor:
    """The naive twin: a sum of scipy's densities."""
    each = [stats.multivariate_normal(m.numpy(), c.numpy()).logpdf(z.numpy()) for m, c in zip(means, covariances, strict=True)]
    return torch.logsumexp(torch.log(weights)[:, None] + torch.tensor(np.array(each)).reshape(len(weights), -1), 0)


def as_parts(made: NormalMixture) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, means and covariances with the learned corrections multiplied out."""
    weights = torch.softmax(made.log_weights + made.logits.detach(), 0)
    means, covariances = [], []
    for k in range(made.components):
        outer, inner = made.triangles[k], made._learned(torch.float64)[1][k].detach()
        means.append(made.centers[k] + made.shift[k].detach() @ torch.linalg.inv(outer))
        factor = torch.linalg.inv(outer @ inner)
        covariances.append(factor.mT @ factor)
    return weights, torch.stack(means), torch.stack(covariances)


@pytest.mark.parametrize("features", (1, 3))
def test_densities(features):
    given, plain, moved = parts(features, 4), mixture(features), mixture(features, moved=0.4)
    narrow = given[1][0] + 1e-3 * rows(20, features, 5)
    z = torch.cat((rows(50, features, 4, 3.0), narrow, rows(5, features, 6, 1e3)))
    torch.testing.assert_close(plain.log_prob(z), density(*given, z), rtol=1e-9, atol=1e-9)
    expected = density(*as_parts(moved), z)
    torch.testing.assert_close(moved.log_prob(z), expected, rtol=1e-7, atol=1e-7)
    # Float64 latents of a float32 base, which is how held-out figures are computed; and float32 alone, at points float32 has.
    single = copy.deepcopy(moved).float()
    again = density(*as_parts(copy.deepcopy(single).double()), z)
    torch.testing.assert_close(single.log_prob(z), again, rtol=1e-6, atol=1e-6)
    near = z[:70].float()
    torch.testing.assert_close(
        single.log_prob(near).double(), density(*as_parts(copy.deepcopy(single).double()), near.double()), rtol=2e-3, atol=2e-2
    )


def test_it_integrates_to_one_and_far_points_have_finite_densities():
    made = mixture(1, 3, moved=0.3)
    edges = made.centers[0, 0] + torch.linspace(-0.05, 0.05, 200_001, dtype=torch.float64)  # the narrow component's share
    far = torch.cat((torch.linspace(-60, float(edges[0]), 200_001), torch.linspace(float(edges[-1]), 60, 200_001))).double()
    total = torch.trapezoid(made.log_prob(edges[:, None]).exp(), edges)
    total += sum(torch.trapezoid(made.log_prob(part[:, None]).exp(), part) for part in far.chunk(2))
    assert abs(float(total.detach()) - 1) < 1e-4
    value = mixture(3).log_prob(torch.full((1, 3), 1e12, dtype=torch.float64))
    assert torch.isfinite(value).all() and value < -1e20


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_samples(dtype):
    made = mixture(3, 4, moved=0.3).to(dtype)
    drawn = made.sample(Noise(4, torch.arange(40_000)), 40_000).detach()
    assert drawn.dtype == dtype and drawn.shape == (40_000, 3)
    for one in (0, 77, 39_999):
        assert torch.equal(made.sample(Noise(4, torch.tensor([one])), 1)[0], drawn[one])
    weights, means, covariances = as_parts(made.double())
    for k in range(3):
        normals = [stats.norm(float(m[k]), float(c[k, k].sqrt())) for m, c in zip(means, covariances, strict=True)]

        def cdf(value, normals=normals):
            return sum(float(w) * one.cdf(value) for w, one in zip(weights, normals, strict=True))

        assert stats.kstest(drawn[:, k].double().numpy(), cdf).pvalue > 1e-3
    mean = weights @ means
    second = torch.einsum("k,kij->ij", weights, covariances + (means - mean)[:, :, None] * (means - mean)[:, None])
    torch.testing.assert_close(torch.cov(drawn.double().mT), second, rtol=0.03, atol=0.03 * float(second.diagonal().max()))


def test_parts_of_a_batch_give_what_the_whole_gives(monkeypatch):
    found = []
    for entries in (2**23, 4 * 9 * 7):
        monkeypatch.setattr(bases, "_ENTRIES", entries)
        made = mixture(moved=0.3)
        value = made.log_prob(rows(50, 3))
        value.sum().backward()
        found.append([value.detach(), made.sample(Noise(1, torch.arange(50)), 50).detach(), *(p.grad for p in made.parameters())])
    for whole, some in zip(*found, strict=True):
        torch.testing.assert_close(some, whole, rtol=1e-9, atol=1e-11)


def test_gradients():
    made = mixture(2, 3, moved=0.3)
    names = [name for name, _ in made.named_parameters()]
    given = tuple(value.detach().clone().requires_grad_(True) for value in made.parameters())
    z = rows(6, 2).requires_grad_(True)

    def density(z, *values):
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), (z,))

    made.forward = made.log_prob  # what functional_call calls
    assert torch.autograd.gradcheck(density, (z, *given))
    made.forward = lambda noise: made.sample(noise, 6)

    def drawn(*values):
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), (Noise(1, torch.arange(6)),))

    assert torch.autograd.gradcheck(drawn, given)
    assert made.sample(Noise(1, torch.arange(6)), 6).sum().requires_grad


def test_until_it_is_set_it_is_scattered_about_zero():
    """No two components alike, which a gradient could not tell apart, and the whole about N(0, I)."""
    made = NormalMixture(2, 500).double()
    assert not bool(made.initialized) and torch.unique(made.centers, dim=0).shape[0] == 500
    drawn = made.sample(Noise(0, torch.arange(50_000)), 50_000).detach()
    assert drawn.mean(0).abs().max() < 0.1 and (torch.cov(drawn.mT) - torch.eye(2)).abs().max() < 0.15
    assert NormalMixture((2, 3), 5).sample(Noise(0, torch.arange(4)), 4).shape == (4, 2, 3)
    assert NormalMixture((2, 3), 5).log_prob(torch.zeros(4, 2, 3)).shape == (4,)


def spiky(count: int, seed: int = 0) -> torch.Tensor:
    """Three clusters, one of them on levels."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    which = torch.randint(0, 3, (count,), generator=generator)
    x[which == 0, 0] = 5 + 0.5 * torch.round(2 * x[which == 0, 0])
    return x + torch.tensor([[0.0, 0.0], [-6.0, 3.0], [4.0, 8.0]], dtype=torch.float64)[which]


def test_a_flow_starts_at_the_mixture_of_its_latents_and_only_gains():
    x, held = spiky(2000), spiky(1000, 1)
    flow = dense_flow(2, blocks=2, hidden=(8,), base="mixture", components=8).double()
    start(flow, x, seed=3)
    latent = flow.encode(x).detach()
    found = GaussianMixture(8, random_state=3).fit(latent.numpy())
    offset = flow.log_prob(x) - flow.base.log_prob(latent)
    torch.testing.assert_close(flow.log_prob(x), torch.tensor(found.score_samples(latent.numpy())) + offset, rtol=1e-8, atol=1e-8)
    before, kept = float(flow.log_prob(held).detach().mean()), copy.deepcopy(flow.base.state_dict())
    start(flow, 3 * x, seed=4)  # once
    assert all(torch.equal(value, kept[key]) for key, value in flow.base.state_dict().items())
    normal = dense_flow(2, blocks=2, hidden=(8,)).double()
    start(normal, x)
    assert before > float(normal.log_prob(held).detach().mean()) + 0.5, "several modes, at the start"
    fit(flow, x, steps=60, batch_size=500, lr=2e-3, validation=held)
    assert float(flow.log_prob(held).detach().mean()) > before and flow.base.shift.abs().max() > 0


def test_it_is_saved_copied_and_conditional(tmp_path):
    x, context = spiky(300), rows(300, 2)
    flow = dense_flow(2, context=2, blocks=1, hidden=(8,), base="mixture", components=5)
    fit(flow, x, context, steps=5, batch_size=100, seed=1)
    other = load(save(flow, tmp_path))
    for again in (other, copy.deepcopy(flow)):
        assert torch.equal(again.log_prob(x, context), flow.log_prob(x, context))
        noise = Noise(2, torch.arange(10))
        assert torch.equal(again.base.sample(noise, 10), flow.base.sample(noise, 10))
    assert other.recipe["arguments"]["components"] == 5 and "components=5" in repr(other)


def test_messages():
    good = parts(3, 4)
    for call, match in (
        (lambda: NormalMixture(2, 0), "a mixture needs at least one component, got 0"),
        (lambda: dense_flow(2, components=3), "components=3 is for base='mixture', and the base is 'normal'"),
        (lambda: mixture().set(good[0][:3], *good[1:]), r"takes weights \(4,\), means \(4, 3\) and .*, got \(3,\)"),
        (lambda: mixture().set(-good[0], *good[1:]), "positive weights, finite means and positive definite covariances"),
        (lambda: mixture().set(*good[:2], -good[2]), "positive weights, finite means and positive definite covariances"),
        (lambda: mixture().set(good[0], good[1] * math.nan, good[2]), "positive weights, finite means"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(UserError, match="a mixture of 30 components needs as many rows, got 20; give fewer components"):
        fit(dense_flow(2, base="mixture", components=30), spiky(20), steps=1)
