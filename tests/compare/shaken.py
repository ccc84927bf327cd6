"""Small fitted or shaken systems for the tests of this folder."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

pytest.importorskip("zuko", reason="the extra compare is not installed")
pytest.importorskip("normflows", reason="the extra compare is not installed")

from iresnet.compare import Domain, System, build
from iresnet.data import toy

FLOWS = ("iresnet", "nice", "realnvp", "glow", "made", "maf", "iaf", "nsf", "cnf", "planar", "radial", "residual")
DIRECT = ("gaussian", "mixture", "kde")


def rows(count: int, features: int, seed: int = 0) -> Tensor:
    """Moons, their columns repeated with noise: (count, features) float64, correlated and not centred."""
    x = toy.sample("moons", count, seed)
    noise = torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 3.0 + 2.0 * x.repeat(1, -(-features // 2))[:, :features] + 0.3 * noise


@cache
def shaken(name: str, features: int = 2, size: int = 6) -> System:
    """A small system in float64 and evaluation mode, initialised on data, whose parameters are not where they began."""
    system = build(name, Domain((features,)), size=size, seed=1).double()
    x = rows(400, features)
    system.initialize(x)
    if name in DIRECT:
        system.learn(x, rows(200, features, 1), 0, lambda: False)  # type: ignore[operator]
        return system
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, parameter in system.named_parameters():
            if not key.endswith(("geom_p", "lamb")):  # of the roulette, not of the flow
                parameter += 0.12 * torch.randn(parameter.shape, generator=draw, dtype=parameter.dtype)
    system.settle(60)
    return system.eval()
