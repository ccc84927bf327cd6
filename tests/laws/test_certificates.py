"""Certificates: what is measured lies below what is bounded, and what is not certain does not hold."""

from __future__ import annotations

import math

import pytest
import torch
from law_cases import branch, flow, rows

from iresnet import certify
from iresnet.bijections import ActNorm, Chain, Residual, Whiten
from iresnet.certify import BlockCertificate, Certificate
from iresnet.contract import FAMILIES
from iresnet.flow import Flow
from iresnet.models import BASES
from iresnet.numerics.fixed_point import Picard
from iresnet.rounding import lipschitz_text
from iresnet.testing import jacobian


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("context", (0, 2))
def test_measured_is_below_bound(family, context):
    made = flow(3, context, 3, family)
    given = rows(40, context, 3) if context else None
    for told in (certify(made), certify(made, rows(40, 3), given), certify(made, None, given), certify(made.float())):
        assert isinstance(told, Certificate) and len(told.blocks) == 3
        for block in told.blocks:
            assert 0 < block.measured <= block.bound
            assert block.holds == (block.bound < 1)
            assert block.family == family
        assert told.holds == all(block.holds for block in told.blocks)
        assert told.amplification <= told.inverse_lipschitz
        assert lipschitz_text(told.blocks[0].bound) in str(told) and told.to_dict()["blocks"][0]["bound"] == told.blocks[0].bound


def test_the_maps_constants_hold_and_the_amplification_is_that_of_its_jacobian():
    made = flow(3, 2, 2)
    x, context = rows(30, 3), rows(30, 2, 3)
    told = certify(made, x, context)
    matrices = jacobian(lambda point: made.encode(point, context), x)
    values = torch.linalg.svdvals(matrices)
    assert float(values.max()) <= told.lipschitz
    assert told.amplification == pytest.approx(float((1 / values[:, -1]).max()), rel=1e-8)
    y = x.roll(1, 0)
    moved = (made.encode(x, context) - made.encode(y, context)).norm(dim=1) / (x - y).norm(dim=1)
    assert moved.max() <= told.lipschitz and (1 / moved).max() <= told.inverse_lipschitz


def test_what_is_not_contractive_does_not_hold():
    made = Flow(Chain([Residual(branch("gram", 3)), Residual(branch("free", 3, scale=60.0))]), BASES["normal"](3)).double()
    told = certify(made)
    assert [block.holds for block in told.blocks] == [True, False] and not told.holds
    assert told.inverse_lipschitz == math.inf and "NO" in str(told)
    with torch.no_grad():  # the same family, small enough: certain after all
        for weight in made.bijection.parts[1].branch.weights:
            weight.mul_(1e-3)
    assert certify(made).holds


@pytest.mark.parametrize("family", ("sandwich", "gram"))
def test_weights_that_are_not_finite_do_not_hold(family):
    for bad in (math.nan, math.inf):
        made = flow(3, 0, 2, family)
        with torch.no_grad():
            next(made.bijection.parts[2].branch.parameters()).fill_(bad)
            made.bijection.parts[2].branch.raw()[0].fill_(bad)
        told = certify(made)
        assert [block.holds for block in told.blocks] == [False, True] and not told.holds
        assert math.isnan(told.blocks[0].measured)


def test_parts_between_the_blocks_must_be_finite_too():
    made = flow(3)
    with torch.no_grad():
        next(part for part in made.modules() if isinstance(part, ActNorm)).shift[0] = math.nan
    told = certify(made)
    assert all(block.holds for block in told.blocks) and not told.holds


def test_bfloat16_voids_the_certificate():
    made = flow(3, 0, 2, "gram").to(torch.bfloat16)
    assert not certify(made).holds


def test_contexts_must_be_as_many_as_rows():
    with pytest.raises(ValueError, match="4 rows to measure at need a context of as many rows, or of one for all, got 3"):
        certify(flow(3, 2, 1), rows(4, 3), rows(3, 2))
    assert certify(flow(3, 2, 1), rows(300, 3), rows(300, 2)).holds
    with pytest.raises(ValueError, match=r"measured at rows of shape \(3,\), got \(4, 2\)"):
        certify(flow(3), rows(4, 2))
    for wrong in (lambda: certify(flow(3), rows(0, 3)), lambda: certify(flow(3), points=0)):
        with pytest.raises(ValueError, match="a certificate needs at least one point"):
            wrong()


def test_the_table_rounds_bounds_up():
    bounds = (0.97004, 0.99999, 1.00001, math.inf)
    blocks = [BlockCertificate("1", "gram", "sound", bound, 0.10009, bound < 1) for bound in bounds]
    lines = str(Certificate(tuple(blocks), 4.0, 1.2301, 1.1, False)).splitlines()
    assert [line.split()[3] for line in lines[1:5]] == ["0.9701", "0.99999", "1.0001", "inf"]
    assert {line.split()[4] for line in lines[1:5]} == {"0.1000"} and lines[5].endswith("at most 1.24")


def test_inverses_in_closed_form_state_their_rounding():
    for seed in range(5):
        x = 1e3 * rows(200, 4, seed) @ rows(4, 4, seed + 1) + 1e4
        for part in (Whiten(4), ActNorm(4)):
            part.double()
            z = part.initialize(x)
            found = part.bind().inverse(z, Picard())
            # z is itself rounded: what it stands for is found with every term enlarged by its condition.
            exact = part.bind().to(torch.float64).inverse(z, Picard())
            assert found.converged.all() and (found.error_bound > 0).all() and (found.steps == 0).all()
            assert torch.equal(found.value, exact.value)
            narrow = part.bind().to(torch.float32).inverse(z.float(), Picard())
            wide = part.bind().to(torch.float32).to(torch.float64).inverse(z.float().double(), Picard())
            error = (narrow.value.double() - wide.value).norm(dim=1)
            assert (error <= narrow.error_bound.double()).all() and float(error.max()) > 0
    z[0, 0] = math.nan
    assert ActNorm(4).double().bind().inverse(z, Picard()).converged.tolist()[:2] == [False, True]
