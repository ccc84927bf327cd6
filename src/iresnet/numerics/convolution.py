r"""Sound upper bounds of the norm of a zero-padded convolution, at the resolution it runs at.

A convolution with k x k taps K_o, stride 1 and zero padding r = (k - 1) / 2 maps (I, H, W) to (O, H, W) by
:math:`y_p = \sum_o K_o x_{p+o}`, x being zero outside the image. Three facts bound its norm:

1. *It is a restriction of a convolution on a torus.* Write the image into a torus of N >= H + r by M >= W + r places, zero
   elsewhere. A place that a tap reads beyond the image, -r ... -1 or H ... H + r - 1, is one of N - r >= H or more when taken
   round: outside the image, zero. So the torus' convolution gives y on the image; writing in and reading out have norm one.
2. *The seams may carry a sign.* What passes a seam is zero, so it may as well be multiplied by -1: antiperiodic tori bound just
   as well. Where the periodic torus meets the worst frequency, as for kernels of one sign, the antiperiodic one passes it by;
   where one of the four (both directions) is loose another is tight, and the smallest counts.
3. *A convolution on a torus is block diagonal.* Its norm is the largest of those of the O x I matrices
   :math:`\hat K(\omega) = \sum_o K_o e^{-i \omega o}` at :math:`\omega_j = (2 \pi j + \theta) / N`, theta 0 or pi. Each is
   bounded by Gram iteration on its smaller side; half of them suffice, since :math:`\hat K(-\omega)` is the conjugate.

The result holds at one resolution: a larger image can be stretched more. Ratio to the truth for random kernels 1.01 at 14 x 14,
1.02 at 7 x 7, 1.1 at 4 x 4; blurs are met exactly (``experiments/convolutions.py``). Reshaping a kernel to a matrix bounds
nothing.

References
----------
| The Singular Values of Convolutional Layers (Sedghi et al., 2019), arXiv 1805.10408
| Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration (Delattre et al., 2023), arXiv 2305.16173
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, conv_transpose2d

from .norms import exact_products, frobenius_bound, gram_bound, rounding_margin

__all__ = ["conv_bound", "conv_power_iteration", "dense_convolution", "frequencies", "tap_bound"]

# Four tori: periodic or antiperiodic in either direction.
_PHASES = tuple(product((0.0, math.pi), repeat=2))

# Gram steps after which one of them is chosen.
_CHOOSE = 3


def conv_bound(kernel: Tensor, size: tuple[int, int], steps: int = 6) -> Tensor:
    r"""Sound upper bound of the spectral norm of zero-padded, stride 1 convolutions of images of H x W.

    Differentiable once, exactly: by the Gram bound at the frequency that attains it.

    Parameters
    ----------
    kernel : Tensor (..., O, I, k, l) with k and l odd; leading dimensions are a batch, bounded in one call.
    size : (H, W), the only resolution for which the bound holds.
    steps : of Gram iteration; each halves the logarithm of its looseness, at most min(O, I)^(1/2^(steps+1)).

    Returns
    -------
    Tensor (...), inflated by a margin for rounding, in the dtype of ``kernel`` (float32 for half precisions).

    Raises
    ------
    ValueError
        For even taps, an empty image, or no step.
    """
    *batch, outputs, inputs, rows, columns = kernel.shape
    if rows % 2 == 0 or columns % 2 == 0:
        raise ValueError(f"a zero-padded convolution that keeps the size has odd taps, got {rows} x {columns}")
    if min(size) < 1 or steps < 1:
        raise ValueError(f"conv_bound needs an image of at least 1 x 1 and steps >= 1, got {tuple(size)} and {steps}")
    cut = [max(tap // 2 - length + 1, 0) for tap, length in zip((rows, columns), size, strict=True)]
    if any(cut):  # taps that only ever read beyond a small image
        kernel = kernel[..., cut[0] : rows - cut[0], cut[1] : columns - cut[1]]
        rows, columns = kernel.shape[-2:]
    if rows == columns == 1:
        return gram_bound(kernel[..., 0, 0], steps)
    with torch.autocast(kernel.device.type, enabled=False):
        exact = exact_products(kernel).reshape(-1, outputs, inputs, rows * columns)
        # Transposing every tap transposes every matrix of the spectrum: the smaller side is always the last.
        exact = exact if inputs <= outputs else exact.transpose(1, 2)
        peak = exact.detach().abs().amax(dim=(1, 2, 3))
        limit = int(0.8 * math.log2(torch.finfo(exact.dtype).max))
        # Powers of two round nothing, see gram_bound.
        exponent = torch.where(peak > 0, torch.frexp(peak)[1].clamp(-limit, limit).to(exact.dtype), torch.zeros_like(peak))
        scaled = torch.ldexp(exact, -exponent[:, None, None, None])
        with torch.no_grad():
            norms, torus = _norms(scaled.detach(), size, (rows, columns), steps)
            bound, worst = norms.max(-1)
        if torch.is_grad_enabled() and kernel.requires_grad:
            cosines, sines = frequencies(size, (rows, columns), exact.dtype, exact.device)
            parts = (scaled @ table[torus, worst][:, None, :, None] for table in (cosines, -sines))
            matrix = torch.complex(*(part[..., 0] for part in parts))
            gram, log2 = _powers(matrix.mH @ matrix, torch.zeros_like(exponent), 0, steps)
            again = _roots(gram, log2, steps)
            bound = bound + (again - again.detach())
        bound = torch.ldexp(bound, exponent)
        dtype = torch.promote_types(kernel.dtype, torch.float32)
        margin = _margin(outputs, inputs, rows * columns, dtype)
        return (bound * (1.0 + margin)).to(dtype).reshape(batch)


def _norms(kernel: Tensor, size: tuple[int, int], taps: tuple[int, int], steps: int) -> tuple[Tensor, Tensor]:
    r"""Gram bounds (b, F) of the spectra of kernels (b, O, I, k l), I <= O, on one torus each, without margin; which torus (b,).

    :math:`\hat K^* \hat K` is itself the spectrum of a convolution, whose taps are the correlations :math:`\sum_o K_o^T K_{o+d}`:
    only they, I x I, are taken to the frequencies, not the kernel. Any torus is sound: after a few steps only the one that is
    best so far goes on.
    """
    count, _, inputs, area = kernel.shape
    flat = kernel.movedim(-1, 2).flatten(2)  # (b, O, k l I)
    pairs = (flat.mT @ flat).reshape(count, area, inputs, area, inputs).transpose(2, 3)  # (b, k l, k l, I, I)
    tables = _tables((int(size[0]), int(size[1])), taps, kernel.dtype, kernel.device)
    # A product, since sums by index are in no fixed order on a GPU.
    lags = tables.pairs @ pairs.reshape(count, area**2, inputs**2)
    shape = (count, len(_PHASES), -1, inputs, inputs)
    real, imaginary = ((table @ lags).reshape(shape) for table in (tables.lag_cosines, tables.lag_sines))
    gram = torch.complex(real + real.mT, imaginary - imaginary.mT)
    early = min(_CHOOSE, steps)
    gram, log2 = _powers(gram, torch.zeros_like(real[..., 0, 0]), 0, early)
    torus = _roots(gram, log2, early).amax(-1).argmin(-1)
    rows = torch.arange(count, device=kernel.device)
    return _roots(*_powers(gram[rows, torus], log2[rows, torus], early, steps), steps), torus


def _powers(gram: Tensor, log2: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
    """Gram matrices (..., n, n) squared from step ``first`` to ``last``; the logarithm (...) of what the root was divided by."""
    for step in range(first, last):
        gram = gram @ gram if step else gram
        if step % 2 == 0:
            # Every second time is enough: two squarings of a matrix of trace or norm 1/2 to 1 leave far more than underflows. The
            # trace is cheaper, and safe for squares; where G itself is all rounding, its trace may cancel.
            whole = gram.detach()
            length = whole.diagonal(dim1=-2, dim2=-1).real.sum(-1) if step else _length(whole)
            shift = torch.where(length > 0, torch.frexp(length)[1].to(length.dtype), torch.zeros_like(length))
            gram, log2 = gram * torch.exp2(-shift)[..., None, None], log2 + 0.5 ** (step + 1) * shift
    return gram, log2


def _roots(gram: Tensor, log2: Tensor, steps: int) -> Tensor:
    """The Gram bounds (...) after ``steps``, with gradient zero at zero."""
    length = _length(gram)
    root = torch.where(length == 0, torch.ones_like(length), length) ** (0.5**steps)
    return torch.where(length == 0, torch.zeros_like(length), torch.exp2(log2) * root)


def _length(gram: Tensor) -> Tensor:
    """Frobenius norms of complex matrices; as real numbers, which is many times faster."""
    return torch.linalg.vector_norm(torch.view_as_real(gram).flatten(-3), dim=-1)


def _margin(outputs: int, inputs: int, taps: int, dtype: torch.dtype) -> float:
    r"""Relative inflation for rounding: that of the Gram steps, complex products being real ones of twice the length, and of G.

    G errs by at most :math:`(O + 5 k l) \epsilon / 2` in :math:`(\sum_o \|K_o\|_F)^2`, its root by half of that relative. The sum
    is at most sqrt(k l r) times the norm of the convolution: on a torus of at least k x l places the mean of
    :math:`\|\hat K(\omega)\|_F^2` is the sum of :math:`\|K_o\|_F^2` (Parseval). Scaling a kernel by the bound rounds every tap
    once more: eps / 2 of it, at most sqrt(k l r) in the norm.
    """
    eps, (small, large) = torch.finfo(dtype).eps, sorted((outputs, inputs))
    return 2 * rounding_margin(small, small, dtype) + eps * ((large + 5 * taps) * taps * small / 4 + math.sqrt(taps * small))


def frequencies(
    size: tuple[int, int], taps: tuple[int, int], dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    r"""Cosines and sines (tori, F, k l) of :math:`\omega \cdot o`, for the four smallest tori of an image and all taps."""
    tables = _tables((int(size[0]), int(size[1])), taps, dtype, torch.device(device))
    return tables.cosines, tables.sines


class _Tables(NamedTuple):
    """What a resolution's bounds are made with: tables over all taps, and over one of each two opposite lags between them."""

    cosines: Tensor  # (tori, F, k l)
    sines: Tensor
    lag_cosines: Tensor  # (tori F, lags)
    lag_sines: Tensor
    pairs: Tensor  # (lags, k l k l): which pairs of taps have the lag


