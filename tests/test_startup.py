"""Starting is quick: nothing heavy is imported before it is needed, and the public names are all there when asked."""

from __future__ import annotations

import pkgutil
import resource
import statistics
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

import iresnet

HEAVY = ("torch", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib", "PIL", "tensorboard")
LOADED = f"import sys; print(*[name for name in {HEAVY!r} if name in sys.modules], sep=',')"
HELP = """
import sys
from iresnet.cli import main
sys.argv = ["iresnet", "--help"]
try:
    main()
except SystemExit:
    pass
"""


def python(*arguments: str) -> str:
    """Standard output of a fresh interpreter."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light() -> None:
    assert python("-c", f"import iresnet; {LOADED}").strip() == ""


def test_help_is_light() -> None:
    shown, loaded = python("-c", HELP + LOADED).rsplit("\n", 2)[:2]
    assert "train" in shown
    assert loaded == "", f"iresnet --help imports {loaded}"


def test_help_is_quick() -> None:
    """The target is 0.5 s; the limit here leaves room for slow machines.

    Processor time, not wall time: other tests run beside this one and would be measured too.
    """
    spent = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert "train" in python("-m", "iresnet", "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert statistics.median(spent[1:]) < 1.0, f"iresnet --help took {spent} s; the first may still compile bytecode"


@pytest.mark.parametrize("name", iresnet.__all__)
def test_public_names_exist(name: str) -> None:
    assert getattr(iresnet, name) is not None
    assert name in dir(iresnet)


def test_public_names_outlive_imports_of_modules_of_the_same_name() -> None:
    for module in pkgutil.iter_modules(iresnet.__path__):
        if module.name != "__main__":
            import_module(f"iresnet.{module.name}")
    for name in iresnet.__all__:
        expected = name in {"bases", "bijections", "contract", "data", "estimators", "models", "numerics", "testing"}
        assert isinstance(getattr(iresnet, name), ModuleType) == expected, name


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        iresnet.no_such_name  # noqa: B018
