"""Every adapter's density is one: it integrates to 1, and it is the base's times the Jacobian determinant of the encoder."""

from __future__ import annotations

import math

import pytest
import torch
from shaken import DIRECT, FLOWS, rows, shaken
from torch import Tensor

from iresnet.compare import Domain, System, Unable, build
from iresnet.compare.system import log_prob_by_jacobian
from iresnet.numerics.noise import Noise

CONTINUOUS = 2e-3  # what the continuous flow's solver leaves; all others are exact to rounding
SLOW = {"residual": pytest.param("residual", marks=pytest.mark.slow)}  # its power iterations
FORMULAS = tuple(name for name in FLOWS if name not in ("planar", "radial"))


def by_differences(system: System, x: Tensor, step: float = 1e-4) -> Tensor:
    """log N(encode(x)) + log |det d encode / dx| (B,), each derivative by differences of fourth order."""
    columns = []
    for k in range(x.shape[1]):
        moved = torch.zeros_like(x)
        moved[:, k] = step
        near, far = (system.encode(x + s * moved) - system.encode(x - s * moved) for s in (1, 2))
        columns.append((8 * near - far) / (12 * step))
    z = system.encode(x)
    base = -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)
    return base + torch.linalg.slogdet(torch.stack(columns, 2)).logabsdet


@pytest.mark.parametrize("name", [SLOW.get(name, name) for name in FLOWS])
def test_log_prob_is_that_of_the_encoder_by_differences(name: str) -> None:
    system, x = shaken(name, 3), rows(12, 3, 5)
    found = system.score(x)
    assert float(found.std()) > 0.1
    # Kinks of ReLU and of splines: a difference that straddles one is wrong, so most rows must agree, not all.
    error = (found - by_differences(system, x)).abs()
    assert float(error.quantile(0.7)) < (CONTINUOUS if name == "cnf" else 1e-5), error
    if name != "residual":  # the library's own is an estimate from three dimensions on
        assert torch.allclose(system.log_prob(x).detach().double(), found, atol=1e-4)


def grid(low: Tensor, high: Tensor, side: int) -> tuple[Tensor, float]:
    """The middles (side ** 2, 2) of the cells of a frame, and a cell's area."""
    place = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    points = low + (high - low) * torch.cartesian_prod(place, place)
    return points, float((high - low).prod()) / side**2


@pytest.mark.parametrize("name", ["planar", "radial"])
def test_the_density_of_maps_without_samples_integrates_to_one(name: str) -> None:
    x = rows(2000, 2, 9)
    spread = 1.6 * (x.amax(0) - x.amin(0))
    points, cell = grid(x.amin(0) - spread, x.amax(0) + spread, 140)
    assert float(shaken(name).score(points).exp().sum()) * cell == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", [SLOW.get(name, name) for name in (*FORMULAS, *DIRECT) if name != "cnf"])
def test_density_and_samples_agree(name: str) -> None:
    """In a frame around most of 2,000 samples: the integral is the share of samples there, and so is the mean of log p."""
    agree(name, 110)


@pytest.mark.slow
def test_density_and_samples_of_the_continuous_flow_agree() -> None:
    agree("cnf", 50)


def agree(name: str, side: int) -> None:
    system = shaken(name)
    drawn = system.sample(2000, 3)
    assert torch.equal(drawn[:5], system.sample(2000, 3)[:5]) and not torch.equal(drawn[:5], system.sample(2000, 4)[:5])
    ends = torch.quantile(drawn, torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0)
    low, high = 1.1 * ends[0] - 0.1 * ends[1], 1.1 * ends[1] - 0.1 * ends[0]
    points, cell = grid(low, high, side)
    log_p = system.score(points)
    mass = float(log_p.exp().sum()) * cell
    inside = drawn[((drawn > low) & (drawn < high)).all(1)]
    share = len(inside) / len(drawn)
    assert 0.95 < share <= 1 and mass == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 2000) + 0.01)
    expected = float((log_p.exp() * log_p.nan_to_num(neginf=0.0)).sum()) * cell / mass
    seen = system.score(inside)
    assert expected == pytest.approx(float(seen.mean()), abs=4 * float(seen.std()) / math.sqrt(len(seen)) + 0.02)


@pytest.mark.parametrize("name", [SLOW.get(name, name) for name in FORMULAS])
def test_there_and_back(name: str) -> None:
    system, x = shaken(name, 3), rows(50, 3, 7)
    error = (system.decode(system.encode(x)) - x).norm(dim=1).max()
    assert float(error) < {"cnf": 1e-2, "residual": 1e-3}.get(name, 1e-6)


def test_the_continuous_flow_estimates_its_trace_beyond_many_columns() -> None:
    """One probe a row, unbiased; the same for the same rows, and others for other rows with the same numbers in them."""
    system, x = build("cnf", Domain((140,)), size=6, seed=1).double(), rows(40, 140, 3)
    system.initialize(x)
    system.eval()
    with torch.no_grad():
        for parameter in system.parameters():
            parameter += 0.12 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2), dtype=parameter.dtype)
    assert system.density_kind == "estimated, one probe"  # type: ignore[union-attr]
    exact = log_prob_by_jacobian(system, x[:4])
    some, places = x[:4].repeat(400, 1), torch.arange(1600)
    found = system.score(some, Noise(5, places))
    assert torch.equal(found, system.score(some, Noise(5, places)))
    assert not torch.equal(found, system.score(some, Noise(5, 1600 + places)))
    found = found.reshape(400, 4)
    off = (found.mean(0) - exact).abs()
    assert bool((off < 4 * found.std(0) / 20 + CONTINUOUS).all()), off
    assert float(found.std(0).min()) > 0.01  # an estimate, not the exact trace


@pytest.mark.parametrize("name", ["planar", "radial"])
def test_maps_without_a_formula_say_so(name: str) -> None:
    system = shaken(name)
    with pytest.raises(Unable, match="no formula"):
        system.sample(3)
    with pytest.raises(Unable, match="no formula"):
        system.decode(system.encode(rows(3, 2)))


@pytest.mark.parametrize("name", ["mixture", "kde"])
def test_what_has_no_latents_says_so(name: str) -> None:
    with pytest.raises(Unable, match="no latents"):
        shaken(name).encode(rows(3, 2))


def test_the_global_generators_are_left_alone() -> None:
    import numpy as np

    system = shaken("realnvp")
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(2), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    system.sample(4, 1)
    assert torch.equal(torch.rand(2), expected[0]) and np.random.rand() == expected[1]
