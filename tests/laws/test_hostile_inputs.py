"""What is not a number, or beyond the range of one, is told and never waited for; what has no answer is refused."""

from __future__ import annotations

import math

import pytest
import torch
from law_cases import branch, rows

from iresnet import dense_flow, fit, image_flow
from iresnet.bijections.actnorm import AffineTransform
from iresnet.contract.conv_branches import conv_branch
from iresnet.numerics.anderson import Anderson
from iresnet.numerics.fixed_point import NotConverged, Picard
from iresnet.numerics.krylov import Krylov
from iresnet.numerics.linearize import Linearization
from iresnet.numerics.logdet import Exact
from iresnet.numerics.newton import NewtonKrylov
from iresnet.numerics.noise import Noise
from iresnet.numerics.series import PowerSeries
from iresnet.train import Diverged

ESTIMATORS = (Exact(), PowerSeries(probes=2), PowerSeries(terms=2, roulette="adaptive"), PowerSeries(terms=3), Krylov(2))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_a_row_that_is_not_a_number_ends_and_leaves_the_others_alone(estimator):
    bound, x = branch("sandwich", 4).bind(), rows(6, 4)
    x[2, 1] = math.nan
    value = estimator(bound, x, Noise(0, torch.arange(6)))[1].value
    assert value.isfinite().tolist() == [True, True, False, True, True, True]


@pytest.mark.timeout(60)
def test_training_that_runs_away_is_told():
    with pytest.raises(Diverged):
        fit(dense_flow(8, blocks=2), rows(256, 8).float(), steps=30, batch_size=64, lr=1e25)


@pytest.mark.parametrize("solver", (Picard(), Anderson(), NewtonKrylov()), ids=str)
@pytest.mark.parametrize("far", (math.inf, math.nan, 1e200))
def test_an_infinite_bound_is_no_convergence(solver, far):
    y = rows(3, 4)
    y[1, 0] = far
    found = solver(branch("sandwich", 4, lipschitz=0.9).bind(), y)
    assert (found.error_bound.isfinite() | ~found.converged).all() and found.converged[0] and found.converged[2]
    if not found.converged.all():
        with pytest.raises(NotConverged):
            found.check("block 0")


def test_a_rows_gradient_by_krylov_does_not_depend_on_its_batch():
    """Rows that need many steps and rows that need few, together and alone."""
    made, x, noise = branch("sandwich", 6, (12, 12), 0.97, "tanh", scale=3.0), rows(12, 6), torch.arange(12)
    x[::3] *= 40  # saturated: the Jacobian there is nearly zero

    def gradient(places):
        point = x[places].requires_grad_()
        Krylov(2, tol=1e-2)(made.bind(), point, Noise(1, noise[places]))[1].value.sum().backward()
        return point.grad

    whole = gradient(torch.arange(12))
    for row in range(12):
        torch.testing.assert_close(gradient(torch.tensor([row]))[0], whole[row], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("features", (1, 2, 3, 6))
def test_exact_under_autocast(features):
    flow, x = dense_flow(features, blocks=2), rows(5, features).float()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    plain = flow.eval().log_prob(x)
    with torch.autocast("cpu", torch.bfloat16):
        for module in (flow.eval(), flow.train()):
            torch.testing.assert_close(module.log_prob(x, logdet=Exact()).float(), plain, rtol=0.1, atol=0.3)


class Counting:
    """A bound branch that counts evaluations and products, of one row."""

    def __init__(self, matrix, lipschitz):
        self.matrix, self.lipschitz, self.count = matrix, lipschitz, 0

    def __call__(self, x):
        self.count += 1
        return x @ self.matrix.mT

    def linearize(self, x):
        def jvp(vector):
            self.count += 1
            return vector @ self.matrix.mT

        return Linearization(self(x), jvp, jvp)


@pytest.mark.parametrize("solver", (Picard(), Anderson(), NewtonKrylov(), NewtonKrylov(products=4)), ids=str)
@pytest.mark.parametrize("most", (2000, 40))
def test_steps_are_what_was_evaluated(solver, most):
    matrix = 0.9 * torch.linalg.qr(rows(6, 6))[0]
    function = Counting(matrix, 0.9)
    found = type(solver)(**{**vars(solver), "max_steps": most})(function, rows(1, 6, 3))
    assert function.count - 3 <= int(found.steps) <= min(function.count, most)  # rounding of a plain callable is looked at too


def test_second_derivatives_are_refused_where_they_would_be_wrong():
    x = rows(3, 4).requires_grad_()
    value = PowerSeries(terms=3)(branch("sandwich", 4).bind(), x)[1].value
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(value.sum(), x, create_graph=True)
    image = rows(2, 16).reshape(2, 1, 4, 4).requires_grad_()
    value = Krylov()(conv_branch("sandwich", (1, 4, 4), 4).double().bind(), image)[1].value
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(value.sum(), image, create_graph=True)


def test_no_images_have_no_estimates():
    bound, none = conv_branch("sandwich", (2, 4, 4), 4).bind(), torch.zeros(0, 2, 4, 4)
    for estimator in (Exact(), Krylov(2, split=2), PowerSeries(2), PowerSeries(2, roulette="adaptive")):
        value, estimate = estimator(bound, none)
        assert value.shape == none.shape and estimate.value.shape == (0,)
    assert image_flow((1, 4, 4), blocks=(1,), hidden=4).eval().log_prob(torch.zeros(0, 1, 4, 4)).shape == (0,)


def test_an_affine_inverse_of_wider_parameters_states_its_error():
    transform = AffineTransform(torch.zeros(1, dtype=torch.float64), torch.tensor([1e6 + 0.03], dtype=torch.float64))
    found = transform.inverse(torch.tensor([[1000001.0]]), Picard())
    assert abs(float(found.value) - 0.97) <= float(found.error_bound) < 1e-6
