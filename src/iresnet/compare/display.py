"""What a comparison looks like in a terminal: a bar while it runs, and the table at its end."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from ..report.format import count, duration
from .table import Table, table_of

__all__ = ["Display", "caption", "markdown", "text"]

_WIDE = 160  # columns where no terminal says how many there are


class Display:
    """Hears of a comparison's progress: a moving bar on a terminal's standard error, else a line for each system."""

    def __init__(self, fits: int, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.console, self.quiet, self.fits, self.done, self.last = Console(stderr=True), quiet, fits, 0, ("", -1)
        self.bars: Any = None
        if not quiet and self.console.is_terminal:
            columns = (TextColumn("[bold]{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[told]}"))
            self.bars = Progress(*columns, TimeElapsedColumn(), console=self.console, transient=True)
            self.bars.start()
            self.task = self.bars.add_task("", total=1.0, told="")

    def __call__(self, model: str, seed: int, share: float, told: str) -> None:
        if self.quiet:
            return
        if (model, seed) != self.last:
            self.last, self.done = (model, seed), self.done + 1
            if self.bars is None:
                self.console.print(f"{self.done}/{self.fits} {model}, seed {seed}", highlight=False, soft_wrap=True)
        if told.startswith("failed"):
            self.console.print(f"{model}, seed {seed} {told}", highlight=False, soft_wrap=True, markup=False)
        if self.bars is not None:
            self.bars.update(self.task, completed=min(share, 1.0), description=f"{self.done}/{self.fits} {model}", told=told[:60])

    def announce(self, line: str) -> None:
        """Tell a line that stays."""
        if not self.quiet:
            self.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bars is not None:
            self.bars.stop()


def caption(content: dict[str, Any]) -> str:
    """Under which conditions all rows of the table stand."""
    asked, data = content["asked"], content["data"]
    clock = "processor time" if asked["clock"] == "cpu" else "wall time"
    rows = data["rows"]
    told = [
        f"{data['name']}: {count(rows['train'])} training rows, {count(content['test_rows'])} test rows",
        f"{duration(60 * asked['minutes'])} of training each ({clock}), about {count(content['parameters'])} parameters",
        f"{asked['seeds']} seed{'s' if asked['seeds'] > 1 else ''}",
    ]
    return "; ".join(told) + ". Training time is wall (processor) time; samples and densities are timed by the processor's."


def text(content: dict[str, Any]) -> str:
    """The table for a terminal, with what stands above and below it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Grid

    found = table_of(content)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for place, name in enumerate(found.header):
        words = place in (0, len(found.header) - 1, len(found.header) - 2)
        whole = width >= _WIDE and place < len(found.header) - 2  # in a narrow terminal cells are broken rather than cut
        grid.add_column(name.replace(" ", "\n", 1), justify="left" if words else "right", no_wrap=whole, overflow="fold")
    for row in found.rows:
        grid.add_row(*(cell.replace("[", r"\[") for cell in row))
    console = Console(width=width, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(caption(content), markup=False)
        console.print(grid)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return "\n".join([*lines, *(f"[{place}] {note}" for place, note in enumerate(found.notes, 1))])


def markdown(content: dict[str, Any]) -> str:
    """The table for the documentation."""
    found: Table = table_of(content)
    lines = [f"| {' | '.join(found.header)} |", f"|{'---|' * len(found.header)}"]
    lines += [f"| {' | '.join(row)} |" for row in found.rows]
    notes = "\n".join(f"- [{place}] {note}" for place, note in enumerate(found.notes, 1))
    return "\n".join([caption(content), "", *lines]) + (f"\n\n{notes}" if notes else "")
