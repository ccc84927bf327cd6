"""The parts that the laws run over: every family, activation, depth, width and kind of context, small and in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iresnet.bijections import ActNorm, Chain, Residual, Whiten
from iresnet.contract import NormalizedBranch, SandwichBranch
from iresnet.flow import Flow
from iresnet.models import BASES
from iresnet.testing import randomized

SOUND = ("sandwich", "gram", "frobenius", "bjorck")
MONOTONE = ("relu", "elu", "tanh", "sigmoid", "softplus")
ACTIVATIONS = (*MONOTONE, "lipswish", "clipswish", "maxmin", "sine")
# (features, hidden): the line, one hidden layer, wider than twice d, narrower than d, unequal, three layers.
SHAPES = ((1, (4,)), (2, (6, 6)), (3, (8,)), (5, (2, 4)), (3, (4, 10)), (4, (12, 6, 8)))


def branch(
    family: str,
    features: int = 3,
    hidden: Sequence[int] = (8, 6),
    lipschitz: float = 0.9,
    nonlinearity: str = "elu",
    context: int = 0,
    *,
    seed: int | None = 0,
    scale: float = 1.5,
    **more: Any,
) -> Any:
    """A branch in float64 with random parameters (its own initial ones for ``seed=None``), of any family."""
    torch.manual_seed(1 if seed is None else seed)
    if family == "sandwich":
        made: Any = SandwichBranch(features, hidden, lipschitz, nonlinearity, context)
    else:
        made = NormalizedBranch(features, hidden, lipschitz, nonlinearity, context, family=family, **more)
    made.double()
    if seed is not None:
        randomized(made, scale, seed)
        if family == "free":  # contractive all the same, so that series converge, but nothing says so
            with torch.no_grad():
                for weight in made.weights:
                    weight.mul_(0.4)
    return made.eval()


def rows(count: int, features: int, seed: int = 0, scale: float = 1.5) -> Tensor:
    """Random rows (count, features) in float64."""
    return scale * torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def flow(
    features: int = 2,
    context: int = 0,
    blocks: int = 3,
    family: str = "sandwich",
    base: str = "normal",
    seed: int = 0,
    **more: Any,
) -> Flow:
    """A flow in float64 of whitening, ActNorm and residual blocks with random parameters, set from random data."""
    parts: list[Any] = [Whiten(features)]
    for index in range(blocks):
        made = branch(
            family, features, (8, 8), more.get("lipschitz", 0.8), more.get("nonlinearity", "elu"), context, seed=seed + index
        )
        parts += [ActNorm(features, context), Residual(made)]
    parts.append(ActNorm(features, context))
    made = Flow(
        Chain(parts), BASES[base](features), context=context, **{k: more[k] for k in ("eval_logdet", "solver") if k in more}
    )
    made.double()
    given = None if context == 0 else rows(200, context, seed + 2)
    mix = torch.eye(features, dtype=torch.float64) + 0.4 * rows(features, features, seed + 3, 1.0).tril(-1)
    made.initialize(rows(200, features, seed + 1) @ mix.mT + 0.3, given)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "by_context" in name:
                parameter.copy_(0.1 * rows(*parameter.shape, seed + 4))
            elif "base" in name or "log_scale" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64))
    return made.eval()