def _tables(size: tuple[int, int], taps: tuple[int, int], dtype: torch.dtype, device: torch.device) -> _Tables:
    """Kept where kernels are: a copy at each bound would wait for a GPU. A tracer's stand-ins for tensors live with its trace."""
    make = _made if type(torch.empty(0)) is Tensor else _made.__wrapped__
    return make(size, taps, dtype, device)


@lru_cache(maxsize=64)
def _made(size: tuple[int, int], taps: tuple[int, int], dtype: torch.dtype, device: torch.device) -> _Tables:
    """Made in float64, of numbers that are all known beforehand."""
    # Not as inference tensors, which later gradients could not use.
    with torch.inference_mode(False), torch.no_grad():
        angles = _angles(size, taps)
        offsets = torch.cartesian_prod(*(torch.arange(tap) - tap // 2 for tap in taps)).reshape(-1, 2)
        known = torch.cartesian_prod(*(torch.arange(1 - tap, tap) for tap in taps)).reshape(-1, 2)
        lag = (offsets[None, :] - offsets[:, None]).reshape(-1, 2)
        places = (lag[:, 0] + taps[0] - 1) * (2 * taps[1] - 1) + lag[:, 1] + taps[1] - 1
        middle = len(known) // 2  # in order, so that lag -d stands where d stands from the other end
        pairs = (places == torch.arange(middle, len(known))[:, None]).double()
        pairs[0] *= 0.5  # the taps of G at d and -d are transposes, so G = S + S^* with the lag 0 halved
        by_tap, by_lag = angles @ offsets.double().mT, angles.flatten(0, 1) @ known[middle:].double().mT
        made = (by_tap.cos(), by_tap.sin(), by_lag.cos(), by_lag.sin(), pairs)
        return _Tables(*(table.to(dtype).to(device) for table in made))


def _angles(size: tuple[int, int], taps: tuple[int, int]) -> Tensor:
    """Frequencies (4, F, 2) of the four smallest tori of an image, in float64; one of each pair of conjugates."""
    sides = [length + tap // 2 for length, tap in zip(size, taps, strict=True)]
    tori = []
    for phases in _PHASES:
        twist = [round(phase / math.pi) for phase in phases]
        kept = [  # -omega_j is omega_i with i = -j - theta / pi
            pair
            for pair in product(*map(range, sides))
            if pair <= tuple((-place - sign) % side for place, sign, side in zip(pair, twist, sides, strict=True))
        ]
        places = torch.tensor(kept, dtype=torch.float64)
        offset = torch.tensor(phases, dtype=torch.float64)
        tori.append((2 * math.pi * places + offset) / torch.tensor(sides, dtype=torch.float64))
    # The tori differ by a few in their number of frequencies: repeating one changes no maximum.
    most = max(map(len, tori))
    return torch.stack([torch.cat((torus, torus[:1].expand(most - len(torus), -1))) for torus in tori])


def tap_bound(kernel: Tensor) -> Tensor:
    r"""Sound at every resolution, and loose: :math:`\sum_o \|K_o\|_F`, shape (...) for kernels (..., O, I, k, l)."""
    each = frobenius_bound(kernel.movedim((-2, -1), (-4, -3)))
    return each.sum((-2, -1)) * (1.0 + torch.finfo(each.dtype).eps * math.prod(kernel.shape[-2:]))


def conv_power_iteration(
    kernel: Tensor, size: tuple[int, int], steps: int = 5, *, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Estimate from below of the norm of one convolution (O, I, k, l) at H x W, by power iteration on it: the papers' way.

    Never above the truth, and by how much below is not known: *not* a bound. ``start`` (O, H, W) goes on from an earlier call;
    None starts at random. Returns sigma (), differentiable with the vectors held fixed, and the left vector (O, H, W).

    References
    ----------
    Regularisation of Neural Networks by Enforcing Lipschitz Continuity (Gouk et al., 2018), arXiv 1804.04368
    """
    fixed, padding = kernel.detach(), (kernel.shape[-2] // 2, kernel.shape[-1] // 2)
    left = (torch.randn(kernel.shape[0], *size) if start is None else start).to(kernel)[None]
    right = left
    for _ in range(max(steps, 1)):
        right = conv_transpose2d(left, fixed, padding=padding)
        right = right / right.norm().clamp(min=1e-12)
        left = conv2d(right, fixed, padding=padding)
        left = left / left.norm().clamp(min=1e-12)
    return (left * conv2d(right, kernel, padding=padding)).sum(), left[0]


def dense_convolution(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """The matrix (O H W, I H W) of a zero-padded convolution (O, I, k, l) at H x W: the reference, for small images."""
    inputs = kernel.shape[1] * size[0] * size[1]
    basis = torch.eye(inputs, dtype=kernel.dtype, device=kernel.device).reshape(inputs, kernel.shape[1], *size)
    return conv2d(basis, kernel, padding=(kernel.shape[-2] // 2, kernel.shape[-1] // 2)).flatten(1).mT
