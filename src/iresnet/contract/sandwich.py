r"""Sandwich layers: dense branches bounded jointly, not by a product of norms.

If the rows of [A B] have :math:`A A^T + B B^T \preceq I` and s acts on each entry with slope in [0, 1], then

.. math:: h \mapsto \sqrt 2\, A^T \Psi\, s(\sqrt 2\, \Psi^{-1} B h + b), \qquad \Psi > 0 \text{ diagonal},

is 1-Lipschitz: with v, u the changes before and after s, :math:`u^T \Lambda (v - u) \ge 0` for every diagonal :math:`\Lambda
\ge 0`, and completing the square gives :math:`\|\sqrt 2 A^T u\|^2 \le \|h\|^2`. Layers fold into each other, so that a branch
costs what a plain perceptron of these widths costs:

.. math:: W_1 = \sqrt{2c}\, \Psi_1^{-1} B_1, \quad W_l = 2 \Psi_l^{-1} B_l A_{l-1}^T \Psi_{l-1}, \quad
          W_n = \sqrt{2c}\, S A_{n-1}^T \Psi_{n-1},

with gains S in [-1, 1] on the output, which start at zero: a new block is the identity.

[A B] comes from a Cayley transform, which makes it orthonormal up to rounding. Rounding is not assumed away: its norm is bounded
by :func:`~iresnet.numerics.norms.orthogonal_bound` and divided out, and folding is done in float64.

References
----------
Direct Parameterization of Lipschitz-Bounded Deep Networks (Wang and Manchester, 2023), arXiv 2301.11526
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..numerics.elimination import inverse
from ..numerics.norms import orthogonal_bound
from .activations import Activation
from .branches import DenseBranch

__all__ = ["SandwichBranch", "cayley", "free_parameters", "refuse_unless_monotone", "sides"]

# Psi stays within e^-8 and e^8: far enough to matter for any data, near enough never to overflow.
_PSI_LIMIT = 8.0


def cayley(square: Tensor, rest: Tensor) -> Tensor:
    r"""A matrix (..., n + m, n) with orthonormal columns, from X (..., n, n) and Y (..., m, n), unconstrained.

    :math:`Z = X - X^T + Y^T Y`, :math:`Q = [(I - Z)(I + Z)^{-1};\, -2 Y (I + Z)^{-1}]`. The symmetric part of I + Z is
    at least I, so the inverse always exists.
    """
    eye = torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
    skewed = square - square.mT + rest.mT @ rest
    # Where Z is so large that rounding swallows I, the sum could be singular: as much as rounding takes keeps it regular.
    ridge = 2 * torch.finfo(square.dtype).eps * torch.linalg.matrix_norm(skewed.detach())
    inverted = inverse(skewed + (1 + ridge)[..., None, None] * eye)
    return torch.cat((2 * inverted - eye, -2 * rest @ inverted), -2)


class SandwichBranch(DenseBranch):
    """A dense branch of sandwich layers: sound, and tighter than normalising each layer. Parameters of :class:`DenseBranch`.

    Raises
    ------
    ValueError
        If the activation is not elementwise and monotone with slope in [0, 1], such as LipSwish, MaxMin or sine.
    """

    guarantee = "sound"

    def __init__(
        self,
        features: int,
        hidden: Sequence[int] = (64, 64),
        lipschitz: float = 0.97,
        nonlinearity: str | Activation = "tanh",
        context: int = 0,
    ) -> None:
        super().__init__(features, hidden, lipschitz, nonlinearity, context)
        refuse_unless_monotone(self.activation)
        self.square, self.rest, self.psi = free_parameters(self._shapes())
        self.gain = nn.Parameter(torch.zeros(features))

    def _shapes(self) -> list[tuple[int, int, int]]:
        """(hidden width, outputs, inputs) of each layer. Between two hidden layers pass as many as the wider one has."""
        between = [max(pair) for pair in zip(self.hidden[:-1], self.hidden[1:], strict=True)]
        ends = [self.features, *between, self.features]
        return [(inner, ends[index + 1], ends[index]) for index, inner in enumerate(self.hidden)]

    def raw(self) -> tuple[Tensor, ...]:
        return (*self.square, *self.rest, *self.psi, self.gain)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        count = len(self.hidden)
        squares, rests, psis, gain = raw[:count], raw[count : 2 * count], raw[2 * count : 3 * count], raw[-1]
        dtype = gain.dtype
        wide = torch.float64 if gain.device.type != "mps" else dtype
        layers = zip(self._shapes(), squares, rests, psis, strict=True)
        outs, ins = zip(*(sides(*layer, wide) for layer in layers), strict=True)
        end = math.sqrt(2 * self.lipschitz * (1 - self._margin(dtype, wide)))
        weights = [end * ins[0]]
        weights += [2 * into @ out for out, into in zip(outs[:-1], ins[1:], strict=True)]
        # The sine reaches its bound at pi / 2 with a gradient on the way; clamping would stop it, tanh would never get there.
        weights.append(end * torch.sin(gain.to(wide))[..., :, None] * outs[-1])
        return tuple(weight.to(dtype) for weight in weights)

    def _margin(self, dtype: torch.dtype, wide: torch.dtype) -> float:
        r"""What rounding of the folded weights can add to the bound, relative.

        Entries err by eps of themselves, so :math:`B A^T` by :math:`\epsilon \|B A^T\|_F \le \epsilon \sqrt h` where the
        scalings by :math:`\Psi` cancel, and the branch by four times that for each weight; folding itself errs by n eps sqrt(h).
        """
        width = max(self.hidden)
        last, fold = torch.finfo(dtype).eps, torch.finfo(wide).eps
        return 4 * (len(self.hidden) + 1) * (last * (math.sqrt(width) + 4) + fold * width * math.sqrt(width))


def refuse_unless_monotone(nonlinearity: Activation) -> None:
    """ValueError for what sandwich layers do not bound."""
    if not nonlinearity.monotone:
        name = type(nonlinearity).__name__
        raise ValueError(
            f"sandwich layers need a monotone activation with slope in [0, 1], which {name} is not; try 'tanh' or 'elu'"
        )


def free_parameters(shapes: Sequence[tuple[int, int, int]]) -> tuple[nn.ParameterList, nn.ParameterList, nn.ParameterList]:
    r"""X, Y and :math:`\log \Psi` of sandwich layers of those (inner, outputs, inputs), to begin with."""
    square, rest = nn.ParameterList(), nn.ParameterList()
    for inner, outputs, inputs in shapes:
        columns, others = min(inner, outputs + inputs), abs(outputs + inputs - inner)
        square.append(nn.Parameter(torch.randn(columns, columns) / math.sqrt(columns)))
        rest.append(nn.Parameter(torch.randn(others, columns) / math.sqrt(columns)))
    return square, rest, nn.ParameterList(nn.Parameter(torch.zeros(inner)) for inner, _, _ in shapes)


def sides(shape: tuple[int, int, int], square: Tensor, rest: Tensor, psi: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    r"""The two sides :math:`A^T \Psi` (..., outputs, inner) and :math:`\Psi^{-1} B` (..., inner, inputs) of a sandwich layer.

    ``shape`` is (inner, outputs, inputs). Cayley's transform is taken in the weights' own precision, the rest in ``wide``.
    """
    out, into = _halves(cayley(square, rest).to(wide), shape)
    scale = torch.exp(_PSI_LIMIT * torch.tanh(psi.to(wide) / _PSI_LIMIT))
    return out * scale[..., None, :], into / scale[..., :, None]


def _halves(matrix: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """A^T (..., outputs, inner) and B (..., inner, inputs) from orthonormal columns, divided by a sound bound of their norm."""
    inner, outputs, inputs = shape
    matrix = matrix / orthogonal_bound(matrix).clamp(min=1.0)[..., None, None]
    if inner > outputs + inputs:  # [A B] is taller than wide: it is the matrix itself
        a, b = matrix.split((outputs, inputs), -1)
        return a.mT, b
    # [A B]^T is the matrix; its square part goes to the larger half, which is the identity for X = Y = 0.
    if outputs >= inputs:
        a_t, b_t = matrix.split((outputs, inputs), -2)
    else:
        b_t, a_t = matrix.split((inputs, outputs), -2)
    return a_t, b_t.mT
