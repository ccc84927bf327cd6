"""The house stands: imports go down only, low floors need torch alone, names are sorted, files short, no pickles."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "iresnet"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# The floor of every module or package directly under iresnet; a new one must be placed here.
FLOORS = {
    "allocation": 0,
    "errors": 0,
    "files": 0,
    "kernels": 0,
    "numerics": 0,
    "rounding": 0,
    "bijections": 1,
    "contract": 1,
    "bases": 2,
    "certify": 2,
    "compiling": 2,
    "classifier": 2,
    "heads": 2,
    "flow": 2,
    "models": 2,
    "recipes": 2,
    "checkpoint": 3,
    "commands": 3,
    "compare": 3,
    "config": 3,
    "data": 3,
    "explain": 3,
    "fitting": 3,
    "guard": 3,
    "interop": 3,
    "literals": 3,
    "memory": 3,
    "parallel": 3,
    "pictures": 3,
    "presets": 3,
    "progress": 3,
    "report": 3,
    "reproduce": 3,
    "runs": 3,
    "settings": 3,
    "tasks": 3,
    "train": 3,
    "__main__": 4,
    "terminal": 4,
    "cli": 4,
    "estimators": 4,
    "testing": 4,  # the laws look at everything, and nothing in the package looks at them
}
LOW_FLOORS_MAY_IMPORT = {"torch", "numpy", "safetensors", *sys.stdlib_module_names}
LONGEST_FILE = 300


def name_of(path: Path) -> str:
    """src/iresnet/numerics/norms.py -> iresnet.numerics.norms; a package is named by its folder."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def unit_of(module: str) -> str:
    """The part directly under iresnet that a module belongs to; empty for iresnet itself."""
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything imported, inside functions and under TYPE_CHECKING too."""
    package = name_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *([node.module] if node.module else []), alias.name])


def inner_imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, unit) of the imports from the package itself, the unit left empty for the package's own name."""
    for line, name in imports_of(path):
        if name.split(".")[0] == "iresnet" and name != "iresnet.__version__":
            unit = unit_of(name)
            yield line, unit if unit in FLOORS else ""


def place_of(name: str) -> tuple[int, str]:
    """The order of ruff's RUF022 and of sorted imports: CONSTANTS, then Classes, then functions."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


inside = [path for path in SOURCES if path != PACKAGE / "__init__.py"]  # the front door opens onto every floor
over_sources = pytest.mark.parametrize("path", SOURCES, ids=where)
over_inside = pytest.mark.parametrize("path", inside, ids=where)


@over_inside
def test_every_module_has_a_floor(path: Path) -> None:
    assert (path.parent / "__init__.py").is_file(), f"{where(path.parent)} has no __init__.py: it would not be packaged"
    assert unit_of(name_of(path)) in FLOORS, f"place {unit_of(name_of(path))!r} in FLOORS of {Path(__file__).name}"


@over_inside
def test_imports_go_down(path: Path) -> None:
    unit = unit_of(name_of(path))
    for line, other in inner_imports_of(path):
        assert other, f"{where(path)}:{line} imports from iresnet itself: name the module the thing lives in"
        assert FLOORS[other] <= FLOORS[unit], f"{where(path)}:{line}: {unit} must not import {other}, a floor above it"


def test_no_part_imports_itself_through_another() -> None:
    graph: dict[str, set[str]] = {}
    for path in inside:
        unit = unit_of(name_of(path))
        graph.setdefault(unit, set()).update(other for _, other in inner_imports_of(path) if other != unit)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("imports go round in a circle: " + " -> ".join(error.args[1]))


@pytest.mark.parametrize("path", [p for p in inside if FLOORS.get(unit_of(name_of(p)), 0) <= 2], ids=where)
def test_low_floors_need_torch_numpy_and_safetensors_only(path: Path) -> None:
    for line, name in imports_of(path):
        top = name.split(".")[0]
        assert top == "iresnet" or top in LOW_FLOORS_MAY_IMPORT, f"{where(path)}:{line} imports {top}"


@over_sources
def test_public_names_are_listed_and_sorted(path: Path) -> None:
    if path.name == "__main__.py":
        pytest.skip("__main__ is run, not imported")
    body = ast.parse(path.read_text(encoding="utf-8")).body
    if path.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in body):
        return  # a package that is only a folder with a docstring has no names
    lists = [
        ast.literal_eval(node.value)
        for node in body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    assert len(lists) == 1, f"{where(path)} must assign a literal __all__ once"
    names = list(lists[0])
    assert names == sorted(set(names), key=place_of), f"__all__ of {where(path)} is not sorted, or repeats a name"


@over_sources
def test_nothing_is_unpickled(path: Path) -> None:
    """What a user hands over is never executed: arrays and safetensors only."""
    own_bytes_allowed = PACKAGE / "testing" in path.parents  # the law that modules survive pickling
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        place = f"{where(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom) and not own_bytes_allowed:
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}, place
        if isinstance(node, ast.Call) and not own_bytes_allowed:
            assert ast.unparse(node.func) not in {"torch.load", "torch.hub.load"}, place
        if isinstance(node, ast.keyword):
            said = (node.arg, getattr(node.value, "value", None))
            assert said not in {("allow_pickle", True), ("weights_only", False)}, place


@pytest.mark.parametrize("path", [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))], ids=where)
def test_files_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{where(path)} has {lines} lines: one idea a file, at most {LONGEST_FILE}"
