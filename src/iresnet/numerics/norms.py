r"""Operator norms: sound upper bounds, and estimates that are labelled as such.

The spectral norm :math:`\|W\|_2 = \sigma_{\max}(W)` is the Lipschitz constant of :math:`x \mapsto W x`. A bound is *sound*
when it is never below the true norm, for any weights, **rounding included**. Everything here is batched: leading dimensions
of a weight are a batch of matrices.

=========================  =========  =======================================================================
function                   guarantee  cost
=========================  =========  =======================================================================
:func:`gram_bound`         sound      ``steps`` products of the smaller side; ratio to the truth at most r^(1/2^(steps+1))
:func:`frobenius_bound`    sound      one pass; ratio up to sqrt(r), r the rank
:func:`orthogonal_bound`   sound      one product; tight (1e-5) for matrices that are orthogonal up to rounding
:func:`power_iteration`    estimate   two vector products a step; never above the truth, so *not* a bound
:func:`spectral_norm`      reference  singular value decomposition
=========================  =========  =======================================================================

References
----------
| Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration (Delattre et al., 2023), arXiv 2305.16173
| Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018), arXiv 1802.05957
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels

__all__ = ["frobenius_bound", "gram_bound", "gram_hold", "gram_hold_each", "orthogonal_bound", "power_iteration", "spectral_norm"]


def exact_products(weight: Tensor) -> Tensor:
    """``weight`` in a precision whose products obey the usual rounding model.

    TF32 and bfloat16 matrix units break it (relative error 1e-3 of a product), so half precisions go to float32, and float32 goes
    to float64 when the process has allowed its products to be rounded to fewer bits.
    """
    if weight.dtype in (torch.float16, torch.bfloat16):
        weight = weight.float()
    if weight.dtype == torch.float32 and _products_may_be_rounded():
        weight = weight.double()
    return weight


def _products_may_be_rounded() -> bool:
    """Whether the process has allowed float32 products fewer bits, for all backends or for one."""
    try:
        return torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # allowed by backend (torch.backends.*.matmul.fp32_precision), of which torch refuses to name one
        return True


def rounding_margin(rows: int, columns: int, dtype: torch.dtype) -> float:
    r"""Relative inflation that makes a computed Gram or Frobenius bound sound.

    A computed product errs by :math:`\gamma_n |A| |B|`, in the Frobenius norm at most :math:`n \epsilon \|A\|_F \|B\|_F`, and
    :math:`\|A\|_F^2 \le \sqrt{r} \|A^T A\|_F`. Each Gram step so adds :math:`n \sqrt{r} \epsilon`; errors of step k are divided
    by 2^k in the final root, hence twice the first in all, the last product with W included. The rest covers roots, exponents
    and the scaling of the weight.
    """
    small, large = sorted((rows, columns))
    return torch.finfo(dtype).eps * (math.sqrt(small) * (large + 2 * small) / 2 + 2 * math.sqrt(small) + 64)


class _Schatten(NamedTuple):
    """What :func:`_schatten` finds: the norm (...), and its gradient as a direction (..., m, n) times a length (..., 1, 1)."""

    norm: Tensor
    direction: Tensor
    length: Tensor


def _schatten(weight: Tensor, steps: int) -> _Schatten:
    r"""Schatten norm of order 2 p, p = 2^steps + 1, and its gradient.

    With A = M^(2^(steps-1)), :math:`\|W A\|_F^2 = \operatorname{tr} M^p`, and the gradient's direction W M^(p-1) is (W A) A: one
    product more. With p = 2^steps, as Gram iteration has it, that direction would take as many products again as the iteration.
    The norm is homogeneous of degree one, so <W, gradient> = norm (Euler): that fixes the gradient's length, since rescaling lost
    that of the direction, and <W, (W A) A> is the square of the size of W A.
    """
    rows, columns = weight.shape[-2:]
    # Powers of two, so that scaling rounds nothing; an all-zero matrix keeps scale 1. The limit keeps the power itself finite
    # for subnormal weights, which weight decay does reach.
    peak = weight.abs().amax(dim=(-2, -1), keepdim=True)
    limit = int(0.8 * math.log2(torch.finfo(weight.dtype).max))
    exponent = torch.where(peak > 0, torch.frexp(peak)[1].clamp(-limit, limit).to(weight.dtype), torch.zeros_like(peak))
    scaled = torch.ldexp(weight, -exponent)
    gram = scaled @ scaled.mT if rows <= columns else scaled.mT @ scaled
    shift = torch.zeros_like(peak)  # gram is M^(2^step) / 2^shift
    for step in range(steps):
        if step > 0:
            gram, shift = gram @ gram, 2 * shift  # symmetric: G^T G = G G
        if step % 2 == 0:  # two squarings leave a norm of at least 1 / (16 n^1.5), far from underflow
            size = torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True)
            more = torch.where(size > 0, torch.frexp(size)[1].to(weight.dtype), torch.zeros_like(size))
            gram, shift = gram.mul_(torch.exp2(-more)), shift + more
    half, order = (gram @ scaled if rows <= columns else scaled @ gram), 2**steps + 1
    size = torch.linalg.vector_norm(half, dim=(-2, -1), keepdim=True)
    norm = torch.exp2(shift / order) * size ** (1 / order)
    direction = gram @ half if rows <= columns else half @ gram
    length = torch.where(size > 0, norm / torch.where(size > 0, size.square(), torch.ones_like(size)), torch.zeros_like(size))
    return _Schatten(torch.ldexp(norm, exponent)[..., 0, 0], direction, length)


class _Gram(torch.autograd.Function):
    """The Schatten norm of :func:`_schatten` with its exact gradient."""

    @staticmethod
    def forward(weight: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(_schatten(weight, steps))  # type: ignore[return-value]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if grad is None:
            return None, None
        direction, length = ctx.saved_tensors
        return direction * (grad[..., None, None] * length), None


class _Hold(torch.autograd.Function):
    """W t / max(b, t), b the inflated Schatten norm, with one gradient for all of it."""

    @staticmethod
    def forward(weight: Tensor, share: float, steps: int, inflation: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        norm, direction, length = _schatten(weight, steps)
        bound = (norm * inflation)[..., None, None]
        factor = share / bound.clamp(min=share)
        factor = torch.where(factor < torch.finfo(factor.dtype).tiny, 0.0, factor)  # subnormal: too few digits to be sound
        # The result does not depend on the norm of what is not held.
        relative = torch.where(bound > share, factor * length / norm[..., None, None], torch.zeros_like(bound))
        return weight * factor, factor, direction, relative

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, int, float], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(inputs[0], *output[1:])
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        weight, factor, direction, relative = ctx.saved_tensors
        inner = (weight * grad).sum((-2, -1), keepdim=True)
        return (grad * factor).addcmul_(direction, inner * relative, value=-1.0), None, None, None


class _FusedHold(torch.autograd.Function):
    """:class:`_Hold` of each of several weights (rows, columns) by :mod:`iresnet.kernels`."""

    @staticmethod
    def forward(ctx: Any, share: float, steps: int, *weights: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        inflation = [_inflation(weight, weight.dtype) for weight in weights]
        dense = [weight.contiguous() for weight in weights]
        held, directions, factors = kernels.operations().hold(dense, share, steps, inflation)
        ctx.save_for_backward(*dense, *directions, factors)
        return tuple(held)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        *kept, factors = ctx.saved_tensors
        weights, directions = kept[: len(grads)], kept[len(grads) :]
        by_held = [grad.contiguous() for grad in grads]
        return None, None, *kernels.operations().hold_gradient(weights, by_held, directions, factors)


def gram_bound(weight: Tensor, steps: int = 6) -> Tensor:
    r"""Sound upper bound of the spectral norm by Gram iteration: :math:`\|W G_t\|_F^{1/(2^t+1)}`.

    With :math:`M = W^T W` and :math:`G_t = M^{2^{t-1}}` this is the Schatten norm of order :math:`2^{t+1} + 2`, at most
    :math:`r^{1/(2^{t+1}+2)}` times the truth for r equal singular values, and exact for rank one. Differentiable once, exactly.
    The paper's :math:`\|G_t\|_F^{1/2^t}` is a little looser, and its gradient takes t products more.

    Parameters
    ----------
    weight : Tensor (..., m, n)
    steps : number of Gram matrices t >= 1; each doubles the exponent.

    Returns
    -------
    Tensor (...): the bound, inflated by a margin for rounding, in the dtype of ``weight`` (float32 for half precisions).

    References
    ----------
    Efficient Bound of Lipschitz Constant for Convolutional Layers by Gram Iteration (Delattre et al., 2023), arXiv 2305.16173
    """
    if steps < 1:
        raise ValueError(f"gram_bound needs steps >= 1, got {steps}")
    with torch.autocast(weight.device.type, enabled=False):
        exact = exact_products(weight)
        # The margin is that of the result: a bound found in float64 is rounded once more on its way back to float32.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        return (_Gram.apply(exact, steps)[0] * _inflation(weight, dtype)).to(dtype)


def _inflation(weight: Tensor, dtype: torch.dtype) -> float:
    return 1.0 + rounding_margin(weight.shape[-2], weight.shape[-1], dtype)


def gram_hold(weight: Tensor, share: float, steps: int = 6) -> Tensor:
    """``weight`` (..., m, n) t / max(b, t), of norm at most t = ``share`` > 0, with b its :func:`gram_bound`.

    Value and gradient are those of that expression, in fewer passes over the weights.
    """
    with torch.autocast(weight.device.type, enabled=False):
        if exact_products(weight) is weight:
            return _Hold.apply(weight, share, steps, _inflation(weight, weight.dtype))[0]
    return weight * (share / gram_bound(weight, steps).clamp(min=share))[..., None, None]


def gram_hold_each(weights: Sequence[Tensor], share: float, steps: int = 6) -> tuple[Tensor, ...]:
    """:func:`gram_hold` of each of some weights (m, n), by :mod:`iresnet.kernels` where these take them."""
    if weights and all(kernels.take(weight) and exact_products(weight) is weight for weight in weights):
        return _FusedHold.apply(share, steps, *weights)
    return tuple(gram_hold(weight, share, steps) for weight in weights)


def frobenius_bound(weight: Tensor) -> Tensor:
    r"""Sound upper bound :math:`\|W\|_2 \le \|W\|_F`, shape (...) for weight (..., m, n). Loose by up to sqrt(rank)."""
    exact = exact_products(weight)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    margin = torch.finfo(dtype).eps * (math.sqrt(weight.shape[-2] * weight.shape[-1]) + 64)
    # Squares of entries beyond 1e19 overflow and below 1e-19 vanish in float32: scale first. Zero gets gradient zero.
    peak = exact.detach().abs().amax(dim=(-2, -1), keepdim=True)
    peak = torch.where(peak > 0, peak, torch.ones_like(peak))
    bound = torch.linalg.vector_norm(exact / peak, dim=(-2, -1)) * peak[..., 0, 0] * (1.0 + margin)
    return bound.to(dtype)


def orthogonal_bound(matrix: Tensor) -> Tensor:
    r"""Sound upper bound :math:`\|Q\|_2^2 \le 1 + \|Q^T Q - I\|_F`, tight where the shorter side is orthonormal up to rounding.

    Gram iteration is loosest on such matrices (r equal singular values), this is loose only away from them. For any ``matrix``
    (..., m, n); shape (...), without gradient: it measures a drift that rounding causes.
    """
    with torch.no_grad(), torch.autocast(matrix.device.type, enabled=False):
        exact = exact_products(matrix)
        rows, columns = exact.shape[-2:]
        gram = exact @ exact.mT if rows <= columns else exact.mT @ exact
        small, large = sorted((rows, columns))
        eye = torch.eye(small, dtype=exact.dtype, device=exact.device)
        defect = torch.linalg.vector_norm(gram - eye, dim=(-2, -1))
        size = torch.linalg.vector_norm(exact, dim=(-2, -1))
        eps = torch.finfo(exact.dtype).eps
        # Rounding of the product (n eps ||Q||_F^2) and of the subtraction and the norm, which only ever read `gram`.
        bound = torch.sqrt(1.0 + defect * (1 + small * eps) + (large * eps) * size**2) * (1 + 8 * eps)
        return bound.nan_to_num(nan=math.inf, posinf=math.inf)  # squares that overflowed bound nothing


def power_iteration(
    weight: Tensor, steps: int = 5, *, start: Tensor | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Estimate :math:`\sigma = u^T W v` after ``steps`` of :math:`v \leftarrow W^T u / |\cdot|`, :math:`u \leftarrow W v /
    |\cdot|`.

    An estimate *from below*: :math:`\sigma \le \|W\|_2` always, and by how much is not known. Layers divided by it may expand.
    The start is random: a constant one fails where it is orthogonal to the top singular vector.

    Parameters
    ----------
    weight : Tensor (..., m, n); gradients flow through :math:`u^T W v` with u and v held fixed.
    start : Tensor (..., m) or None: u of an earlier call, to go on from.

    Returns
    -------
    sigma (...), u (..., m).

    References
    ----------
    Spectral Normalization for Generative Adversarial Networks (Miyato et al., 2018), arXiv 1802.05957
    """
    detached = weight.detach()
    if start is None:
        shape = weight.shape[:-1]
        start = torch.randn(
            shape, generator=generator, dtype=weight.dtype, device=generator.device if generator else weight.device
        )
    left = torch.nn.functional.normalize(start.to(weight), dim=-1)
    right = torch.zeros_like(detached[..., 0, :])
    for _ in range(max(steps, 1)):
        right = torch.nn.functional.normalize((detached.mT @ left[..., None])[..., 0], dim=-1)
        left = torch.nn.functional.normalize((detached @ right[..., None])[..., 0], dim=-1)
    sigma = (left * (weight @ right[..., None])[..., 0]).sum(-1)
    return sigma, left


def spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value (...) of ``weight`` (..., m, n) by singular value decomposition in float64: the reference."""
    return torch.linalg.matrix_norm(weight.double(), ord=2)
