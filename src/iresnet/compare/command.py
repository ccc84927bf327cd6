"""What ``iresnet compare`` does: fit, measure, draw, and tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..runs.folder import RunFolder
from .display import Display, text
from .domain import Domain
from .drawing import draw
from .page import write_page
from .running import Asked, compare, dataset_of, opened, systems_of

__all__ = ["compare_command"]


def compare_command(asked: Asked, out: Path | None, *, resume: bool, quiet: bool, command: str) -> tuple[dict[str, Any], str]:
    """The content of ``compare.json`` with the folder, and the table in words.

    One thread: the matrices are small, and processor time is then comparable.

    Raises
    ------
    UserError
        For bad input.
    """
    torch.set_num_threads(1)
    if resume:
        before = opened(out)
        asked, command = Asked.read(before["asked"]), before.get("command", command)
    dataset = dataset_of(asked)
    models = systems_of(asked, Domain.of(dataset))  # before there is a folder, which a mistyped name would leave empty
    folder = out if resume and out is not None else RunFolder.create(out, f"compare-{dataset.name}").path
    display = Display(len(models) * asked.seeds, quiet)
    display.announce(f"{dataset.describe()}\nin {folder}")
    for warning in dataset.warnings:
        display.announce(f"warning: {warning}")
    try:
        found = compare(asked, folder, resume=resume, dataset=dataset, hear=display, command=command)
    except KeyboardInterrupt:
        display.announce(f"go on with: iresnet compare --resume --out {folder}")
        raise
    finally:
        display.close()
    draw(found, dataset)
    page = write_page(found)
    return found.content | {"out": str(found.folder), "page": str(page)}, f"{text(found.content)}\n\nOpen {page}"
