"""The systems by name: where each comes from, what of it may grow, and how it likes to be trained."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from .domain import Domain
from .system import System, count_parameters, seeded

__all__ = ["NAMES", "Entry", "build", "chosen", "default_parameters", "entry", "refusals"]


@dataclass(frozen=True)
class Entry:
    """One system: how tables call it, its library and builder, what grows with the parameters, and its learning rate.

    ``grows`` is "width", "depth", "components" or "" for a size that is not chosen. ``images`` tells whether it can do images of
    more than 128 pixels, and ``why_not`` what is in the way.
    """

    title: str
    library: str
    builder: tuple[str, str]
    grows: str = "width"
    lr: float = 1e-2
    images: bool = True
    why_not: str = ""
    most: int = 2048


_MANY = 128  # pixels
_ZUKO, _NORMFLOWS, _SKLEARN = "zuko_flows", "normflows_flows", "sklearn_models"
_CATALOGUE = {
    "iresnet": Entry("i-ResNet (iresnet)", "iresnet", ("own", "iresnet"), most=512),
    "nice": Entry("NICE", "zuko", (_ZUKO, "nice")),
    "realnvp": Entry("RealNVP", "zuko", (_ZUKO, "realnvp")),
    "glow": Entry("Glow", "normflows", (_NORMFLOWS, "glow")),
    "made": Entry("MADE", "zuko", (_ZUKO, "made")),
    "maf": Entry("MAF", "zuko", (_ZUKO, "maf")),
    "iaf": Entry("IAF", "zuko", (_ZUKO, "iaf"), images=False, why_not="each density takes a pass for every pixel"),
    "nsf": Entry("NSF", "zuko", (_ZUKO, "nsf")),
    "cnf": Entry("FFJORD", "zuko", (_ZUKO, "cnf")),
    "planar": Entry("planar", "normflows", (_NORMFLOWS, "planar"), grows="depth", most=128),
    "radial": Entry("radial", "normflows", (_NORMFLOWS, "radial"), grows="depth", most=128),
    "residual": Entry("Residual (normflows)", "normflows", (_NORMFLOWS, "residual"), lr=3e-3, most=512),
    "gaussian": Entry("Gaussian", "scikit-learn", (_SKLEARN, "gaussian"), grows=""),
    "mixture": Entry(
        "Gaussian mixture",
        "scikit-learn",
        (_SKLEARN, "mixture"),
        grows="components",
        images=False,
        why_not="one full covariance of hundreds of pixels has more parameters than a flow of them",
        most=128,
    ),
    "kde": Entry(
        "kernel density",
        "scikit-learn",
        (_SKLEARN, "kde"),
        grows="",
        images=False,
        why_not="in hundreds of dimensions no row lies within reach of another's kernel",
    ),
}
NAMES = tuple(_CATALOGUE)
_ALSO = {"ffjord": "cnf", "ours": "iresnet", "gmm": "mixture"}


def entry(name: str) -> Entry:
    """What is known of a system. Raises UserError for an unknown name."""
    found = _CATALOGUE.get(_ALSO.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, NAMES, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(NAMES)}"
        raise UserError(f"there is no system named {name!r}; {hint}")
    return found


def chosen(names: Sequence[str] | None, domain: Domain) -> list[str]:
    """The systems asked for, by their own names, without repeats; None for all that can do such data.

    Raises
    ------
    UserError
        For an unknown name, or one that cannot do such data.
    """
    if names is None:
        return [name for name in NAMES if not _refusal(name, domain)]
    found = list(dict.fromkeys(_ALSO.get(name.strip(), name.strip()) for name in names if name.strip()))
    for name in found:
        entry(name)
        if refusal := _refusal(name, domain):
            raise UserError(f"{name} is not for these data: {refusal}; leave it out of --models")
    if not found:
        raise UserError(f"--models names no system; known are {', '.join(NAMES)}")
    return found


def refusals(domain: Domain) -> dict[str, str]:
    """By title, why systems cannot do such data."""
    return {entry(name).title: told for name in NAMES if (told := _refusal(name, domain))}


def _refusal(name: str, domain: Domain) -> str:
    """Why a system cannot do such data, empty if it can."""
    if domain.images and domain.features > _MANY and not entry(name).images:
        return entry(name).why_not
    if domain.features < 2 and name in ("nice", "realnvp", "glow"):
        return "couplings need at least two columns"
    return ""


def build(name: str, domain: Domain, parameters: int | None = None, *, size: int | None = None, seed: int = 0) -> System:
    """An untrained system whose weights are a function of the seed, of about as many ``parameters``, or of a given ``size``.

    ``size`` is what of it grows: hidden width, depth, or the most components. Without both it is that of our own flow's default.
    The size found stands in ``system.size``.

    Raises
    ------
    UserError
        For an unknown name, or a library that is not installed.
    """
    item = entry(name)
    if parameters is not None and parameters < 1:
        raise UserError(f"--params must be at least 1, got {parameters}")
    if size is None and item.grows and not (name == "iresnet" and parameters is None):
        size = _fitting(name, domain, default_parameters(domain) if parameters is None else parameters)
    system = _build(name, domain, size, seed)
    system.size = size
    return system


def default_parameters(domain: Domain) -> int:
    """As many as our own flow has by default for such data."""
    return count_parameters(_build("iresnet", domain, None, 0))


def _build(name: str, domain: Domain, size: int | None, seed: int) -> System:
    item = entry(name)
    module, function = item.builder
    try:
        builder = getattr(importlib.import_module(f".{module}", __package__), function)
    except ImportError as error:
        told = f"this needs {item.library}, which is not installed: pip install 'iresnet[compare]'"
        raise UserError(told) from error
    with seeded(seed):
        return builder(domain, size)


def _fitting(name: str, domain: Domain, parameters: int) -> int:
    """The size at which the number of parameters is nearest to that wanted: it grows with the size, so by bisection."""
    most = entry(name).most
    if entry(name).grows == "components":
        d = domain.features
        return max(1, min(most, parameters // (1 + d + d * (d + 1) // 2)))
    low, high = 1, 2
    while high < most and _count(name, domain, high) < parameters:
        low, high = high, 2 * high
    high = min(high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _count(name, domain, middle) < parameters else (low, middle)
    return min((low, high), key=lambda size: abs(_count(name, domain, size) - parameters))


def _count(name: str, domain: Domain, size: int) -> int:
    return count_parameters(_build(name, domain, size, 0))
