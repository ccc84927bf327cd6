"""Toy sets: what is drawn follows the density that is stated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from iresnet.data import toy
from iresnet.data.curves import box_gaussian, circle_log_density, curve_log_density, gaussian, quadrature
from iresnet.errors import UserError

FAST = [name for name in toy.NAMES if name != "spirals"]  # spirals cost four erfc per pair of point and node


def cells(name: str, per_side: int) -> tuple[torch.Tensor, torch.Tensor, tuple[float, float]]:
    """Midpoints (per_side^2, 2) of a grid over the extent, the edges' (left, bottom) and the cells' (width, height)."""
    left, right, bottom, top = toy.extent(name)
    width, height = (right - left) / per_side, (top - bottom) / per_side
    ticks = torch.arange(per_side, dtype=torch.float64) + 0.5
    points = torch.cartesian_prod(left + width * ticks, bottom + height * ticks)
    return points, torch.tensor([left, bottom], dtype=torch.float64), (width, height)


@pytest.mark.parametrize("name", toy.NAMES)
def test_a_density_integrates_to_one_over_its_extent(name):
    points, _, (width, height) = cells(name, 160 if name != "spirals" else 100)
    mass = float(toy.log_density(name, points).exp().sum()) * width * height
    assert abs(mass - 1) < 1e-3


@pytest.mark.parametrize("name", toy.NAMES)
def test_samples_fill_cells_as_the_density_says(name):
    """Chi-square of 16 x 16 cells, their masses from a grid six times as fine, at 4.5 standard deviations."""
    coarse, fine = 16, 96
    n = 40_000
    points, corner, (width, height) = cells(name, fine)
    mass = toy.log_density(name, points).exp() * width * height
    mass = mass.reshape(coarse, fine // coarse, coarse, fine // coarse).sum((1, 3)).reshape(-1)
    x = toy.sample(name, n, seed=7)
    place = torch.floor((x - corner) / torch.tensor([width, height]) / (fine // coarse)).long()
    inside = ((place >= 0) & (place < coarse)).all(1)
    counts = torch.bincount(place[inside, 0] * coarse + place[inside, 1], minlength=coarse**2).double()
    used = mass * n > 20
    rest = torch.stack([n - counts[used].sum(), n * (1 - mass[used].sum())])  # everything else as one more cell
    expected = torch.cat([mass[used] * n, rest[1:].clamp(min=1e-9)])
    chi = float(((torch.cat([counts[used], rest[:1]]) - expected) ** 2 / expected.clamp(min=1.0)).sum())
    freedom = int(used.sum())
    assert chi < freedom + 4.5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("name", toy.NAMES)
def test_the_mean_surprise_is_the_entropy(name):
    n = 20_000 if name != "spirals" else 5_000
    surprise = -toy.log_density(name, toy.sample(name, n, seed=3))
    entropy = toy.entropy(name)
    assert entropy.error < 1e-5
    stderr = float(surprise.std()) / math.sqrt(n)
    assert abs(float(surprise.mean()) - entropy.value) < 4 * stderr + entropy.error + 1e-12


def test_the_checkerboard_has_entropy_log_32_and_nothing_outside_its_squares():
    assert toy.entropy("checkerboard") == (math.log(32), 0.0)
    squares = toy.sample("checkerboard", 4000, seed=0)
    assert torch.equal(torch.floor(squares / 2).sum(1) % 2, torch.zeros(4000, dtype=torch.float64))
    outside = torch.tensor([[-3.0, -1.0], [5.0, 5.0], [-3.0, 9.0], [-4.1, -3.0]], dtype=torch.float64)
    assert torch.equal(toy.log_density("checkerboard", outside), torch.full((4,), -math.inf, dtype=torch.float64))


@pytest.mark.parametrize("name", toy.NAMES)
def test_same_seed_same_points_and_other_seeds_other_points(name):
    first = toy.sample(name, 50, seed=1)
    assert first.shape == (50, 2) and first.dtype == torch.float64
    assert torch.equal(first, toy.sample(name, 50, seed=1))
    assert not torch.equal(first, toy.sample(name, 50, seed=2))
    assert toy.sample(name, 0, seed=1).shape == (0, 2)
    assert toy.log_density(name, toy.sample(name, 0, seed=1)).shape == (0,)


@pytest.mark.parametrize("name", FAST)
def test_a_label_makes_its_density_the_mixture_component(name):
    """log p(x) is the mean over classes of p(x | class); the label of a point is likelier than chance."""
    x, label = toy.sample_labelled(name, 400, seed=5)
    if toy.label_levels(name):
        classes = [toy.log_density(name, x, torch.tensor(k)) for k in range(toy.label_levels(name))]
        mixture = torch.logsumexp(torch.stack(classes), 0) - math.log(len(classes))
        torch.testing.assert_close(mixture, toy.log_density(name, x))
        assert set(label.tolist()) == set(range(len(classes)))
    gain = toy.log_density(name, x, label) - toy.log_density(name, x)
    assert float(gain.mean()) > 0.3


def test_moons_are_those_of_scikit_learn():
    from sklearn.datasets import make_moons

    theirs, their_label = make_moons(20_000, noise=0.1, random_state=0)
    ours, our_label = toy.sample_labelled("moons", 20_000, seed=0)
    for k in (0, 1):
        a, b = theirs[their_label == k], ours[our_label == k].numpy()
        np.testing.assert_allclose(a.mean(0), b.mean(0), atol=0.03)
        np.testing.assert_allclose(np.cov(a.T), np.cov(b.T), atol=0.03)
    surprise = -toy.log_density("moons", torch.from_numpy(theirs), torch.from_numpy(their_label))
    assert abs(float(surprise.mean()) - (toy.entropy("moons").value - math.log(2))) < 0.02


@pytest.mark.parametrize("name", [name for name in toy.NAMES if name != "checkerboard"])
def test_far_points_keep_a_finite_log_density(name):
    far = torch.tensor([[30.0, -40.0], [1e3, 1e3], [0.0, 0.0]], dtype=torch.float64)
    assert torch.isfinite(toy.log_density(name, far)).all()


@pytest.mark.parametrize("name", toy.NAMES)
def test_extent_and_label_name(name):
    left, right, bottom, top = toy.extent(name)
    x = toy.sample(name, 2000, seed=0)
    inside = (x[:, 0] > left) & (x[:, 0] < right) & (x[:, 1] > bottom) & (x[:, 1] < top)
    assert float(inside.double().mean()) > 0.995
    assert toy.label_name(name) in {"moon", "circle", "square", "gaussian", "blade", "ring", "arm", "angle"}


def test_a_circle_by_quadrature_is_the_closed_form():
    circle = quadrature(lambda t: 2 * np.stack([np.cos(t), np.sin(t)], -1), np.linspace(0, 2 * math.pi, 40))
    x = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    torch.testing.assert_close(curve_log_density(x, circle, gaussian(0.3)), circle_log_density(x, 2.0, 0.3))


def test_box_noise_in_plain_form_and_in_logs_agree_and_integrate_to_one():
    u = torch.arange(-1.0, 1.5, 0.005, dtype=torch.float64)
    offset = torch.stack([u, torch.full_like(u, 0.2)], -1)
    plain, logs = box_gaussian(0.3, 0.1)(offset), box_gaussian(0.3, 0.1, far=True)(offset)
    torch.testing.assert_close(plain, logs)
    grid = torch.cartesian_prod(u, u)
    assert abs(float(box_gaussian(0.3, 0.1)(grid).exp().sum()) * 0.005**2 - 1) < 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toy.sample("moon", 3, 0), "no toy set named 'moon'"),
        (lambda: toy.sample("moons", -1, 0), "must not be negative"),
        (lambda: toy.sample("moons", 1, -1), "must not be negative"),
        (lambda: toy.log_density("moons", torch.zeros(3)), r"shape \(B, 2\), got \(3,\)"),
        (lambda: toy.log_density("moons", torch.zeros(3, 2), torch.tensor(2)), "number from 0 to 1"),
    ],
)
def test_bad_requests_say_what_is_wrong(call, message):
    with pytest.raises(UserError, match=message):
        call()
