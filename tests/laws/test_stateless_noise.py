"""Noise is a function of (seed, row, place): the same in any batch, independent elsewhere, and of the right distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from iresnet.numerics.noise import Noise

KINDS = ("signs", "uniforms", "normals")
LIKE = torch.empty(1000, 40, dtype=torch.float64)


def draw(kind: str, noise: Noise, rows: int, columns: int = 6, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return getattr(noise, kind)(torch.empty(rows, columns, dtype=dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_its_numbers_in_any_batch(kind):
    numbers = torch.tensor([5, 0, 2**40, 17, 123456789])
    noise = Noise(7, numbers).at(3, 1)
    whole = draw(kind, noise, 5)
    for place, number in enumerate(numbers.tolist()):
        assert torch.equal(draw(kind, Noise(7, torch.tensor([number])).at(3, 1), 1)[0], whole[place])
    mask = torch.tensor([True, False, True, False, False])
    assert torch.equal(draw(kind, noise.select(mask), 2), whole[mask])
    assert torch.equal(draw(kind, noise.select(torch.tensor([4, 0])), 2), whole[[4, 0]])
    assert torch.equal(draw(kind, noise, 5), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_without_rows_all_share(kind):
    shared = draw(kind, Noise(7), 4)
    assert (shared == shared[0]).all()
    assert Noise(7).select(torch.tensor([0])).rows is None
    assert torch.equal(draw(kind, Noise(7), 1)[0], shared[0])


def test_the_shape_of_a_row_only_orders_its_numbers():
    flat = Noise(1, torch.arange(3)).normals(torch.empty(3, 12, dtype=torch.float64))
    assert torch.equal(Noise(1, torch.arange(3)).normals(torch.empty(3, 2, 6, dtype=torch.float64)).flatten(1), flat)


@pytest.mark.parametrize("kind", KINDS)
def test_places_seeds_rows_and_columns_are_uncorrelated(kind):
    rows = torch.arange(1000)
    sources = [Noise(seed, rows).at(*place) for seed in (0, 1, 2**61) for place in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))]
    table = torch.stack([getattr(source, kind)(LIKE).flatten() for source in sources])
    correlation = torch.corrcoef(table) - torch.eye(len(sources))
    assert correlation.abs().max() < 5 / LIKE.numel() ** 0.5
    one = getattr(Noise(3, rows), kind)(LIKE)
    for over in (one, one.mT):  # columns, rows
        other = torch.corrcoef(over.mT)
        count = over.shape[0]
        assert (other - torch.eye(len(other))).abs().max() < 6.5 / count**0.5
    shifted = torch.corrcoef(torch.stack((one[:-1].flatten(), one[1:].flatten())))[0, 1]
    assert abs(float(shifted)) < 5 / one.numel() ** 0.5


def test_at_is_a_path():
    assert Noise(5).at(1).at(2) == Noise(5).at(1, 2)
    assert len({Noise(5).at(first, second).seed for first in range(100) for second in range(100)}) == 10_000


def test_moments():
    rows = torch.arange(1000)
    signs, uniforms, normals = (getattr(Noise(11, rows), kind)(LIKE) for kind in KINDS)
    count = LIKE.numel() ** 0.5
    assert set(signs.unique().tolist()) == {-1.0, 1.0} and abs(float(signs.mean())) < 5 / count
    assert stats.kstest(uniforms.flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(normals.flatten().numpy(), "norm").pvalue > 1e-3
    for order, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert float((normals**order).mean()) == pytest.approx(moment, abs=60 / count)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_uniforms_lie_in_the_open_interval(dtype):
    values = Noise(1, torch.arange(2000)).uniforms(torch.empty(2000, 500, dtype=dtype))
    assert values.dtype == dtype and float(values.min()) > 0 and float(values.max()) < 1
    assert torch.isfinite(torch.log(values)).all() and torch.isfinite(torch.log1p(-values)).all()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_the_extreme_words_stay_inside(dtype, monkeypatch):
    # No search finds the word of all ones: put it there.
    words = torch.tensor([[-1, 0, 2**62, -(2**63)]])
    monkeypatch.setattr(Noise, "_words", lambda self, count, device: words)
    values = Noise(0).uniforms(torch.empty(1, 4, dtype=dtype))
    assert float(values.min()) > 0 and float(values.max()) < 1
    assert torch.isfinite(Noise(0).normals(torch.empty(1, 4, dtype=dtype))).all()


def test_one_uniform_for_the_batch():
    values = np.array([Noise(seed).at(2).uniform() for seed in range(20_000)])
    assert 0 < values.min() and values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_fresh_noise_obeys_torchs_seed():
    torch.manual_seed(3)
    first, second = Noise.fresh(4), Noise.fresh(4)
    torch.manual_seed(3)
    again = Noise.fresh(4)
    assert first.seed == again.seed != second.seed
    assert first.rows is not None and first.rows.tolist() == [0, 1, 2, 3]


def test_signs_are_those_of_the_bytes_of_the_mixing_function_in_whole_numbers():
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1

    def mix(value: int) -> int:
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        return value ^ (value >> 31)

    for seed in (0, 42, (1 << 64) - 3):
        found = Noise(seed, torch.tensor([0, 7, 2**62, -5])).signs(torch.empty(4, 50))
        for row, signs in zip((0, 7, 2**62, -5), found.tolist(), strict=True):
            key = mix(mix((row * golden + seed) & mask))
            words = [mix((key + place * golden) & mask) for place in range(1, 8)]
            assert signs == [1.0 - 2.0 * ((words[place // 8] >> (8 * (place % 8) + 7)) & 1) for place in range(50)]


def test_the_numbers_themselves_are_fixed():
    """A checkpoint resumes, and a published score is found again, only if these never change."""
    noise = Noise(42, torch.tensor([0, 1])).at(2)
    assert noise.signs(torch.empty(2, 8)).tolist() == FIXED_SIGNS
    assert noise.uniforms(torch.empty(2, 2, dtype=torch.float64)).flatten().tolist() == pytest.approx(FIXED_UNIFORMS, rel=1e-15)


FIXED_SIGNS = [[-1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0], [-1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 1.0]]
FIXED_UNIFORMS = [0.3834599050503892, 0.35165686987503675, 0.39730756917222887, 0.22302235910924584]
