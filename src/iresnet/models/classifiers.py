"""Classifiers: a flow, a head, and what a Lipschitz coefficient means.

The papers quote a coefficient c. Here ``lipschitz`` bounds each *branch*; the public code of the i-ResNet paper holds each
*layer* to c, so that a branch of n layers has c^n (0.9^3 = 0.73). ``per`` says which is meant. None leaves the weights
unconstrained: the paper's "vanilla" network, of which nothing is guaranteed.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..bijections import Squeeze
from ..classifier import Classifier
from ..heads import HEADS, Convolutions, Pool
from ..recipes import remembered
from .dense import dense_flow
from .images import image_flow

__all__ = ["constraint", "dense_classifier", "image_classifier"]


@remembered
def dense_classifier(
    features: int,
    classes: int,
    context: int = 0,
    blocks: int = 8,
    hidden: Sequence[int] = (64, 64),
    lipschitz: float | None = 0.9,
    per: str = "branch",
    family: str = "sandwich",
    whiten: bool = False,
    *,
    nonlinearity: str = "elu",
    base: str = "normal",
    components: int | None = None,
) -> Classifier:
    """A classifier of vectors: :func:`~iresnet.models.dense_flow` with a linear head on its latents.

    Parameters
    ----------
    features, classes : d and K: x (B, d) to logits (B, K).
    lipschitz : bound c in (0, 1), or None for no constraint and no guarantee, whatever the family.
    per : what c bounds, each "branch" or each "layer".
    whiten : start with a full-covariance whitening, as a flow for density does. It lifts directions of little variance.

    The other parameters are those of :func:`~iresnet.models.dense_flow`.

    Raises
    ------
    ValueError
        For arguments that no such classifier can have.
    """
    hidden = (hidden,) if isinstance(hidden, int) else hidden
    constant, family = constraint(lipschitz, per, len(hidden) + 1, family)
    more = {"nonlinearity": nonlinearity, "base": base, "components": components}
    return Classifier(dense_flow(features, context, blocks, hidden, constant, family, whiten, **more), classes)


@remembered
def image_classifier(
    shape: Sequence[int],
    classes: int,
    blocks: Sequence[int] = (4, 4, 4),
    hidden: Sequence[int] = (64, 64),
    lipschitz: float | None = 0.9,
    per: str = "branch",
    family: str = "sandwich",
    nonlinearity: str = "elu",
    *,
    pad: int = 0,
    head: str = "pool",
    split: bool = False,
    dense: int = 0,
    alpha: float | None = 0.05,
    levels: int = 256,
    base: str = "normal",
    preactivate: bool = False,
) -> Classifier:
    """A classifier of images: :func:`~iresnet.models.image_flow`, and a linear map of its features.

    Parameters
    ----------
    shape, classes : (C, H, W) and K: x (B, C, H, W) on [0, ``levels``) to logits (B, K).
    lipschitz : bound c in (0, 1), or None for no constraint and no guarantee, whatever the family.
    per : what c bounds, each "branch" or each "layer".
    pad : zero channels the image is widened by, as in the i-ResNet paper: more room for features, and no density.
    head : what is done with the latents before the linear map: "linear", nothing; "pool", averages over places; "convolution", an
        ordinary convolution network, for classes that are not linear in latents made for a density.

    The other parameters are those of :func:`~iresnet.models.image_flow`.

    Raises
    ------
    ValueError
        For arguments that no such classifier can have.
    """
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}; there are {', '.join(HEADS)}")
    hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
    constant, family = constraint(lipschitz, per, len(hidden) + 1, family)
    wide = (shape[0] + pad, *shape[1:])
    more = {"split": split, "dense": dense, "alpha": alpha, "levels": levels, "base": base, "preactivate": preactivate}
    flow = image_flow(wide, None, blocks, hidden, constant, family, nonlinearity, **more)
    if head == "linear":
        return Classifier(flow, classes, pad=pad)
    if head == "pool":
        squeezes = sum(type(part) is Squeeze for part in flow.modules())
        return Classifier(flow, classes, Pool(squeezes), 2 * 4**squeezes * wide[0], pad)
    layers = Convolutions(wide)
    return Classifier(flow, classes, layers, layers.width, pad)


def constraint(lipschitz: float | None, per: str, layers: int, family: str) -> tuple[float, str]:
    """The bound of a branch of ``layers`` layers, and the family that holds it, for a coefficient ``per`` branch or layer.

    Raises
    ------
    ValueError
        If ``per`` is neither "branch" nor "layer".
    """
    if per not in ("branch", "layer"):
        raise ValueError(f"a Lipschitz coefficient is per 'branch' or per 'layer', got {per!r}")
    if lipschitz is None:
        return 0.5, "free"  # which ignores the number
    return lipschitz if per == "branch" else lipschitz**layers, family
