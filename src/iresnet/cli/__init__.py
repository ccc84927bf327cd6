"""The command line: what a person types, turned into calls, and what comes back, turned into words or JSON.

Heavy modules are imported by the command that needs them, so that ``--help`` is quick.
"""

from . import training, using  # the commands, in the order of --help

from . import comparing, exporting, reproducing  # isort: skip
from .app import app, main

__all__ = ["app", "comparing", "exporting", "main", "reproducing", "training", "using"]
