"""Assemblies: plain functions that put a flow together, and remember how, so that a checkpoint can do it again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .bases import Base, DiagonalNormal, StandardNormal, StudentT
from .bijections import ActNorm, Bijection, Chain, Residual, Whiten
from .contract.activations import Activation
from .contract.branches import dense_branch
from .flow import Flow
from .numerics.logdet import Exact, LogDet
from .numerics.series import PowerSeries

__all__ = ["BASES", "dense_flow"]

BASES: dict[str, type[Base]] = {"diagonal": DiagonalNormal, "normal": StandardNormal, "student": StudentT}

# Up to here the full Jacobian costs less than, or about as much as, an estimate of comparable use: docs/estimators.md.
_EXACT_TRAIN, _EXACT_EVAL = 5, 128


def _remembered(assemble: Callable[..., Flow]) -> Callable[..., Flow]:
    """The function, whose result carries ``recipe``: its name and literal arguments, which is what a checkpoint stores."""

    @functools.wraps(assemble)
    def build(*given: Any, **named: Any) -> Flow:
        flow = assemble(*given, **named)
        arguments = inspect.signature(assemble).bind(*given, **named).arguments
        literal = {key: _literal(value) for key, value in arguments.items()}
        flow.recipe = {"name": assemble.__name__, "arguments": literal}  # type: ignore[assignment]
        return flow

    return build


def _literal(value: Any) -> Any:
    if isinstance(value, Tensor):
        return True  # data for whitening: the checkpoint holds its statistics
    if isinstance(value, (tuple, list)):
        return [_literal(item) for item in value]
    if isinstance(value, Activation):
        return type(value).__name__
    return value.item() if isinstance(value, np.generic) else value  # a numpy integer is no JSON


@_remembered
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
    base : "normal" for N(0, I), "diagonal" for learned mean and scale, "student" for heavy tails.

    Raises
    ------
    ValueError
        For arguments that no such flow can have.
    """
    if blocks < 1:
        raise ValueError(f"a flow needs at least one block, got blocks={blocks}")
    if base not in BASES:
        raise ValueError(f"unknown base {base!r}; known are {', '.join(sorted(BASES))}")
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
    train, evaluate = _estimators(features)
    flow = Flow(Chain(parts), BASES[base](features), context=context, embed=embed, train_logdet=train, eval_logdet=evaluate)
    if isinstance(whiten, Tensor):
        parts[0].initialize(whiten)
    return flow


def _estimators(features: int) -> tuple[LogDet, LogDet]:
    """Exact where that is affordable; else unbiased in training, deterministic with stated errors in evaluation."""
    train: LogDet = Exact() if features <= _EXACT_TRAIN else PowerSeries(terms=2, roulette="adaptive")
    return train, Exact() if features <= _EXACT_EVAL else PowerSeries(probes=8)
