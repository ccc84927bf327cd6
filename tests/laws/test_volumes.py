"""Volumes: bijections and their inverses agree, chains add up, and densities integrate to one."""

from __future__ import annotations

import pytest
import torch
from law_cases import SOUND, branch, flow, rows

from iresnet.bijections import ActNorm, Chain, Residual, Whiten
from iresnet.models import BASES
from iresnet.testing import check_chain_rule, check_integral, check_inverse_logdet


def actnorm(features, context=0):
    made = ActNorm(features, context).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, dtype=torch.float64))
    return made


def whiten(features):
    made = Whiten(features).double()
    made.initialize(rows(50, features) @ (torch.eye(features, dtype=torch.float64) + 0.3 * rows(features, features, 1)))
    return made


def parts(features, context=0):
    return [
        whiten(features),
        actnorm(features, context),
        Residual(branch("sandwich", features, (8, 6), 0.8, "elu", context)),
        actnorm(features, context),
        Chain([Residual(branch("gram", features, (6,), 0.8, "tanh", context, seed=1)), actnorm(features, context)]),
    ]


@pytest.mark.parametrize("features", (1, 2, 4))
@pytest.mark.parametrize("context", (0, 3))
def test_the_inverse_has_minus_the_log_determinant(features, context):
    given = rows(5, context, 8) if context else None
    for part in [*parts(features, context), Chain(parts(features, context)), Chain([])]:
        check_inverse_logdet(part, rows(5, features, 2), given)


@pytest.mark.parametrize("context", (0, 3))
def test_chain_rule(context):
    given = rows(5, context, 8) if context else None
    made = parts(3, context)
    check_chain_rule(made, Chain(made), rows(5, 3, 2), given)


def test_bounds_of_affine_maps_and_chains():
    for part in [*parts(3), Chain(parts(3))]:
        transform = part.bind()
        there, back = transform.lipschitz()
        x, y = rows(400, 3, 5), rows(400, 3, 6)
        ratio = (transform.forward(x) - transform.forward(y)).norm(dim=1) / (x - y).norm(dim=1)
        assert ratio.max() <= there * (1 + 1e-10)
        assert 1 / ratio.min() <= back * (1 + 1e-10)


@pytest.mark.parametrize("base", sorted(BASES))
@pytest.mark.parametrize("features", (1, 2))
def test_densities_integrate_to_one(features, base):
    for seed, family in ((0, "sandwich"), (1, "gram")):
        check_integral(flow(features, family=family, base=base, seed=seed))


@pytest.mark.parametrize("features", (1, 2))
def test_conditional_densities_integrate_to_one(features):
    conditional = flow(features, 2)
    for context in rows(2, 2, 3):
        check_integral(conditional, context)


@pytest.mark.slow
@pytest.mark.parametrize("family", SOUND)
def test_densities_of_every_family_and_activation_integrate_to_one(family):
    for name in ("elu", "tanh", "softplus", *(() if family == "sandwich" else ("lipswish", "sine", "clipswish", "maxmin"))):
        for features in (1, 2):
            kinked = name == "maxmin"
            points = 2001 if kinked and features == 2 else None
            check_integral(flow(features, family=family, nonlinearity=name, lipschitz=0.9), reach=4.0, points=points)


def test_whitening_whitens_and_says_what_it_floored():
    x = rows(500, 4) @ rows(4, 4, 1) + 3.0
    made = Whiten(4).double()
    z = made.initialize(x)
    torch.testing.assert_close(torch.cov(z.mT, correction=0), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(z.mean(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-10)
    assert int(made.floored) == 0
    again = made.initialize(100 * x)  # set once
    torch.testing.assert_close(again, made(100 * x))
    flat = Whiten(3).double()
    z = flat.initialize(torch.cat((x[:, :2], x[:, :1]), 1))
    assert int(flat.floored) == 1 and torch.isfinite(z).all()
    constant = Whiten(2)
    assert torch.isfinite(constant.initialize(torch.ones(10, 2))).all() and int(constant.floored) == 2


def test_actnorm_is_set_once_and_explicitly():
    x = 3 * rows(200, 3) + torch.tensor([1.0, 2.0, 3.0])
    made = ActNorm(3).double()
    torch.testing.assert_close(made(x), x)
    z = made.initialize(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3, dtype=torch.float64))
    loaded = ActNorm(3).double()
    loaded.load_state_dict(made.state_dict())
    loaded.initialize(100 * x)
    assert torch.equal(loaded.shift, made.shift) and bool(loaded.initialized)
    assert torch.isfinite(ActNorm(2).initialize(torch.ones(5, 2))).all()


def test_messages():
    with pytest.raises(ValueError, match="at least two rows of finite numbers, got 1 rows"):
        Whiten(2).initialize(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="at least two rows of finite numbers"):
        Whiten(2).initialize(torch.tensor([[0.0, torch.nan], [1.0, 2.0]]))
    with pytest.raises(ValueError, match="this ActNorm is conditional: it needs a context of width 3"):
        ActNorm(2, 3).bind()
    with pytest.raises(ValueError, match="this branch is conditional: it needs a context of width 3"):
        Residual(branch("gram", 2, (4,), context=3)).bind()
