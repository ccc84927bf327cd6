"""Arnoldi's process: the log-determinant, its gradient, and a bound of the truncation that holds for every contraction."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from law_cases import branch, rows

from iresnet.numerics.krylov import Krylov
from iresnet.numerics.logdet import Exact
from iresnet.numerics.noise import Noise
from iresnet.numerics.probes import draw_probes
from iresnet.numerics.quadrature import log_rule
from iresnet.numerics.series import PowerSeries
from iresnet.testing import check_logdet, check_logdet_gradient


class Linear:
    """x -> A x with a certificate, of vectors or of images."""

    def __init__(self, matrix, lipschitz):
        self.matrix, self.lipschitz = matrix, lipschitz

    def __call__(self, x):
        return (x.flatten(1) @ self.matrix.mT).reshape(x.shape)


def contractions(size, c, dtype=torch.float64):
    """Matrices of norm c: normal with eigenvalues at and around -c, defective, nilpotent, of low rank, zero."""
    generator = torch.Generator().manual_seed(size)
    square = torch.randn(size, size, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(square)[0]
    jordan = torch.diag(torch.ones(size - 1, dtype=torch.float64), 1)
    towards = -1 + torch.logspace(-4, 0, size, dtype=torch.float64)
    made = {
        "rotation": turn,
        "random": square / torch.linalg.matrix_norm(square, 2),
        "-cI": -torch.eye(size, dtype=torch.float64),
        "cI": torch.eye(size, dtype=torch.float64),
        "zero": torch.zeros(size, size, dtype=torch.float64),
        "jordan block at -c/2": 0.5 * (jordan - torch.eye(size, dtype=torch.float64)),
        "nilpotent": jordan,
        "symmetric near -c": turn @ torch.diag(towards / towards.abs().max()) @ turn.mT,
        "rank one": torch.outer(turn[0], turn[-1]),
        "rank one at -c": -torch.outer(turn[0], turn[0]),
    }
    return {name: (c * matrix).to(dtype) for name, matrix in made.items()}


def matrix_log(matrix):
    """log(I + A) by Taylor's series of a product with itself halved often enough: a naive twin, in float64."""
    eye = torch.eye(len(matrix), dtype=torch.float64)
    root, times = eye + matrix.double(), 0
    while torch.linalg.matrix_norm(root - eye) > 0.25:
        y, z = root, eye  # Denman and Beavers' iteration for the square root
        for _ in range(60):
            y, z = 0.5 * (y + torch.linalg.inv(z)), 0.5 * (z + torch.linalg.inv(y))
        root, times = y, times + 1
    power, total = eye, torch.zeros_like(eye)
    for k in range(1, 60):
        power = power @ (root - eye)
        total = total + (-1) ** (k + 1) / k * power
    return total * 2**times


@pytest.mark.parametrize("size", (1, 2, 3, 7, 20))
@pytest.mark.parametrize("c", (0.3, 0.9, 0.99))
def test_the_bias_bounds_the_truncation_of_every_contraction(size, c):
    x = torch.zeros(5, size, dtype=torch.float64)
    noise = Noise(size, torch.arange(5))
    probes = draw_probes("rademacher", 2, x, noise)
    for name, matrix in contractions(size, c).items():
        truth = torch.einsum("mbi,ij,mbj->mb", probes, matrix_log(matrix), probes).mean(0)
        for options in ({"tol": 1e-10}, {"tol": 1e-4}, {"tol": 1.0}, {"steps": 1}, {"steps": 2}, {"steps": 5}):
            estimate = Krylov(2, first_trace=False, **options)(Linear(matrix, c), x, noise)[1]
            error = (estimate.value - truth).abs()
            assert (error <= estimate.bias + 1e-11).all(), f"{name}, {options}: off by {error.max():.2g}"
            if "tol" in options:
                assert (estimate.bias <= 1.1 * max(options["tol"], 1e-11 * size)).all(), f"{name}, {options}"


@pytest.mark.parametrize("c", (0.5, 0.97, 0.999))
def test_float32_is_within_the_stated_bias(c):
    for size in (1, 4, 30):
        x = torch.zeros(8, size)
        noise = Noise(1, torch.arange(8))
        probes = draw_probes("rademacher", 1, x, noise).double()
        for name, matrix in contractions(size, c * (1 - 1e-6), torch.float32).items():
            truth = torch.einsum("mbi,ij,mbj->mb", probes, matrix_log(matrix), probes)[0]
            for scale, tol in ((1.0, 1e-3), (1e-6, 1e-9)):
                estimate = Krylov(tol=tol, first_trace=False)(Linear(matrix * scale, c), x, noise)[1]
                true = truth if scale == 1 else torch.einsum("mbi,ij,mbj->mb", probes, matrix_log(matrix * scale), probes)[0]
                assert ((estimate.value.double() - true).abs() <= estimate.bias).all(), f"{name} {size} {scale}"


