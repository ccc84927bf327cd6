"""Progress on a terminal, on standard error, so that standard output stays for results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

__all__ = ["Count", "TrainingProgress", "counting", "told_in"]


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


def told_in(figure: Callable[[float, float], str]) -> Callable[[dict[str, Any]], str]:
    """The figures of a record in words: its error rate, or its log-density by ``figure`` of mean and error (0 if unknown).

    A hybrid model has both.
    """

    def told(record: dict[str, Any]) -> str:
        wrong, log_prob = record.get("error"), record.get("log_prob")
        words = []
        if wrong is not None:
            error = record.get("stderr_error")
            words.append(f"{100 * wrong:.2f}" + (f" ± {100 * error:.2g}" if error is not None else "") + " % wrong")
        if log_prob is None and wrong is None:
            log_prob = -record["loss"]
        if log_prob is not None:
            # One error in a line that is soon overwritten: those of the estimator and of the finite set are independent.
            errors = [record.get("stderr_estimator", 0.0), record.get("stderr_data", 0.0)]
            words.append(figure(log_prob, math.hypot(*(error for error in errors if not math.isnan(error)))))
        return ", ".join(words)

    return told


class TrainingProgress:
    """A callback that shows the figures of training and of held-out rows, with their errors, and the time left.

    On a terminal it is a moving bar; in a log it is one line per validation.

    Parameters
    ----------
    steps : in all.
    told : the figures of a record in words, with the unit as the last word, such as "2.51 ± 0.03 bits/dim".
    """

    def __init__(self, steps: int, told: Callable[[dict[str, Any]], str], done: int = 0) -> None:
        self.console, self.told, self.steps = Console(stderr=True), told, steps
        self.validation = ""
        self.bars = _bars(self.console, transient=False) if self.console.is_terminal else None
        if self.bars is not None:
            self.bars.start()
            self.task = self.bars.add_task("training", total=steps, completed=done, told="", clock="left")

    def __call__(self, record: dict[str, Any]) -> None:
        if record["split"] == "validation":
            self.validation = f"held out {self.told(record)}"
            if self.bars is None:
                told = f"step {record['step']}/{self.steps}  {self.validation}{'  best' if record['best'] else ''}"
                self.console.print(f"{told}  {record['seconds']:.0f} s", highlight=False, soft_wrap=True)
        elif self.bars is not None:
            number, unit = self.told(record).rsplit(" ", 1)
            told = f"train {number}  {self.validation or unit}"
            clock = "left" if record["step"] < self.steps else "in all"
            self.bars.update(self.task, completed=record["step"], told=told, clock=clock)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bars is not None:
            self.bars.stop()


class Count:
    """Counts what is done, in plain lines: the first after some seconds, then fewer and fewer, for a log is read later."""

    def __init__(self, name: str, total: int | None, console: Console | None, first: float = 10.0, *, unit: str = "rows") -> None:
        self.name, self.total, self.done, self.unit = name, total, 0, unit
        self.console, self.began, self.next = console, time.monotonic(), first

    def __call__(self, rows: int, total: int | None = None, note: str = "") -> None:
        """``rows`` more are done, of ``total`` if that is known by now; ``note`` is told at once."""
        if note and self.console is not None:
            self.console.print(note, highlight=False, soft_wrap=True)
        self.done, self.total = self.done + rows, self.total if total is None else total
        seconds = time.monotonic() - self.began
        if self.console is None or seconds < self.next:
            return
        self.next = max(1.5 * self.next, seconds + 1.0)
        told = f"{self.name} {self.done:,}" + (f"/{self.total:,}" if self.total else "") + f" {self.unit}"
        if self.total and 0 < self.done < self.total:
            told += f"  {100 * self.done // self.total} %"
            if self.done >= 0.02 * self.total:  # earlier the time is that of starting, and what is left seems hours
                told += f"  {seconds * (self.total - self.done) / self.done:.0f} s left"
        self.console.print(f"{told}  {seconds:.0f} s", highlight=False, soft_wrap=True)


@contextmanager
def counting(name: str, total: int | None, quiet: bool, *, unit: str = "rows") -> Iterator[Callable[..., None]]:
    """A bar for ``total`` rows or steps, or plain lines where there is no terminal; yields the function that counts them.

    It is called with a number of rows that are done and, once that is known, the number of all; ``note=`` is a line to tell.
    """
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield Count(name, total, None if quiet else console, unit=unit)
        return
    with _bars(console, transient=True) as bars:
        task = bars.add_task(name, total=total, told="", clock="left")

        def advance(rows: int, total: int | None = None, note: str = "") -> None:
            if note:
                bars.console.print(note, highlight=False, soft_wrap=True)
            bars.update(task, advance=rows)
            if total is not None:
                bars.update(task, total=total)

        yield advance
