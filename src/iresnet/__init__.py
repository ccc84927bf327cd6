"""Invertible residual networks whose every number is guaranteed or carries its error.

The public names below are imported when first used (PEP 562): ``import iresnet`` costs milliseconds, torch only when
something needs it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import bases, bijections, contract, data, estimators, models, numerics, testing
    from .certify import certify
    from .checkpoint import load, save
    from .compiling import compile
    from .errors import UserError
    from .fitting import fit
    from .flow import Flow
    from .models import dense_flow, image_flow
    from .numerics.anderson import Anderson
    from .numerics.fixed_point import NotConverged, Picard, Solution
    from .numerics.krylov import Krylov
    from .numerics.logdet import Estimate, Exact
    from .numerics.newton import NewtonKrylov
    from .numerics.series import PowerSeries

    __version__: str

__all__ = [
    "Anderson",
    "Estimate",
    "Exact",
    "Flow",
    "Krylov",
    "NewtonKrylov",
    "NotConverged",
    "Picard",
    "PowerSeries",
    "Solution",
    "UserError",
    "__version__",
    "bases",
    "bijections",
    "certify",
    "compile",
    "contract",
    "data",
    "dense_flow",
    "estimators",
    "fit",
    "image_flow",
    "load",
    "models",
    "numerics",
    "save",
    "testing",
]

# Where each public name lives; a public name that is missing here is a submodule.
_HOME = {
    "Anderson": "numerics.anderson",
    "Estimate": "numerics.logdet",
    "Exact": "numerics.logdet",
    "Flow": "flow",
    "Krylov": "numerics.krylov",
    "NewtonKrylov": "numerics.newton",
    "NotConverged": "numerics.fixed_point",
    "Picard": "numerics.fixed_point",
    "PowerSeries": "numerics.series",
    "Solution": "numerics.fixed_point",
    "UserError": "errors",
    "certify": "certify",
    "compile": "compiling",
    "dense_flow": "models",
    "fit": "fitting",
    "image_flow": "models",
    "load": "checkpoint",
    "save": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif name in __all__:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # found once: the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("iresnet")
    except PackageNotFoundError:  # the sources are on the path without having been installed
        return "0+unknown"


class _Package(ModuleType):
    """Keeps ``iresnet.certify`` the function: importing the submodule of that name would bind the module over it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if _HOME.get(name) == name and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
