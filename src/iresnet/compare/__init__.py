"""Side by side: our flow and the systems that the papers compare to, fitted to the same rows by one loop in the same time.

Each system is a well-kept library's (``pip install 'iresnet[compare]'``) behind one small adapter. :func:`build` makes one of a
given number of parameters, :func:`train` fits it; :func:`compare` does so for all and writes a table, pictures and a page.
"""

from .catalogue import NAMES, build, chosen, entry
from .domain import Domain
from .running import Asked, Comparison, compare
from .system import System, Unable
from .training import Budget, Fitted, settings_for, train

__all__ = [
    "NAMES",
    "Asked",
    "Budget",
    "Comparison",
    "Domain",
    "Fitted",
    "System",
    "Unable",
    "build",
    "chosen",
    "compare",
    "entry",
    "settings_for",
    "train",
]