def test_a_krylov_space_that_is_exhausted_is_exact_at_once():
    x = torch.zeros(3, 20, dtype=torch.float64)
    for name, most in (("zero", 1), ("-cI", 1), ("cI", 1), ("rank one", 2), ("rank one at -c", 2)):
        products = []

        matrix = contractions(20, 0.9)[name]

        class Counted:
            lipschitz = 0.9

            def linearize(self, x, matrix=matrix, products=products):
                from iresnet.numerics.linearize import Linearization

                def vjp(vector):
                    products.append(1)
                    return vector @ matrix

                return Linearization(x @ matrix.mT, vjp, vjp)

        estimate = Krylov(first_trace=False, tol=1e-10)(Counted(), x)[1]
        assert len(products) <= most + 1, name
        assert (estimate.bias < 1e-10).all()


@pytest.mark.parametrize(("distribution", "first_trace"), list(product(("rademacher", "gaussian"), (True, False))))
def test_mean_spread_and_bias(distribution, first_trace):
    options = {"distribution": distribution, "first_trace": first_trace}
    for seed, family, context in ((0, "sandwich", 0), (1, "gram", 2), (2, "free", 0)):
        made = branch(family, 3, (8, 6), 0.85, "tanh", context, seed=seed)
        bound = made.bind(rows(4, 2) if context else None)
        for steps, probes in ((None, 4), (2, 2), (1, 3)):
            if family != "free":
                check_logdet(Krylov(probes, steps, **options), bound, rows(4, 3, seed))
        if family == "free":
            estimate = Krylov(2, **options)(lambda y, bound=bound: bound(y), rows(4, 3))[1]
            assert (estimate.bias == math.inf).all() and torch.isfinite(estimate.value).all()


@pytest.mark.parametrize("features", (1, 2, 5))
def test_a_truncation_that_matters_is_within_its_stated_bias(features):
    made = branch("gram", features, (6,), 0.95, "sine", scale=8.0)
    with torch.no_grad():
        made.biases[0].mul_(0.1)
        made.weights[1].copy_(-4 * made.weights[0].T)
    x = rows(6, features, scale=0.3)
    check_logdet(Krylov(2, 1, first_trace=False), made.bind(), x, repeats=4000, biased=features > 1)


def test_without_a_certificate_it_still_converges():
    made = branch("free", 3, (8, 6), 0.9, "tanh")
    bound = made.bind()
    x = rows(6, 3)
    estimate = Krylov(600)(lambda y: bound(y), x, Noise(0, torch.arange(6)))[1]
    truth = Exact()(bound, x)[1].value
    assert (estimate.bias == math.inf).all()
    assert ((estimate.value - truth).abs() <= 5 * estimate.stderr + 1e-6).all()


@pytest.mark.parametrize("family", ("sandwich", "gram"))
@pytest.mark.parametrize("first_trace", (True, False))
def test_gradients(family, first_trace):
    for probes, distribution, hidden in ((1, "rademacher", (8, 6)), (2, "gaussian", (8,))):
        made = branch(family, 3, hidden, 0.8, "tanh", 2)
        given = rows(4, 2, 9).requires_grad_(True)
        for recompute in (False, True):
            estimator = Krylov(probes, distribution=distribution, first_trace=first_trace, tol=1e-8, recompute=recompute)
            wanted = [*made.parameters(), given]
            check_logdet_gradient(estimator, lambda made=made, given=given: made.bind(given), rows(4, 3), wanted)


