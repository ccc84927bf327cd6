"""Flows for clouds of points: blocks that treat all points alike, so that the density is that of a set."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..bases import StandardNormal
from ..bijections import Bijection, Chain, PointNorm, Residual
from ..contract.attention import AttentionBranch
from ..contract.sets import set_branch
from ..flow import Flow
from ..numerics.logdet import Exact
from ..numerics.series import PowerSeries
from ..recipes import remembered

__all__ = ["point_flow"]

_EMBEDDING = 32  # width of what the blocks are told of the context
_EXACT = 128  # numbers of a cloud up to which the full Jacobian is affordable in evaluation: docs/estimators.md


@remembered
def point_flow(
    dimension: int,
    points: int,
    context: int = 0,
    blocks: int = 8,
    hidden: Sequence[int] = (64, 64),
    lipschitz: float = 0.97,
    family: str = "sandwich",
    *,
    nonlinearity: str = "elu",
    attention: bool = False,
    heads: int = 4,
) -> Flow:
    """A density of clouds x (B, ``points``, ``dimension``) that does not depend on the order of the points.

    ``blocks`` times :class:`~iresnet.bijections.PointNorm` and a permutation-equivariant residual block, then PointNorm, over
    N(0, I). With ``attention`` a residual block of self-attention follows each of these blocks. Without it no parameter depends
    on ``points``: the state of a flow for 32 points loads into one for 256.

    Parameters
    ----------
    dimension : d of a point.
    points : N. log p is of whole clouds, in nats; divided by N it is per point.
    context : width C of the context of a conditional flow, such as indicators of classes; 0 for none. Attention sees none.
    blocks : how often.
    hidden : widths of each branch's hidden layers, for every point.
    lipschitz : bound c of each *branch*, in (0, 1).
    family : how it is held, one of :data:`iresnet.contract.SET_FAMILIES`.
    nonlinearity : an activation by name.
    heads : of attention.

    Raises
    ------
    ValueError
        For arguments that no such flow can have.
    """
    if min(blocks, points, dimension) < 1:
        told = f"blocks={blocks}, points={points}, dimension={dimension}"
        raise ValueError(f"a flow of points needs at least one block, point and dimension, got {told}")
    width = _EMBEDDING if context else 0
    parts: list[Bijection] = []
    for _ in range(blocks):
        parts += [
            PointNorm(dimension, width),
            Residual(set_branch(family, dimension, hidden, lipschitz, nonlinearity, width)),
        ]
        if attention:
            parts.append(Residual(AttentionBranch(dimension, points, heads, lipschitz=lipschitz)))
    parts.append(PointNorm(dimension, width))
    return Flow(
        Chain(parts),
        StandardNormal((points, dimension)),
        context=context,
        embed=nn.Sequential(nn.Linear(context, width), nn.SiLU()) if context else None,
        train_logdet=PowerSeries(terms=2, roulette="adaptive"),
        eval_logdet=Exact() if points * dimension <= _EXACT else PowerSeries(probes=8),
    )
