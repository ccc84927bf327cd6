"""Progress on a terminal, on standard error, so that standard output stays for results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["TrainingProgress", "counting"]


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


class TrainingProgress:
    """A callback that shows step, loss and the last validation with its error, and the time left.

    On a terminal it is a moving bar; in a log it is one line per validation.

    Parameters
    ----------
    steps : in all.
    figure : turns a mean log-density in nats and its errors into what is shown, such as bits/dim.
    """

    def __init__(self, steps: int, figure: Callable[[float, float, float], str], done: int = 0) -> None:
        self.console, self.figure, self.steps = Console(stderr=True), figure, steps
        self.validation = ""
        self.bars = _bars(self.console) if self.console.is_terminal else None
        if self.bars is not None:
            self.bars.start()
            self.task = self.bars.add_task("training", total=steps, completed=done, told="")

    def __call__(self, record: dict[str, Any]) -> None:
        if record["split"] == "validation":
            errors = record["stderr_estimator"], record["stderr_data"]
            estimator = 0.0 if math.isnan(errors[0]) else errors[0]
            self.validation = f"validation {self.figure(record['log_prob'], estimator, errors[1])}"
            if self.bars is None:
                told = f"step {record['step']}/{self.steps}  {self.validation}{'  best' if record['best'] else ''}"
                self.console.print(f"{told}  {record['seconds']:.0f} s", highlight=False)
        elif self.bars is not None:
            told = f"loss {self.figure(-record['loss'], 0.0, 0.0)}  {self.validation}"
            self.bars.update(self.task, completed=record["step"], told=told)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bars is not None:
            self.bars.stop()


@contextmanager
def counting(name: str, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar for ``total`` rows; yields the function that counts them."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda _: None
        return
    with _bars(console) as bars:
        task = bars.add_task(name, total=total, told="")
        yield lambda rows: bars.update(task, advance=rows)
