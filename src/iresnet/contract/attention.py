r"""Self-attention with a Lipschitz constant: queries and keys are the same, and weights fall with their squared distance.

For points x_1 .. x_N, and in every head :math:`q_i = W_Q x_i`,

.. math:: y_i = W_O m_i + b, \quad m_i = \sum_j P_{ij} q_j, \quad
          P_{ij} = \frac{e^{-t_{ij}}}{\sum_l e^{-t_{il}}}, \quad t_{ij} = |q_i - q_j|^2.

Dot-product attention has no Lipschitz constant; this has one (Kim et al., Theorem 3.2), since no point is further from its mean
than its own entropy allows. Their :math:`\sqrt{D/H}` is taken into :math:`W_Q`, their :math:`W_Q W_V W_O` into :math:`W_O`.

**The bound.** With :math:`\phi(x) = x e^{x+1}`, :math:`E = \phi^{-1}(N - 1)` bounds :math:`\sum_j P_{ij} t_{ij}` (it is largest
where all others are equally far), and :math:`F = \phi^{-1}(1)` bounds each :math:`P_{ij} t_{ij}`. The derivative is

.. math:: dm_i = 2 C_i\, dq_i + \sum_j P_{ij}\, dq_j + 2 \sum_j P_{ij} (q_j - m_i)(q_i - q_j)^T dq_j,

:math:`C_i` the covariance of the q_j under P_i, of trace at most E. The first term is block diagonal, of norm at most 2E. In each
row the second has norm at most 1, and the third is :math:`2 \sum_j a_j b_j^T dq_j` with :math:`a_j = \sqrt{P_{ij}}(q_j - m_i)`,
:math:`\sum_j a_j a_j^T = C_i`, and :math:`|b_j|^2 = P_{ij} t_{ij} \le F`: of norm at most :math:`2 \sqrt{E F}`. N rows add up to

.. math:: \operatorname{Lip}(q \mapsto m) \le 2 E + \sqrt N\, (1 + 2 \sqrt{E F}),

never above the theorem's :math:`\sqrt N (1 + 4 E)`, which bounds first and third term by 2E in each row: 2.2 times less at
N = 16, 3.7 times at N = 128. It grows with N, so a branch is made for at most so many points. Heads act on orthogonal spaces,
hence the whole has this constant times :math:`\|W_O\|_2 \|W_Q\|_2`, which :math:`W_O` is divided by, down to c.

References
----------
The Lipschitz Constant of Self-Attention (Kim, Papamakarios and Mnih, 2021), arXiv 2006.04710
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..numerics.linearize import Linearization
from ..numerics.norms import gram_bound
from .base import Branch

__all__ = ["AttentionBound", "AttentionBranch", "attention_constant"]


def attention_constant(points: int) -> float:
    """A sound bound of the Lipschitz constant of q to m for at most that many points; see the module."""
    entropy, largest = _inverse_phi(points - 1.0), _inverse_phi(1.0)
    return (2 * entropy + math.sqrt(points) * (1 + 2 * math.sqrt(entropy * largest))) * (1 + 1e-12)


def _inverse_phi(y: float) -> float:
    """x >= 0 with x e^(x + 1) = y, from above: the function is convex, so Newton's steps from the right stay there."""
    x = math.log1p(y)
    for _ in range(60):
        power = math.exp(x + 1)
        x -= (x * power - y) / ((x + 1) * power)
    return max(x, 0.0) * (1 + 1e-14)


