"""Laws of norm bounds and of activations: never below the truth, for weights chosen to make them fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..contract.activations import Activation
from ..numerics.norms import spectral_norm

__all__ = ["adversarial_matrices", "check_activation", "check_norm_bound"]

# Singular values in float64 are themselves good to a few dozen units.
_SVD_ROUNDING = 32 * torch.finfo(torch.float64).eps


def adversarial_matrices(
    rows: int, columns: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """Named matrices (rows, columns) of about unit norm that are hard for some way of bounding or estimating a norm.

    Random, rank one, orthonormal and nearly so (Gram iteration is loosest), constant and nearly so (a constant start of power
    iteration meets or misses the top vector), repeated singular values, one entry far above the others, one row only, and zero.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    small = min(rows, columns)
    left = torch.linalg.qr(normal(rows, small)).Q
    right = torch.linalg.qr(normal(columns, small)).Q
    ones = torch.ones(rows, columns, dtype=torch.float64)
    peak = 1e-6 * normal(rows, columns)
    peak[0, 0] = 1.0
    single = torch.zeros(rows, columns, dtype=torch.float64)
    single[rows // 2] = normal(columns)
    alternating = ones * torch.where(torch.arange(columns) % 2 == 0, 1.0, -1.0)  # orthogonal to a constant start
    repeated = torch.ones(small, dtype=torch.float64)
    repeated[small // 2 :] = 0.5
    named = {
        "random": normal(rows, columns) / math.sqrt(max(rows, columns)),
        "rank one": normal(rows, 1) @ normal(1, columns) / math.sqrt(rows * columns),
        "orthonormal": left @ right.mT,
        "nearly orthonormal": left @ right.mT + 1e-5 * normal(rows, columns),
        "constant": ones / math.sqrt(rows * columns),
        "nearly constant": (ones + 1e-3 * normal(rows, columns)) / math.sqrt(rows * columns),
        "alternating": alternating / math.sqrt(rows * columns),
        "repeated singular values": (left * repeated) @ right.mT,
        "one large entry": peak,
        "one row": single,
        "zero": 0.0 * ones,
    }
    for name, matrix in named.items():
        yield name, matrix.to(dtype)


def check_norm_bound(bound: Callable[[Tensor], Tensor], weight: Tensor, name: str = "", ratio: float = math.inf) -> None:
    """``bound(weight)`` is at least the largest singular value in float64, and at most ``ratio`` times it.

    Weights that are not finite may give infinity or NaN, never a number that could be believed.
    """
    value = float(bound(weight))
    if not bool(torch.isfinite(weight).all()):
        assert not math.isfinite(value), f"{name}: a bound of {value} for weights that are not finite"
        return
    truth = float(spectral_norm(weight))
    assert value >= truth * (1 - _SVD_ROUNDING), f"{name}: bound {value!r} is below the norm {truth!r} ({value / truth - 1:.2g})"
    assert value <= truth * ratio or truth == 0.0, f"{name}: bound {value:.6g} is more than {ratio} times the norm {truth:.6g}"


def check_activation(activation: Activation, reach: float = 45.0, points: int = 400_001) -> None:
    """The Lipschitz constant and the range of slopes are true and tight on a dense grid; the stated derivative is the derivative.

    Secants between neighbours of a grid refined where the function bends most see jumps that a derivative by autograd cannot.
    """
    name, group = type(activation).__name__, activation.group
    grid = torch.cat((torch.linspace(-reach, reach, points, dtype=torch.float64), *_zooms(activation, reach)))
    grid = grid.unique()
    width = 2 if group > 1 else 1
    x = grid[:, None].expand(-1, width).clone()
    if group > 1:  # neighbours in different orders, so that the sorting shows
        x[:, 1] = grid.flip(0)
    change = torch.linalg.vector_norm(activation(x[1:]) - activation(x[:-1]), dim=1)
    length = torch.linalg.vector_norm(x[1:] - x[:-1], dim=1)
    size = torch.maximum(x[1:].abs().amax(1), torch.ones_like(length))
    ratio = (change - 8 * torch.finfo(torch.float64).eps * size) / length
    steepest = float(ratio.max())
    assert steepest <= activation.lipschitz * (1 + 1e-9), f"{name}: slope {steepest} near {float(grid[ratio.argmax()])}"
    assert steepest >= activation.lipschitz * (1 - 1e-3), f"{name}: {activation.lipschitz} is not tight, {steepest} was found"
    if not activation.elementwise:
        return
    point = grid[:, None].clone().requires_grad_(True)
    (truth,) = torch.autograd.grad(activation(point).sum(), point)
    value, slope = activation.with_slope(grid[:, None])
    torch.testing.assert_close(value, activation(grid[:, None]), rtol=1e-12, atol=1e-14, msg=lambda text: f"{name}: {text}")
    torch.testing.assert_close(slope, truth, rtol=1e-9, atol=1e-12, msg=lambda text: f"{name}, derivative: {text}")
    low, high = activation.slope
    assert low - 1e-12 <= float(slope.min()) and float(slope.max()) <= high + 1e-12, f"{name}: slopes outside [{low}, {high}]"
    assert float(slope.min()) <= low + 1e-3 and float(slope.max()) >= high - 1e-3, f"{name}: [{low}, {high}] is not tight"


def _zooms(activation: Activation, reach: float) -> Iterator[Tensor]:
    """Finer grids around the steepest points of a coarse one, ten times finer each, and where libraries change formulas."""
    for center in (0.0, 20.0, -20.0, 1.0, -1.0, 40.0, -40.0):
        for width in (1e-3, 1e-7, 1e-11):
            yield (center + torch.linspace(-width, width, 201, dtype=torch.float64)).clamp(-reach, reach)
    grid = torch.linspace(-reach, reach, 20_001, dtype=torch.float64)
    for _ in range(4):
        wide = grid[:, None].expand(-1, max(activation.group, 1))
        change = torch.linalg.vector_norm(activation(wide[1:]) - activation(wide[:-1]), dim=1)
        best = int((change / (grid[1:] - grid[:-1])).argmax())
        grid = torch.linspace(float(grid[max(best - 5, 0)]), float(grid[min(best + 6, len(grid) - 1)]), 1001, dtype=torch.float64)
        yield grid
