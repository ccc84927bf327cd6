"""Bases of independent entries against scipy's: densities, samples, moments. Mixtures have a file of their own."""

from __future__ import annotations

import pytest
import torch
from law_cases import rows
from scipy import stats

from iresnet.bases import Base, ClassNormal, DiagonalNormal, StandardNormal, StudentT
from iresnet.interop.frozen import FrozenNormal
from iresnet.models import BASES
from iresnet.numerics.noise import Noise

INDEPENDENT = sorted(set(BASES) - {"mixture"})


def moved(name: str, features: int = 3) -> Base:
    """The base in float64 with its parameters away from where they start."""
    made = BASES[name](features).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.4 * rows(1, features, 5)[0])
    return made


def reference(base: Base) -> list:
    """scipy's distribution of each entry."""
    if isinstance(base, StandardNormal):
        return [stats.norm()] * base.shape[0]
    if isinstance(base, DiagonalNormal):
        return [stats.norm(float(m), float(s.exp())) for m, s in zip(base.mean.detach(), base.log_scale.detach(), strict=True)]
    assert isinstance(base, StudentT)
    degrees = 2 + base.raw_degrees.detach().exp()
    return [stats.t(float(df), 0.0, float(((df - 2) / df) ** 0.5)) for df in degrees]


@pytest.mark.parametrize("name", INDEPENDENT)
def test_densities(name):
    base = moved(name)
    z = torch.cat((rows(50, 3, 1, 3.0), rows(5, 3, 2, 1e3)))
    expected = sum(torch.as_tensor(one.logpdf(z[:, index].numpy())) for index, one in enumerate(reference(base)))
    torch.testing.assert_close(base.log_prob(z), expected, rtol=1e-10, atol=1e-10)
    single = base.float().log_prob(z[:50].float())
    torch.testing.assert_close(single.double(), expected[:50], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", INDEPENDENT)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_samples(name, dtype):
    base = moved(name).to(dtype)
    drawn = base.sample(Noise(4, torch.arange(20_000)), 20_000).detach()
    assert drawn.dtype == dtype and drawn.shape == (20_000, 3)
    for index, one in enumerate(reference(base.double())):
        assert stats.kstest(drawn[:, index].double().numpy(), one.cdf).pvalue > 1e-3
    assert (torch.corrcoef(drawn.double().mT) - torch.eye(3)).abs().max() < 0.05
    alone = base.to(dtype).sample(Noise(4, torch.tensor([77])), 1).detach()
    assert torch.equal(alone[0], drawn[77])


@pytest.mark.parametrize("name", [name for name in INDEPENDENT if list(BASES[name](1).parameters())])
def test_samples_and_densities_are_differentiable(name):
    base = moved(name)
    parameters = list(base.parameters())

    def drawn(*values):
        state = dict(zip((key for key, _ in base.named_parameters()), values, strict=True))

        class Sample(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.base = base

            def forward(self):
                z = self.base.sample(Noise(1, torch.arange(5)), 5)
                return z.sum(1) + self.base.log_prob(z)

        return torch.func.functional_call(Sample(), {f"base.{key}": value for key, value in state.items()}, ())

    assert torch.autograd.gradcheck(drawn, tuple(value.detach().clone().requires_grad_(True) for value in parameters))


def test_student_has_unit_variance_and_more_than_two_degrees():
    base = StudentT(2, 5.0).double()
    drawn = base.sample(Noise(2, torch.arange(200_000)), 200_000)
    torch.testing.assert_close(drawn.var(0), torch.ones(2, dtype=torch.float64), rtol=0, atol=0.05)
    for degrees in (2.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="StudentT needs more than 2 degrees of freedom for a variance"):
            StudentT(2, degrees)
    with torch.no_grad():
        base.raw_degrees.fill_(-30.0)  # nothing to learn takes it to 2
    assert torch.isfinite(base.log_prob(rows(10, 2))).all()


def test_shapes():
    assert StandardNormal((3, 4, 5)).log_prob(torch.zeros(2, 3, 4, 5)).shape == (2,)
    assert DiagonalNormal((3, 4)).sample(Noise(0, torch.arange(2)), 2).shape == (2, 3, 4)
    assert StudentT((2, 2)).log_prob(torch.zeros(5, 2, 2)).shape == (5,)


def test_what_a_base_cannot_do_is_told():
    with pytest.raises(TypeError, match="log_prob"):
        Base(2)  # type: ignore[abstract]
    with pytest.raises(NotImplementedError, match="FrozenNormal says how dense latents are, and draws none"):
        FrozenNormal(StandardNormal(2)).sample(Noise(), 1)
    base = ClassNormal(2, 3)
    for call in (lambda: base.log_prob(torch.zeros(1, 2)), lambda: base.sample(Noise(), 1)):
        with pytest.raises(ValueError, match="it needs a context of width 3"):
            call()
