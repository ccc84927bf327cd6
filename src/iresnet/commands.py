"""What the longer commands do, and how their results are told in words."""

from __future__ import annotations

import math
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .checkpoint import Network
from .config import Config, build_config
from .data import Dataset
from .errors import UserError
from .literals import as_typed
from .numerics.fixed_point import NotConverged
from .parallel import first
from .progress import TrainingProgress, counting, told_in
from .report import plus_minus, write_report
from .rounding import at_most
from .runs import RunFolder, certify_run, draw, evaluate_run, reconstruct_run, train_run
from .runs.building import model_of

__all__ = ["evaluate_command", "in_parts", "reconstruct_command", "scored", "train_command"]


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM ask for a stop after the present step; a second one is not waited for."""
    asked = threading.Event()

    def ask(number: int, frame: Any) -> None:
        # torchrun answers Ctrl-C with a SIGTERM of its own: only a second Ctrl-C is a person who will not wait.
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def figure_of(dataset: Dataset) -> Callable[[float, float], str]:
    """How a mean log-density and its error are told: bits/dim for levels, nats otherwise."""
    import torch

    def told(value: float, error: float) -> str:
        unit = "nats"
        if dataset.schema.discrete:
            zero, one = dataset.schema.bits_per_dim(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
            value, error, unit = zero + (one - zero) * value, abs(one - zero) * error, "bits/dim"
        return f"{plus_minus(value, error) if error > 0 else f'{value:.4g}'} {unit}"

    return told


def train_command(
    options: dict[str, Any],
    out: Path | None,
    *,
    preset: str | None,
    config: Path | None,
    sets: Sequence[str],
    init: Path | None,
    resume: bool,
    quiet: bool,
    command: str,
) -> dict[str, Any] | None:
    """Train, then evaluate, certify, draw and report; None in a process that is not the one to tell.

    Raises
    ------
    UserError
        For bad input.
    """
    if resume:
        given, task = options.pop("data.name", None), options.pop("task", None)
        if preset or config or sets or init or options:
            raise UserError("--resume goes on with the run's own settings: give only --out RUN with it")
        if given and out and given != RunFolder.open(out).config().data.name:
            raise UserError(f"{out} was trained on {RunFolder.open(out).config().data.name}: leave {given} out of --resume")
        if task and out and task != RunFolder.open(out).config().task:
            raise UserError(f"{out} is trained to {RunFolder.open(out).config().task}: leave --task {task} out of --resume")
    start = None if init is None else model_of(init)
    settings = build_config(preset=preset, file=config, options=options, sets=list(sets), start=start)
    if not resume and not settings.data.name:
        raise UserError("what shall be learned? Give DATA: a built-in name such as moons, or the path of a table")
    shown: list[TrainingProgress] = []

    def announce(
        folder: RunFolder, dataset: Dataset, network: Network, used: Config
    ) -> Sequence[Callable[[dict[str, Any]], None]]:
        if not quiet:
            _say(f"{dataset.describe()}\n{_parameters(network)} in {folder.path}")
        for warning in [*dataset.warnings, *_floored(network)]:
            _say(f"warning: {warning}")
        if quiet:
            return ()
        shown.append(TrainingProgress(used.train.steps, told_in(figure_of(dataset)), folder.status().get("step", 0)))
        return shown

    with _stopping() as stop:
        try:
            outcome = train_run(settings, out, resume=resume, init=init, command=command, announce=announce, stop=stop)
        finally:
            for bar in shown:
                bar.close()
    if not outcome.first:
        return None
    folder = outcome.folder
    if not outcome.complete:
        write_report(folder.path)
        text = f"stopped after step {outcome.status['step']}; go on with: iresnet train --resume --out {folder.path}"
        return {"run": str(folder.path), "status": "interrupted", "step": outcome.status["step"], "text": text}
    evaluation, text = _conclude(folder, quiet)
    return {"run": str(folder.path), "status": "finished", "evaluation": evaluation, "text": text}


def _say(text: str) -> None:
    """On standard error; on a terminal wrapped between words."""
    width = shutil.get_terminal_size().columns
    lines = text.splitlines()
    if sys.stderr.isatty():
        lines = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ")]
    print("\n".join(lines), file=sys.stderr)


def _parameters(network: Network) -> str:
    return f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters"


def _floored(network: Network) -> list[str]:
    """What whitening had to raise: directions in which the data have no spread."""
    from .bijections import Whiten

    raised = sum(int(part.floored) for part in network.modules() if isinstance(part, Whiten))
    floor = next((part.floor for part in network.modules() if isinstance(part, Whiten)), 0.0)
    if not raised:
        return []
    told = "1 eigenvalue of the covariance was" if raised == 1 else f"{raised} eigenvalues of the covariance were"
    return [f"whitening: {told} raised to {floor:g} of the largest; the density is unbounded in those directions"]


def _conclude(folder: RunFolder, quiet: bool) -> tuple[dict[str, Any], str]:
    evaluation, text = evaluate_command(folder, "test", None, quiet, report=False)
    told, holds = "every block certified invertible", certify_run(folder)["holds"]
    try:
        if holds:
            evaluation["roundtrip"] = reconstruct_command(folder, None, "test", None, quiet, report=False)[0]
        if holds or folder.config().task == "classify":
            draw(folder)
    except NotConverged as error:  # such as a tolerance below what rounding leaves possible
        told = f"{told}, but an inverse was not found: {error}"
    if not holds:
        told = "NOT certainly invertible: nothing is reconstructed and no samples are drawn"
    write_report(folder.path)
    return evaluation, f"{text}\n{told}; see {folder.path / 'report.html'}"


def evaluate_command(
    folder: RunFolder, split: str, logdet: str | None, quiet: bool, *, report: bool = True
) -> tuple[dict[str, Any], str]:
    """The figures of one split, and a table of them; after training (no ``report``) by the one process that is left."""
    if split not in ("train", "validation", "test"):
        raise UserError(f"--split {split}: it is train, validation or test")
    total = min(folder.status()["data"]["rows"].get(split, 0), folder.config().evaluate.rows or sys.maxsize)
    with counting("evaluating", total, quiet or not first()) as progress:
        content = evaluate_run(folder, split=split, logdet=logdet, progress=progress, together=report)
    if report and first():
        write_report(folder.path)
    return content, _figures(content)


def _figures(content: dict[str, Any]) -> str:
    """A table that fits into 80 columns: each mean with the estimator's error, that of the finite set, and the bias."""
    named = content.get("logdet")
    lines = [
        f"{content['split']} set, {_count(content['rows'])}, {f'{as_typed(named)}, ' if named else ''}{content['seconds']:.1f} s",
        f"  {'':<26} {'mean':>12} {'estimator':>11} {'finite set':>11} {'bias':>10}",
    ]
    if "error" in content:
        wrong, nats = content["error"], content["cross_entropy"]
        lines.append(f"  {'error rate, per cent':<26} {100 * wrong['value']:>12.2f} {'':>11} {_error(100 * wrong['stderr']):>11}")
        lines.append(f"  {'cross-entropy, nats':<26} {nats['value']:>12.4f} {'':>11} {_error(nats['stderr']):>11}")
    return "\n".join([*lines, *(_density_figures(content) if "log_prob" in content else [])])