@dataclass(frozen=True, eq=False)
class AttentionBound:
    """Self-attention with explicit tensors: ``query`` (H k, d) and ``output`` (d, H k) of H heads, ``bias`` (d,).

    See :class:`~iresnet.contract.base.Bound`. x is (B, N, d) with N at most ``points``.
    """

    query: Tensor
    output: Tensor
    bias: Tensor
    heads: int
    points: int
    certified: float | None = None

    @property
    def lipschitz(self) -> float:
        """A sound upper bound of the Lipschitz constant, for any tensors."""
        if self.certified is not None:
            return self.certified
        with torch.no_grad():
            wide = [weight.detach().double() if weight.device.type != "mps" else weight for weight in (self.query, self.output)]
            return attention_constant(self.points) * math.prod(float(gram_bound(weight, 8)) for weight in wide) * (1 + 1e-12)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.query, self.output, self.bias)

    @property
    def dtype(self) -> torch.dtype:
        return self.query.dtype

    def _queries(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of their mean (B, H, N, k), on which all distances depend, and the mean (B, H, 1, k)."""
        if x.shape[-2] > self.points:
            raise ValueError(f"this attention is bounded for at most {self.points} points, got {x.shape[-2]}: make it for more")
        queries = self._apart(x, self.query)
        mean = queries.mean(-2, keepdim=True)
        return queries - mean, mean

    def __call__(self, x: Tensor) -> Tensor:
        queries, mean = self._queries(x)
        return self._joined(_weights(queries) @ queries + mean) + self.bias

    def _joined(self, heads: Tensor) -> Tensor:
        """The output's product with what the heads (*, H, N, k) say."""
        return linear(heads.transpose(-3, -2).flatten(-2), self.output)

    def _apart(self, vector: Tensor, weight: Tensor) -> Tensor:
        """The product with a weight (H k, d), head by head: (*, H, N, k)."""
        return linear(vector, weight).unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def linearize(self, x: Tensor) -> Linearization:
        """Value and Jacobian products at x (B, N, d), and the trace: of :math:`P_{ii} I + 2 C_i` between the weights."""
        q, mean = self._queries(x)
        weights = _weights(q)
        means = weights @ q

        def jvp(vector: Tensor) -> Tensor:
            dq = self._apart(vector, self.query)
            logits = 2 * (dq @ q.mT + q @ dq.mT - (q * dq).sum(-1)[..., None, :])
            change = weights * (logits - (weights * logits).sum(-1, keepdim=True))
            return self._joined(weights @ dq + change @ q)

        def vjp(vector: Tensor) -> Tensor:
            dm = self._apart(vector, self.output.mT)
            logits = dm @ q.mT
            logits = 2 * weights * (logits - (weights * logits).sum(-1, keepdim=True))
            dq = weights.mT @ dm + (logits + logits.mT) @ q - logits.sum(-2)[..., None] * q
            return linear(dq.transpose(-3, -2).flatten(-2), self.query.mT)

        def trace() -> Tensor:
            covariance = q.mT @ (weights.sum(-2)[..., None] * q) - means.mT @ means
            own = weights.diagonal(dim1=-2, dim2=-1).sum(-1)
            around = self.query.unflatten(0, (self.heads, -1)) @ self.output.unflatten(-1, (self.heads, -1)).transpose(0, 1)
            within = 2 * (around.mT * covariance).sum((-3, -2, -1))
            return within + (own * around.diagonal(dim1=-2, dim2=-1).sum(-1)).sum(-1)

        return Linearization(self._joined(means + mean) + self.bias, vjp, jvp, trace)

    def rounding(self, x: Tensor) -> Tensor:
        """Bound (B,) of the 2-norm rounding error of one evaluation at x (B, N, d), by error analysis in norms."""
        with torch.no_grad():
            eps, (count, features) = torch.finfo(x.dtype).eps, x.shape[-2:]
            centred, mean = self._queries(x)
            width = centred.shape[-1]
            size = torch.linalg.vector_norm(x.flatten(1), dim=1)
            # Queries and their mean err, which attention carries on by at most its constant.
            early = eps * (0.5 * (features + 2) + count + 4) * torch.linalg.matrix_norm(self.query) * size
            error = attention_constant(count) * early + early
            # Logits err by that much; the weights, all positive, relatively by twice it; a mean is never further than the points.
            radius = torch.linalg.vector_norm(centred, dim=-1).amax(-1)  # (B, H)
            logit = 3 * (width + 4) * eps * radius.square()
            relative = (torch.expm1(2 * logit) + (count + 12) * eps).clamp(max=2.5)
            error = error + math.sqrt(count) * torch.linalg.vector_norm(relative * radius, dim=-1)
            length = math.sqrt(count) * torch.linalg.vector_norm(radius + torch.linalg.vector_norm(mean, dim=-1)[..., 0], dim=-1)
            error = gram_bound(self.output) * (error + eps * length)
            frobenius = torch.linalg.matrix_norm(self.output)
            share = 0.5 * eps * (self.output.shape[-1] + 3)
            return (error + share * (frobenius * length + math.sqrt(count) * self.bias.norm())) * (1 + 1e-3)

    def select(self, rows: Tensor) -> AttentionBound:
        return self

    def repeat(self, times: int) -> AttentionBound:
        return self

    def to(self, dtype: torch.dtype) -> AttentionBound:
        if dtype == self.dtype:
            return self
        query, output, bias = (tensor.to(dtype) for tensor in self.tensors)
        # Rounding to fewer bits may lengthen a weight: what was certified of the old ones is not known of the new.
        certified = None if torch.finfo(dtype).eps > torch.finfo(self.dtype).eps else self.certified
        return replace(self, query=query, output=output, bias=bias, certified=certified)


def _weights(queries: Tensor) -> Tensor:
    """P (*, N, N); the length of q_i is the same for a whole row of the softmax."""
    return torch.softmax(2 * queries @ queries.mT - queries.square().sum(-1)[..., None, :], -1)


class AttentionBranch(Branch):
    """Multi-head self-attention over points x (B, N, d), soundly bounded for N <= ``points``; equivariant to permutations.

    Parameters
    ----------
    features : d, the width of a point.
    points : the largest N. The bound grows with it, as sqrt(N log N): a branch for more points moves each of them less.
    heads : H.
    width : k, of the queries of a head.
    lipschitz : bound c of the whole branch, in (0, 1).

    Raises
    ------
    ValueError
        For sizes below one, and a bound outside (0, 1).
    """

    guarantee = "sound"

    def __init__(self, features: int, points: int, heads: int = 4, width: int = 16, lipschitz: float = 0.97) -> None:
        super().__init__()
        if min(features, points, heads, width) < 1:
            told = f"features={features}, points={points}, heads={heads}, width={width}"
            raise ValueError(f"an attention branch needs sizes of at least one, got {told}")
        if not 0 < lipschitz < 1:
            raise ValueError(f"lipschitz must lie in (0, 1) for x + g(x) to be invertible, got {lipschitz}")
        self.features, self.points, self.heads, self.width = features, points, heads, width
        self.lipschitz = float(lipschitz)
        self.query = nn.Parameter(torch.randn(heads * width, features) / math.sqrt(features))
        self.output = nn.Parameter(torch.zeros(features, heads * width))  # a new block is the identity
        self.bias = nn.Parameter(torch.zeros(features))

    def raw(self) -> tuple[Tensor, ...]:
        return (self.query, self.output)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        query, output = raw
        # Entries are rounded once more in the end, and so is the product of the bounds.
        margin = 1 + torch.finfo(output.dtype).eps * (math.sqrt(min(output.shape[-2:])) + 16)
        bound = gram_bound(query) * gram_bound(output) * (attention_constant(self.points) * margin)
        return query, output * (self.lipschitz / bound.clamp(min=self.lipschitz))[..., None, None]

    def assemble(self, weights: tuple[Tensor, ...], context: Tensor | None) -> AttentionBound:
        return AttentionBound(*weights, self.bias, self.heads, self.points, self.lipschitz)  # type: ignore[call-arg]

    def signature(self) -> Any:
        sizes = (self.features, self.points, self.heads, self.width, self.lipschitz)
        return (type(self), *sizes, self.bias.dtype, self.bias.device)

    def extra_repr(self) -> str:
        told = f"{self.features}, points={self.points}, heads={self.heads}, width={self.width}"
        return f"{told}, lipschitz={self.lipschitz:g}"
