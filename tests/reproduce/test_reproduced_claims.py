"""What reproductions measure is what they say: against naive twins, and where theory knows the answer."""

from __future__ import annotations

import math

import pytest
import torch

from iresnet import UserError, dense_flow
from iresnet.contract.branches import dense_branch
from iresnet.data import toy
from iresnet.fitting import start
from iresnet.reproduce.bias import _means
from iresnet.reproduce.extras import _library
from iresnet.reproduce.figure1 import states
from iresnet.reproduce.regularisation import _mass
from iresnet.reproduce.telling import mean_and_spread, text_table
from iresnet.reproduce.vae import Autoencoder, Vae


@pytest.mark.parametrize(("family", "folds"), [("gram", False), ("sandwich", False), ("free", True)])
def test_paths_cross_where_nothing_keeps_them_apart(family: str, folds: bool) -> None:
    torch.manual_seed(0)
    branches = torch.nn.ModuleList(dense_branch(family, 1, (16, 16), 0.97, "elu", 0) for _ in range(4)).double()
    for parameter in branches.parameters():
        torch.nn.init.normal_(parameter, std=2.0)
    passed = states(branches, torch.linspace(-2, 2, 500, dtype=torch.float64)[:, None])
    assert passed.shape == (5, 500)
    assert bool((passed.diff(dim=1) < 0).any()) == folds


def _shaken(family: str, scale: float) -> torch.nn.Module:
    torch.manual_seed(1)
    flow = dense_flow(2, 0, 4, (16, 16), 0.97, family)
    start(flow, toy.sample("moons", 2000, 0).float())
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if "branch" in name:
                parameter += scale * torch.randn_like(parameter)
    return flow.eval()


def test_the_truncated_objective_is_that_of_dense_jacobians() -> None:
    """In expectation over probes: traces of powers of the Jacobian, by autograd, in float64."""
    flow, x = _shaken("gram", 0.5), toy.sample("moons", 60, 2)
    found = _means(flow.double(), x, 2)  # type: ignore[arg-type]
    h, total = x, torch.zeros(len(x), dtype=torch.float64)
    with torch.no_grad():
        exact = flow.log_prob(x)  # type: ignore[operator]
        for part in flow.bijection.bind().parts:  # type: ignore[union-attr, operator]
            bound = getattr(part, "bound", None)
            if bound is not None:
                jacobian = torch.func.vmap(torch.func.jacrev(lambda row, g=bound: g(row[None])[0]))(h)
                powers = jacobian.diagonal(dim1=1, dim2=2).sum(1) - (jacobian @ jacobian).diagonal(dim1=1, dim2=2).sum(1) / 2
                whole = torch.linalg.slogdet(torch.eye(2, dtype=torch.float64) + jacobian).logabsdet
                total += powers - whole
            h = part.forward(h)
    assert found["exact"] == pytest.approx(float(exact.mean()), abs=1e-6)
    assert found["promised"] - found["exact"] == pytest.approx(float(total.mean()), abs=5 * found["stderr"] + 1e-6)
    assert found["stderr"] > 0


def test_a_density_integrates_to_one_only_if_the_map_does_not_fold() -> None:
    assert _mass(_shaken("gram", 0.5), "moons") == pytest.approx(1.0, abs=0.02)  # type: ignore[arg-type]
    assert _mass(_shaken("free", 1.0), "moons") > 1.1  # type: ignore[arg-type]


@pytest.mark.parametrize("posterior", ["none", "residual", "planar", "radial"])
def test_the_posterior_s_log_determinant_is_that_of_its_jacobian(posterior: str) -> None:
    if posterior in ("planar", "radial"):
        pytest.importorskip("normflows")
    torch.manual_seed(0)
    model = Autoencoder(10, Vae(latent=3, hidden=8, layers=3, blocks=2, width=8), posterior).double().eval()
    with torch.no_grad():
        for parameter in model.flow.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        z = torch.randn(5, 3, dtype=torch.float64)
        _, log_det = model.flow(z)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda row: model.flow(row[None])[0][0], row) for row in z])
    assert torch.allclose(log_det, torch.linalg.slogdet(jacobian).logabsdet, atol=1e-8)


def test_the_bound_is_below_log_p_of_a_model_that_is_known() -> None:
    """With a decoder that ignores z, log p(x) is the decoder's, and the bound lacks the divergence of the posterior alone."""
    torch.manual_seed(0)
    model = Autoencoder(6, Vae(latent=2, hidden=8), "none").double().eval()
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
        x = (torch.rand(4, 6) < 0.5).double()
        logits = model.decoder[-1].bias.expand(4, 6)
        known = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1)
        draws = torch.stack([model(x) for _ in range(1500)])
    mean, raw = model.encoder(x).chunk(2, 1)
    scale = torch.nn.functional.softplus(raw) + 1e-4
    divergence = (0.5 * (mean.square() + scale.square() - 1) - scale.log()).sum(1)
    error = 5 * draws.std(0) / math.sqrt(len(draws))
    assert bool(((draws.mean(0) - (known - divergence)).abs() < error).all())
    assert torch.allclose(draws.logsumexp(0) - math.log(len(draws)), known, atol=0.1)


def test_numbers_are_told_with_their_spread() -> None:
    assert mean_and_spread([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert mean_and_spread([0.12345]) == "0.123"
    assert mean_and_spread([1.0, 1.0]) == "1 ± 0"
    assert mean_and_spread([1.0, None]) == "not finite in 1 of 2"
    assert mean_and_spread([]) == "–"
    lines = text_table(["a", "a header that is long enough to be broken"], [["x", "1"], ["yyy", "2"]]).splitlines()
    assert max(map(len, lines)) <= 3 + 2 + 24 and lines[-1].startswith("yyy  2")


def test_a_missing_library_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"needs no_such_library, which is not installed: pip install 'iresnet\[compare\]'"):
        _library("no_such_library")