def _density_figures(content: dict[str, Any]) -> list[str]:
    lines = []
    for name, figure in (("log p, nats per row", content["log_prob"]), ("bits/dim", content["bits_per_dim"])):
        if figure is not None:
            errors = f"{_error(figure['stderr_estimator']):>11} {_error(figure['stderr_data']):>11}"
            bias = f"{at_most(figure['bias'], 1):.1g}"
            lines.append(f"  {name:<26} {figure['value']:>12.4f} {errors} {bias:>10}")
    above = content["nats_above_truth"]
    if above is not None:
        lines.append(f"  {'true log p, same rows':<26} {content['true_log_density']:>12.4f}")
        lines.append(f"  {'nats above the truth':<26} {above['value']:>12.4f} {'':>11} {_error(above['stderr']):>11}")
    nats, bits = content["log_prob"], content["bits_per_dim"]
    for name, value in content["baselines"].items():
        lines.append(f"  {name:<26} {value:>12.4f}")
        if bits is not None and nats["stderr_data"] > 0:  # the same unit for both, by their errors
            other = bits["value"] + (nats["value"] - value) * bits["stderr_data"] / nats["stderr_data"]
            lines.append(f"  {'  in bits/dim':<26} {other:>12.4f}")
    gain = content["nats_above_gaussian"]
    if gain is not None:
        lines.append(f"  {'nats above that Gaussian':<26} {gain['value']:>12.4f} {'':>11} {_error(gain['stderr']):>11}")
    return lines


def scored(content: dict[str, Any]) -> str:
    """What was found of given rows, in a line."""
    parts = [f"{_count(content['rows'])} scored"]
    if "mean_log_prob" in content:
        parts.append(f"mean log p {content['mean_log_prob']:.4f} {_error(content['stderr_data'])} nats")
    if "predicted" in content:
        most = sorted(content["predicted"].items(), key=lambda item: -item[1])[:10]
        parts.append(f"{content['label']} predicted: {', '.join(f'{level} ({number:,})' for level, number in most)}")
    return f"{'; '.join(parts)}; in {content['out']}{in_parts(content)}"


def in_parts(content: dict[str, Any]) -> str:
    """Of an answer in a folder: how it was filled; empty for one in a file."""
    if "parts" not in content:
        return ""
    before = f", {content['parts_before']} of them before" if content["parts_before"] else ""
    parts, count = content["parts"], content["processes"]
    told = f": {parts} part{'s' if parts != 1 else ''}{before}, {count} process{'es' if count != 1 else ''}"
    return f"{told}, {content['seconds']:.1f} s, at most {content['peak_memory_mib']:,.0f} MiB of memory"


def _count(rows: int) -> str:
    return f"{rows:,} row" + ("s" if rows != 1 else "")


def _error(value: float) -> str:
    return "unknown" if value is None or math.isnan(value) else f"+- {value:.2g}"


def reconstruct_command(
    folder: RunFolder, rows: int | None, split: str, solver: str | None, quiet: bool, *, report: bool = True
) -> tuple[dict[str, Any], str]:
    """The way there and back, and its table."""
    if split not in ("train", "validation", "test"):
        raise UserError(f"--split {split}: it is train, validation or test")
    total = min(rows or folder.config().evaluate.roundtrip, folder.status()["data"]["rows"].get(split, 0))
    with counting("inverting", total, quiet) as progress:
        content = reconstruct_run(folder, rows=rows, split=split, solver=solver, progress=progress)
    if report:
        write_report(folder.path)
    used = as_typed(content["solver"])
    lines = [
        f"{content['split']} set, {_count(content['rows'])} there and back, {used}, {content['seconds']:.1f} s",
        f"  largest error of a row       {content['max_error']:.2e}  (flow's units; {content['max_error_user']:.2e} in yours)",
        f"  largest bound of one block   {at_most(content['worst_block_bound'], 3):.2e}  (guaranteed)",
        f"  largest latent error         {content['latent_backward_error']:.2e}  (|encode(x) - z|, float64)",
        f"  evaluations of a branch      {content['steps_mean']:.0f} mean, {content['steps_max']} at most, over all blocks",
    ]
    return content, "\n".join(lines)
