r"""Sandwich layers between two convolutions: a branch bounded jointly, at the cost of a plain 3x3 - 1x1 - 3x3.

A sandwich layer :math:`u \mapsto \sqrt 2 A^T \Psi s(\sqrt 2 \Psi^{-1} B u + b)` is 1-Lipschitz at every place of an image
(:mod:`iresnet.contract.sandwich`), so it is on the image. Between two k x k convolutions held at norm sqrt(c) such layers give
a branch of constant c, and fold into them:

.. math:: K_1' = \sqrt 2\, \Psi_1^{-1} B_1 K_1, \quad W_l' = 2 \Psi_l^{-1} B_l A_{l-1}^T \Psi_{l-1}, \quad
          K_n' = K_n \sqrt 2 A_{n-1}^T \Psi_{n-1}.

The last kernel starts at zero: a new block is the identity. What is bounded are the inner convolutions, of at most k^2 C
channels: more would only be mixed again by B.

References
----------
Direct Parameterization of Lipschitz-Bounded Deep Networks (Wang and Manchester, 2023), arXiv 2301.11526
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .activations import Activation
from .conv_branches import ConvBranch, together
from .sandwich import free_parameters, refuse_unless_monotone, sides

__all__ = ["SandwichConvBranch"]


class SandwichConvBranch(ConvBranch):
    """A convolution branch of sandwich layers: sound, and tighter than normalising each layer. Parameters of :class:`ConvBranch`.

    Raises
    ------
    ValueError
        If the activation is not elementwise and monotone with slope in [0, 1], such as LipSwish, MaxMin or sine.
    """

    family, guarantee = "sandwich", "sound"

    def __init__(
        self,
        shape: Sequence[int],
        hidden: Sequence[int] = (64, 64),
        lipschitz: float = 0.97,
        nonlinearity: str | Activation = "elu",
        context: int = 0,
        taps: int = 3,
    ) -> None:
        super().__init__(shape, hidden, lipschitz, nonlinearity, context, taps=taps)
        refuse_unless_monotone(self.activation)
        first, *_, last = self._passing()
        self.first = nn.Parameter(torch.empty(first, self.shape[0], taps, taps))
        self.last = nn.Parameter(torch.zeros(self.shape[0], last, taps, taps))  # a new block is the identity
        nn.init.orthogonal_(self.first)
        self.square, self.rest, self.psi = free_parameters(self._shapes())

    def _passing(self) -> list[int]:
        """Channels that pass between sandwich layers, from the first convolution to the last."""
        most = self.shape[0] * self.taps**2
        between = [max(pair) for pair in zip(self.hidden[:-1], self.hidden[1:], strict=True)]
        return [min(self.hidden[0], most), *between, min(self.hidden[-1], most)]

    def _shapes(self) -> list[tuple[int, int, int]]:
        """(hidden channels, outputs, inputs) of each sandwich layer."""
        ends = self._passing()
        return [(inner, ends[index + 1], ends[index]) for index, inner in enumerate(self.hidden)]

    def raw(self) -> tuple[Tensor, ...]:
        return (self.first, self.last, *self.square, *self.rest, *self.psi)

    def constrain(self, *raw: Tensor) -> tuple[Tensor, ...]:
        count, first, last = len(self.hidden), raw[0], raw[1]
        squares, rests, psis = raw[2 : 2 + count], raw[2 + count : 2 + 2 * count], raw[2 + 2 * count :]
        wide = torch.float64 if first.device.type != "mps" else first.dtype
        layers = zip(self._shapes(), squares, rests, psis, strict=True)
        outs, ins = zip(*(sides(*layer, wide) for layer in layers), strict=True)
        head, tail = self._ends(first, last, math.sqrt(self.lipschitz), wide)
        end = math.sqrt(2 * (1 - self._margin(first.dtype, wide)))
        kernels = [end * torch.einsum("...hm,...mcij->...hcij", ins[0], head)]
        kernels += [(2 * into @ out)[..., None, None] for out, into in zip(outs[:-1], ins[1:], strict=True)]
        kernels.append(end * torch.einsum("...cmij,...mh->...chij", tail, outs[-1]))
        return tuple(kernel.to(first.dtype) for kernel in kernels)

    def _ends(self, first: Tensor, last: Tensor, share: float, wide: torch.dtype) -> tuple[Tensor, Tensor]:
        """The two outer convolutions, each held to the norm ``share``."""
        scales = [share / bound.to(wide).clamp(min=share) for bound in together((first, last), self.shape[1:])]
        head, tail = (scale[..., None, None, None, None] for scale in scales)
        return first.to(wide) * head, last.to(wide) * tail

    def _margin(self, dtype: torch.dtype, wide: torch.dtype) -> float:
        r"""What rounding of the folded kernels can add to the bound, relative.

        As for dense layers, with a convolution whose taps err by eps of themselves in place of :math:`B`: by
        :math:`\epsilon \sqrt{k^2 r}` of its norm at most (Parseval, see :mod:`iresnet.numerics.convolution`).
        """
        width = max(*self.hidden, self.shape[0]) * self.taps**2
        last, fold = torch.finfo(dtype).eps, torch.finfo(wide).eps
        return 4 * (len(self.hidden) + 1) * (last * (math.sqrt(width) + 4) + fold * width * math.sqrt(width))
