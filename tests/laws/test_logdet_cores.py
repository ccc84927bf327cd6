"""The determinant at the narrowest layer of a dense branch is that of the Jacobian."""

from __future__ import annotations

import pytest
import torch
from law_cases import branch, rows

from iresnet.numerics.linearize import linearize
from iresnet.numerics.logdet import Exact
from iresnet.testing import check_logdet, check_logdet_gradient, true_logdet

NARROW = ((3, (1,)), (5, (2,)), (5, (2, 4)), (5, (4, 2)), (6, (3, 3)), (7, (4, 2, 5)), (7, (2, 4, 5)), (7, (4, 5, 2)))


@pytest.mark.parametrize(("features", "hidden"), NARROW)
@pytest.mark.parametrize("family", ("sandwich", "gram", "free"))
def test_it_is_the_determinant_of_the_jacobian(family, features, hidden):
    made = branch(family, features, hidden, 0.9, "tanh", 2)
    bound, x = made.bind(rows(6, 2, 5)), rows(6, features)
    core = linearize(bound, x).core
    assert core is not None and core().shape == (6, min(hidden), min(hidden)) and bound.rank == min(hidden)
    eye = torch.eye(min(hidden), dtype=x.dtype)
    torch.testing.assert_close(torch.linalg.slogdet(eye + core()).logabsdet, true_logdet(bound, x), rtol=1e-9, atol=1e-11)
    check_logdet(Exact(), bound, x, repeats=2)
    check_logdet_gradient(
        Exact(), lambda: made.bind(rows(6, 2, 5)), x, list(made.parameters()), groups=1, repeats=1, tolerance=1e-7
    )


def test_only_a_narrower_layer_is_taken():
    for features, hidden in ((3, (8, 6)), (3, (3, 3))):
        assert linearize(branch("gram", features, hidden).bind(), rows(2, features)).core is None
    maxmin = branch("gram", 6, (2, 2), nonlinearity="maxmin").bind()
    assert linearize(maxmin, rows(2, 6)).core is None and maxmin.rank == 6


def test_scales_of_the_hidden_units_cost_no_digits():
    """Sandwich layers scale hidden units by up to e^8 and back: in float32, in the matrix itself, that would be lost."""
    for scale in (1.0, 8.0, 40.0):
        made = branch("sandwich", 32, (16, 24), 0.97, "tanh")
        with torch.no_grad():
            for index, psi in enumerate(made.psi):
                psi.copy_(scale * rows(1, len(psi), index, 1.0)[0])
        x = rows(50, 32)
        wide = Exact()(made.bind(), x)[1].value
        torch.testing.assert_close(wide, true_logdet(made.bind(), x), rtol=1e-9, atol=1e-9)
        single = Exact()(made.float().bind(), x.float())[1]
        exact = Exact()(made.bind().to(torch.float64), x.float().double())[1].value
        assert ((single.value.double() - exact).abs() <= single.bias).all()


def test_large_batches_in_parts_are_the_same(monkeypatch):
    monkeypatch.setattr("iresnet.numerics.logdet._ENTRIES", 64)
    made = branch("gram", 9, (4, 5), 0.9, "tanh")
    x = rows(23, 9)
    torch.testing.assert_close(Exact()(made.bind(), x)[1].value, true_logdet(made.bind(), x), rtol=1e-9, atol=1e-11)
