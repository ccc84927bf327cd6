"""Progress on a terminal, on standard error, so that standard output stays for results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["TrainingProgress", "counting"]


def _bars(console: Console, transient: bool) -> Progress:
    """Fits into 80 columns, so that nothing wraps."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[clock]}"),
        console=console,
        transient=transient,
    )


class TrainingProgress:
    """A callback that shows the mean log-density of training and of held-out rows, with its error, and the time left.

    On a terminal it is a moving bar; in a log it is one line per validation.

    Parameters
    ----------
    steps : in all.
    figure : turns a mean log-density in nats and its error (0 if unknown) into what is shown, such as bits/dim.
    """

    def __init__(self, steps: int, figure: Callable[[float, float], str], done: int = 0) -> None:
        self.console, self.figure, self.steps = Console(stderr=True), figure, steps
        self.validation = ""
        self.bars = _bars(self.console, transient=False) if self.console.is_terminal else None
        if self.bars is not None:
            self.bars.start()
            self.task = self.bars.add_task("training", total=steps, completed=done, told="", clock="left")

    def __call__(self, record: dict[str, Any]) -> None:
        if record["split"] == "validation":
            # One error in a line that is soon overwritten: those of the estimator and of the finite set are independent.
            known = [error for error in (record["stderr_estimator"], record["stderr_data"]) if not math.isnan(error)]
            self.validation = f"held out {self.figure(record['log_prob'], math.hypot(*known))}"
            if self.bars is None:
                told = f"step {record['step']}/{self.steps}  {self.validation}{'  best' if record['best'] else ''}"
                self.console.print(f"{told}  {record['seconds']:.0f} s", highlight=False, soft_wrap=True)
        elif self.bars is not None:
            number, unit = self.figure(-record["loss"], 0.0).rsplit(" ", 1)
            told = f"train {number}  {self.validation or unit}"
            clock = "left" if record["step"] < self.steps else "in all"
            self.bars.update(self.task, completed=record["step"], told=told, clock=clock)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bars is not None:
            self.bars.stop()


@contextmanager
def counting(name: str, total: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` rows, None if their number is yet to be found out; yields the function that counts them."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with _bars(console, transient=True) as bars:
        task = bars.add_task(name, total=total, told="", clock="left")
        yield lambda rows: bars.update(task, advance=rows)
