"""The reference: a page for each part of the package, made from the tree, so that a new module need not be listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "iresnet"

# The order in which a newcomer reads; parts that are not named here follow, sorted.
READING_ORDER = ("numerics contract bijections bases flow models certify data tasks train checkpoint").split()
NOT_CALLED = {"__init__", "__main__", "cli"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the reference's pages to the navigation."""
    assert config.nav is not None
    pages: list[Any] = [{unit: f"api/{unit}.md"} for unit in pages_of()]
    config.nav.append({"Reference": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Write the reference's pages: a title, then every module of the part by its docstrings."""
    for unit, modules in pages_of().items():
        text = f"# iresnet.{unit}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"
        files.append(File.generated(config, f"api/{unit}.md", content=text))
    return files


def pages_of() -> dict[str, list[str]]:
    """The parts directly under iresnet and the modules each consists of, empty packages left out."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in NOT_CALLED:
            continue
        module = parts[:-1] if parts[-1] == "__init__" else parts
        found.setdefault(parts[0], []).append(".".join(("iresnet", *module)))
    order = {unit: place for place, unit in enumerate(READING_ORDER)}
    return {unit: found[unit] for unit in sorted(found, key=lambda unit: (order.get(unit, len(order)), unit))}
