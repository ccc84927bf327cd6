"""Equal parameters: sizes come nearest to the number asked for, and what a mask takes away is not counted."""

from __future__ import annotations

import pytest
import torch
from shaken import FLOWS
from torch import nn

from iresnet.compare import NAMES, Domain, build, chosen, entry
from iresnet.compare.catalogue import default_parameters
from iresnet.compare.system import count_parameters
from iresnet.errors import UserError

WIDTHS = [name for name in FLOWS if entry(name).grows == "width"]


@pytest.mark.parametrize("name", [name for name in WIDTHS if name != "residual"])
def test_no_neighbouring_width_is_nearer(name: str) -> None:
    domain, wanted = Domain((3,)), 5000
    found = build(name, domain, wanted)
    assert found.size is not None
    off = abs(count_parameters(found) - wanted)
    for size in (found.size - 1, found.size + 1):
        assert abs(count_parameters(build(name, domain, size=size)) - wanted) >= off
    assert off < 0.2 * wanted


def test_depth_is_limited_where_a_layer_has_few_parameters() -> None:
    domain = Domain((2,))
    assert build("planar", domain, 5 * 20).size == 20
    assert build("planar", domain, 10**6).size == entry("planar").most
    assert count_parameters(build("radial", domain, 4 * 20)) == 4 * 20


def test_without_a_number_it_is_that_of_our_own_default() -> None:
    domain = Domain((2,))
    default = default_parameters(domain)
    assert count_parameters(build("iresnet", domain)) == default
    assert count_parameters(build("maf", domain)) == pytest.approx(default, rel=0.05)


def test_a_masked_weight_is_not_counted() -> None:
    class Masked(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 2)
            self.register_buffer("mask", torch.tensor([[1, 0, 0], [1, 1, 0]]))

    assert count_parameters(Masked()) == 3 + 2
    frozen = nn.Linear(3, 2)
    frozen.weight.requires_grad_(False)
    assert count_parameters(frozen) == 2


def test_weights_are_a_function_of_the_seed() -> None:
    first, same, other = (build("glow", Domain((2,)), size=5, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_names_that_are_not_there_are_refused() -> None:
    plane = Domain((2,))
    assert chosen(None, plane) == list(NAMES)
    assert chosen(["ffjord", " maf", "maf", ""], plane) == ["cnf", "maf"]
    with pytest.raises(UserError, match="no system named 'vae'; known are iresnet"):
        chosen(["vae"], plane)
    with pytest.raises(UserError, match="--models names no system"):
        chosen([""], plane)
    with pytest.raises(UserError, match="couplings need at least two columns"):
        chosen(["glow"], Domain((1,)))
    with pytest.raises(UserError, match="iaf is not for these data: .* leave it out of --models"):
        chosen(["iaf"], Domain((1, 28, 28)))
    with pytest.raises(UserError, match="--params must be at least 1"):
        build("maf", plane, 0)
    with pytest.raises(UserError, match="glow couples columns"):
        build("glow", Domain((1,)), size=4)
    with pytest.raises(UserError, match="halve at least once, not 7 x 7"):
        build("glow", Domain((1, 7, 7)), size=4)


@pytest.mark.parametrize("name", ["realnvp", "glow", pytest.param("gaussian", marks=pytest.mark.slow), "iresnet", "cnf"])
def test_images_have_a_density_in_units_of_grey(name: str) -> None:
    """The logit and its Jacobian come with the density: uniform noise on levels costs every system about log 256 a pixel."""
    domain = Domain((1, 8, 8), rows=64)
    x = 256 * torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    system = build(name, domain, size=8)
    system.initialize(x)
    if name == "gaussian":
        system.double().learn(x.double(), x.double(), 0, lambda: False)  # type: ignore[operator]
    system.eval()
    bits = -float(system.score(x).mean()) / 64 / torch.log(torch.tensor(2.0))
    assert 5.5 < float(bits) < 9.0, bits  # 64 rows are few: a Gaussian of 64 pixels overfits them
    drawn = system.sample(2, 0)
    assert drawn.shape == (2, 1, 8, 8) and bool(((drawn >= -15) & (drawn <= 271)).all())  # alpha's margins
    back = system.decode(system.encode(x[:4].to(system.anchor)))
    assert float((back - x[:4]).abs().max()) < 0.02