def test_the_gradients_weights_are_within_their_bound():
    """<J^T w, v> differentiated by A is w v^T: for a linear map the weights can be read off."""
    for c, (name, matrix) in product((0.5, 0.97), contractions(12, 0.5).items()):
        matrix = (matrix * (c / 0.5)).requires_grad_(True)
        x = torch.zeros(1, 12, dtype=torch.float64)
        value = Krylov(first_trace=False, tol=1e-12)(Linear(matrix, c), x, Noise(4))[1].value
        (found,) = torch.autograd.grad(value.sum(), matrix)
        v = draw_probes("rademacher", 1, x, Noise(4))[0, 0]
        truth = torch.outer(torch.linalg.solve(torch.eye(12) + matrix.detach().mT, v), v)
        torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_a_rows_estimate_does_not_depend_on_its_batch():
    bound = branch("sandwich", 3, (8, 6), 0.9, "elu", 2).bind(rows(20, 2))
    x, numbers = rows(20, 3), torch.arange(100, 120)
    for estimator in (Krylov(), Krylov(4, first_trace=False), Krylov(2, 2)):
        whole = estimator(bound, x, Noise(3, numbers))[1]
        for row in (0, 7, 19):
            mask = torch.tensor([row])
            alone = estimator(bound.select(mask), x[mask], Noise(3, numbers[mask]))[1]
            torch.testing.assert_close(alone.value, whole.value[mask], rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(alone.bias, whole.bias[mask], rtol=1e-6, atol=1e-12)


def test_no_rows_and_one_probe():
    bound = branch("sandwich", 3).bind()
    value, estimate = Krylov(2)(bound, rows(0, 3))
    assert value.shape == (0, 3) and estimate.value.shape == estimate.stderr.shape == estimate.bias.shape == (0,)
    assert Krylov()(bound, rows(3, 3))[1].stderr.isnan().all()


def test_images():
    matrix = contractions(18, 0.9)["random"]
    x = rows(4, 18)
    flat = Krylov(3)(Linear(matrix, 0.9), x)[1]
    image = Krylov(3)(Linear(matrix, 0.9), x.reshape(4, 2, 3, 3))[1]
    torch.testing.assert_close(image.value, flat.value)
    torch.testing.assert_close(image.bias, flat.bias)


def local_map(channels, size, lipschitz, seed=0):
    """A 3 x 3 convolution as a matrix, scaled to a norm."""
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(channels, channels, 3, 3, generator=generator, dtype=torch.float64)
    basis = torch.eye(channels * size * size, dtype=torch.float64).reshape(-1, channels, size, size)
    matrix = torch.nn.functional.conv2d(basis, kernel, padding=1).flatten(1).mT
    return Linear(lipschitz * matrix / torch.linalg.matrix_norm(matrix, 2), lipschitz)


def test_split_probes_are_unbiased_and_state_their_spread():
    x = rows(3, 2 * 4 * 4).reshape(3, 2, 4, 4)
    for split in (1, 2, 3):
        check_logdet(Krylov(2, split=split), local_map(2, 4, 0.8), x)
        check_logdet(Krylov(2, split=split, distribution="gaussian"), local_map(2, 4, 0.8), x)
    bound = branch("gram", 5, (8, 6), 0.85, "tanh").bind()
    check_logdet(Krylov(2, split=2), bound, rows(4, 5))
    made = branch("sandwich", 3, (8, 6), 0.8, "tanh")
    check_logdet_gradient(Krylov(2, split=2, tol=1e-8), made.bind, rows(4, 3), list(made.parameters()))


def test_split_probes_of_all_entries_are_exact():
    bound = branch("gram", 5, (8, 6), 0.85, "tanh").bind()
    estimate = Krylov(2, split=5, first_trace=False, tol=1e-9)(bound, rows(4, 5))[1]
    torch.testing.assert_close(estimate.value, Exact()(bound, rows(4, 5))[1].value, rtol=1e-8, atol=1e-8)
    assert (estimate.stderr < 1e-8).all()
    function, x = local_map(2, 3, 0.9), rows(2, 18).reshape(2, 2, 3, 3)
    estimate = Krylov(2, split=3, first_trace=False, tol=1e-9)(function, x)[1]
    torch.testing.assert_close(estimate.value, Exact()(function, x)[1].value, rtol=1e-8, atol=1e-8)


def test_split_probes_have_less_variance_at_as_many_products_where_the_map_is_local():
    function, x = local_map(2, 12, 0.8), rows(40, 2 * 144).reshape(40, 2, 12, 12)
    noise = Noise(0, torch.arange(40))
    split, plain = Krylov(20, split=2)(function, x, noise)[1], Krylov(160)(function, x, noise)[1]
    assert split.stderr.square().mean() < 0.3 * plain.stderr.square().mean()


def test_it_agrees_with_the_series_and_takes_fewer_products():
    bound = branch("gram", 30, (30, 30), 0.97, "tanh").bind()
    x, noise = rows(6, 30), Noise(0, torch.arange(6))
    series, krylov = (estimator(bound, x, noise)[1] for estimator in (PowerSeries(probes=3), Krylov(3)))
    torch.testing.assert_close(krylov.value, series.value, rtol=0, atol=2e-4)
    torch.testing.assert_close(krylov.stderr, series.stderr, rtol=1e-3, atol=1e-5)
    short, long = Krylov(3, 6)(bound, x, noise)[1].bias, PowerSeries(6, 3)(bound, x, noise)[1].bias
    assert (short < long).all()


@pytest.mark.parametrize("c", (1e-6, 0.1, 0.5, 0.9, 0.97, 0.999, 1 - 1e-6))
def test_the_rule_has_the_error_it_states(c):
    for tol in (1e-4, 1e-8, 1e-12):
        nodes, weights, error = log_rule(c, tol)
        assert error <= max(tol, 1e-11) and (weights > 0).all() and (nodes > 0).all() and (nodes < 1).all()
        angles = 2 * math.pi * torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        z = torch.polar(torch.full_like(angles, c), angles)
        found = (weights * z[:, None] / (1 + nodes * z[:, None])).sum(1)
        assert float((found - torch.log(1 + z)).abs().max()) <= error + 1e-15


def test_messages():
    for arguments, match in (
        ({"probes": 0}, "needs probes, steps and split >= 1, got 0, None and None"),
        ({"steps": 0}, "needs probes, steps and split >= 1, got 1, 0 and None"),
        ({"split": 0}, "got 1, None and 0"),
        ({"tol": 0.0}, "needs tol > 0, got 0.0"),
        ({"distribution": "cauchy"}, "distribution is one of"),
    ):
        with pytest.raises(ValueError, match=match):
            Krylov(**arguments)
