"""Flows for images: levels to the line, then stages of squeezing and of convolution blocks, each on half of the channels left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..bases import Base, ClassNormal
from ..bijections import ActNorm, Bijection, Chain, Flatten, Pixels, Residual, Split, Squeeze, Unflatten, Unsqueeze
from ..contract.branches import dense_branch
from ..contract.conv_branches import conv_branch
from ..flow import Flow
from ..numerics.anderson import Anderson
from ..numerics.krylov import Krylov
from ..numerics.logdet import Exact, LogDet
from ..numerics.series import PowerSeries
from ..recipes import remembered
from .dense import BASES

__all__ = ["image_flow"]

_EMBEDDING = 64  # width of what the blocks are told of the class
_SMALLEST = 4  # height and width below which convolutions are mostly border
_EXACT = 128  # dimensions up to which the full Jacobian is affordable in evaluation: docs/estimators.md


@remembered
def image_flow(
    shape: Sequence[int],
    classes: int | None = None,
    blocks: Sequence[int] = (4, 4, 4),
    hidden: int = 64,
    lipschitz: float = 0.97,
    family: str = "sandwich",
    nonlinearity: str = "elu",
    *,
    split: bool = True,
    dense: int = 0,
    alpha: float | None = 0.05,
    levels: int = 256,
    base: str = "normal",
    preactivate: bool = False,
) -> Flow:
    """A residual flow for images on [0, ``levels``)^(C, H, W): log-densities are per unit of grey or colour.

    :class:`~iresnet.bijections.Pixels`, then for each entry of ``blocks`` a stage: a squeeze to four times the channels, if
    height and width are even and stay at least 4, that many times ActNorm and a residual block of convolutions, and ActNorm.
    What follows a stage acts on half of its channels, if ``split`` and their number is even, else on all. Latents have the shape
    of the images.

    Parameters
    ----------
    shape : (C, H, W).
    classes : K for a density conditional on the class, given as indicators (B, K): both the blocks and the base depend on it.
    blocks : residual blocks of each stage.
    hidden : channels of each branch's hidden layers.
    lipschitz : bound c of each *branch*, in (0, 1).
    family : how it is held, one of :data:`iresnet.contract.CONV_FAMILIES`. "sandwich" and "gram" are sound.
    nonlinearity : an activation by name.
    dense : fully connected residual blocks, 128 wide, at the end of the last stage, as in Residual Flows.
    alpha : of the logit, see :class:`~iresnet.bijections.Pixels`; None for none.
    base : "normal" for N(0, I), "diagonal" for learned mean and scale, "student". With ``classes`` it is normal, with mean and
        scale learned for each class.
    preactivate : apply the nonlinearity before the first convolution too, as the papers do. There is then no exact trace.

    Raises
    ------
    ValueError
        For arguments that no such flow can have.

    References
    ----------
    Residual Flows for Invertible Generative Modeling (Chen et al., 2019), arXiv 1906.02735
    """
    blocks = (blocks,) if isinstance(blocks, int) else tuple(blocks)
    channels, height, width = map(int, shape) if len(shape) == 3 else (0, 0, 0)
    if min(channels, height, width, *blocks) < 1 or not blocks or dense < 0:
        told = f"shape={tuple(shape)}, blocks={blocks} and dense={dense}"
        raise ValueError(f"an image flow needs a shape (C, H, W) and at least one block a stage, got {told}")
    if base not in BASES or base == "mixture":
        raise ValueError(f"unknown base {base!r}; for images there are diagonal, normal and student")
    if classes is not None and (classes < 2 or base != "normal"):
        raise ValueError(f"a class-conditional flow needs classes >= 2 and base='normal', got {classes} and {base!r}")
    made = _Blocks(hidden, lipschitz, family, nonlinearity, preactivate, _EMBEDDING if classes else 0, split, dense)
    size = (channels, height, width)
    latent: Base = ClassNormal(size, classes) if classes else BASES[base](size)
    features = math.prod(size)
    evaluate: LogDet = Exact() if features <= _EXACT else Krylov(probes=2, tol=1e-3)
    return Flow(
        Chain([Pixels(levels, alpha), *made.stages(size, blocks)]),
        latent,
        context=classes or 0,
        embed=nn.Sequential(nn.Linear(classes, _EMBEDDING), nn.SiLU()) if classes else None,
        train_logdet=PowerSeries(terms=2, roulette="adaptive"),
        eval_logdet=evaluate,
        solver=Anderson(),  # on images Picard's evaluations cost more than Anderson's bookkeeping
    )


@dataclass(frozen=True)
class _Blocks:
    """What all blocks of a flow share."""

    hidden: int
    lipschitz: float
    family: str
    nonlinearity: str
    preactivate: bool
    context: int
    split: bool
    dense: int

    def stages(self, shape: tuple[int, int, int], blocks: tuple[int, ...]) -> list[Bijection]:
        """The parts from ``shape`` to ``shape``, of one stage for each number of blocks."""
        channels, height, width = shape
        squeezed = height % 2 == width % 2 == 0 and min(height, width) >= 2 * _SMALLEST
        if squeezed:
            channels, height, width = 4 * channels, height // 2, width // 2
        parts: list[Bijection] = [Squeeze()] if squeezed else []
        for _ in range(blocks[0]):
            branch = conv_branch(
                self.family,
                (channels, height, width),
                self.hidden,
                self.lipschitz,
                self.nonlinearity,
                self.context,
                preactivate=self.preactivate,
            )
            parts += [ActNorm(channels, self.context), Residual(branch)]
        parts.append(ActNorm(channels, self.context))
        if len(blocks) == 1:
            parts += self.fully_connected((channels, height, width))
        elif self.split and channels % 2 == 0:
            parts.append(Split(Chain(self.stages((channels // 2, height, width), blocks[1:]))))
        else:
            parts += self.stages((channels, height, width), blocks[1:])
        return [*parts, Unsqueeze()] if squeezed else parts

    def fully_connected(self, shape: tuple[int, int, int]) -> list[Bijection]:
        """The dense blocks, none if there are to be none."""
        if not self.dense:
            return []
        features, parts = math.prod(shape), list[Bijection]()
        for _ in range(self.dense):
            branch = dense_branch(self.family, features, (128, 128), self.lipschitz, self.nonlinearity, self.context)
            parts += [ActNorm(features, self.context), Residual(branch)]
        return [Flatten(shape), *parts, Unflatten(shape)]
