"""Scores of rows whose columns hold levels: what the dequantising noise does to a row is in its standard error."""

from __future__ import annotations

import torch
from law_cases import flow, rows

from iresnet.data import Column, Schema
from iresnet.numerics.logdet import Exact
from iresnet.numerics.series import PowerSeries
from iresnet.tasks.density import score
from iresnet.tasks.rows import Rows

LEVELS = Rows((3 * rows(40, 3)).round(), schema=Schema(tuple(Column(name, resolution=1.0) for name in "abc")))


def told(made: Rows, **options: object) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = [part[1:] for part in score(flow(3), made, **{"logdet": Exact(), **options})]  # type: ignore[arg-type]
    value, stderr, bias = (torch.cat(column) for column in zip(*parts, strict=True))
    return value, stderr, bias


def test_the_spread_of_the_noise_is_stated():
    many = torch.stack([told(LEVELS, draws=8, seed=seed)[0] for seed in range(60)])
    stated = torch.stack([told(LEVELS, draws=8, seed=seed)[1] for seed in range(60)])
    made = many.std(0)
    assert float(made.min()) > 1e-3  # the noise does matter here
    ratio = stated.square().mean(0) / made.square()
    assert 0.8 < float(ratio.mean()) < 1.25


def test_one_draw_is_the_first_of_many_and_states_the_estimator_alone():
    one = told(LEVELS)
    assert not one[1].any()
    torch.testing.assert_close(one[0], told(LEVELS, draws=1, batch_size=7)[0], rtol=1e-12, atol=1e-12)
    assert not torch.equal(one[0], told(LEVELS, draws=2)[0])
    pooled = told(LEVELS, draws=4, batch_size=7)
    torch.testing.assert_close(pooled[0], told(LEVELS, draws=4)[0], rtol=1e-12, atol=1e-12)


def test_without_levels_there_is_nothing_to_draw():
    plain, estimator = Rows(rows(20, 3)), PowerSeries(probes=4)
    for one, many in zip(told(plain, logdet=estimator), told(plain, logdet=estimator, draws=8), strict=True):
        assert torch.equal(one, many)
