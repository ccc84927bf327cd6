"""Flows for vectors: whitening, then blocks of activation normalisation and a dense residual branch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..bases import Base, DiagonalNormal, NormalMixture, StandardNormal, StudentT
from ..bijections import ActNorm, Bijection, Chain, Residual, Whiten
from ..contract.branches import dense_branch
from ..flow import Flow
from ..numerics.logdet import Exact, LogDet
from ..numerics.series import PowerSeries
from ..recipes import remembered

__all__ = ["BASES", "dense_flow"]

BASES: dict[str, type[Base]] = {
    "diagonal": DiagonalNormal,
    "mixture": NormalMixture,
    "normal": StandardNormal,
    "student": StudentT,
}

# Up to here the full Jacobian costs less than, or about as much as, an estimate of comparable use: docs/estimators.md.
_EXACT_TRAIN, _EXACT_EVAL = 5, 128


@remembered
def dense_flow(
    features: int,
    context: int = 0,
    blocks: int = 8,
    hidden: Sequence[int] = (64, 64),
    lipschitz: float = 0.97,
    family: str = "sandwich",
    whiten: Tensor | bool | None = None,
    *,
    nonlinearity: str = "tanh",
    base: str = "normal",
    components: int | None = None,
) -> Flow:
    """A residual flow for vectors: whitening, then ``blocks`` times ActNorm and a residual block, then ActNorm.

    Parameters
    ----------
    features : d, the width of x (B, d).
    context : width C of the context of a conditional flow, 0 for none.
    blocks : residual blocks.
    hidden : widths of each branch's hidden layers. One or two have an exact trace, and so estimates of low variance.
    lipschitz : bound c of each *branch*, in (0, 1).
    family : how it is held, one of :data:`iresnet.contract.FAMILIES`. "sandwich" and "gram" are sound.
    whiten : None or True for a full-covariance whitening that ``flow.initialize`` sets; a tensor (N, d) to set it from at once;
        False for none.
    nonlinearity : an activation by name.
    base : "normal" for N(0, I), "diagonal" for learned mean and scale, "student" for heavy tails, "mixture" of normals for
        clusters, spikes and rounded columns, which :func:`iresnet.fit` sets by EM before it trains.
    components : of a mixture base; None for 20.

    Raises
    ------
    ValueError
        For arguments that no such flow can have.
    """
    if blocks < 1:
        raise ValueError(f"a flow needs at least one block, got blocks={blocks}")
    if base not in BASES:
        raise ValueError(f"unknown base {base!r}; known are {', '.join(sorted(BASES))}")
    if components is not None and base != "mixture":
        raise ValueError(f"components={components} is for base='mixture', and the base is {base!r}")
    width = 64 if context else 0
    embed = nn.Sequential(nn.Linear(context, width), nn.SiLU()) if context else None
    hidden = (hidden,) if isinstance(hidden, int) else hidden
    parts: list[Bijection] = [] if whiten is False else [Whiten(features)]
    for _ in range(blocks):
        parts += [
            ActNorm(features, width),
            Residual(dense_branch(family, features, hidden, lipschitz, nonlinearity, width)),
        ]
    parts.append(ActNorm(features, width))
    train, evaluate = _estimators(min(features, *hidden) if hidden else features)
    latent = BASES[base](features) if components is None else NormalMixture(features, components)
    flow = Flow(Chain(parts), latent, context=context, embed=embed, train_logdet=train, eval_logdet=evaluate)
    if isinstance(whiten, Tensor):
        parts[0].initialize(whiten)
    return flow


def _estimators(narrowest: int) -> tuple[LogDet, LogDet]:
    """Exact where that is affordable; else unbiased in training, deterministic with stated errors in evaluation.

    By the narrowest width, of the columns or of a hidden layer, since that is the size of an exact determinant.
    """
    train: LogDet = Exact() if narrowest <= _EXACT_TRAIN else PowerSeries(terms=2, roulette="adaptive")
    return train, Exact() if narrowest <= _EXACT_EVAL else PowerSeries(probes=8)
