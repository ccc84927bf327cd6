"""Training as a run: from a configuration to a folder that holds all that came of it, and on again after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import Network, load_state, save, save_state
from ..config import Config
from ..data import Dataset, ImageSchema
from ..errors import UserError
from ..memory import check_step
from ..parallel import Ranks, choose_device, first, ranks
from ..tasks.base import Task
from ..tasks.rows import Rows
from ..train import Callback, Diverged, Settings, Trainer
from .building import begin, build_network, build_task, training_rows
from .folder import RunFolder, fingerprint, load_dataset, machine, rows_of, versions
from .gallery import snapshots
from .metrics import Metrics

__all__ = ["Outcome", "train_run"]


_SMALL = 2**15  # entries of a layer's activations: 512 rows of 64


@dataclass(frozen=True)
class Outcome:
    """What became of a training run: its folder, its status, and whether this process is the one that tells."""

    folder: RunFolder
    status: dict[str, Any]
    first: bool

    @property
    def complete(self) -> bool:
        return self.status["status"] == "finished"


def train_run(
    config: Config,
    out: str | Path | None,
    *,
    resume: bool = False,
    init: str | Path | None = None,
    command: str = "",
    announce: Callable[[RunFolder, Dataset, Network, Config], Sequence[Callback]] = lambda *_: (),
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train as ``config`` says, in the folder ``out``.

    Parameters
    ----------
    resume : go on with the run in ``out``, whose own configuration counts.
    init : a run whose weights to start from.
    command : for ``run.json``: how to do it again.
    announce : called once when all is ready to train; returns further callbacks, such as a progress display.
    stop : asked after each step; True saves and ends, to be resumed.

    Raises
    ------
    UserError
        For bad input, an existing folder, a damaged checkpoint.
    Diverged
        If training meets a number that is not finite; the last good weights are kept.
    """
    folder, tells = RunFolder(Path(out or ".")), first()
    if resume:
        if out is None:
            raise UserError("--resume needs --out RUN: which run to go on with")
        folder = RunFolder.open(out)
        config, init = folder.config(), folder.status().get("init")
        if folder.status().get("status") == "finished":
            return Outcome(folder, folder.status(), tells)
        if tells:
            folder.sweep()
    elif out is not None:
        RunFolder.vacant(out)
    try:
        device = choose_device(config.train.device)
    except ValueError as error:
        raise UserError(str(error)) from error
    with ranks(device) as here:
        here.add(torch.zeros(1, device=device))  # all have looked at the folder before the first makes it
        dataset = folder.dataset() if resume else load_dataset(config)
        _set_threads(config, dataset.features)
        network = build_network(config, dataset).to(device)
        task = build_task(config, network)
        train, validation = training_rows(config, dataset)
        share = config.train.batch_size if device.type == "cpu" else -(-config.train.batch_size // here.count)
        tight = check_step(network, share, device, accumulate=config.train.accumulate)
        dataset.notes.extend([tight] if tight else [])
        going_on = resume and folder.state.exists()  # a run killed before its first save starts again at step 0
        if not going_on:
            # Levels are spread where scales are measured, whatever the task: a constant one has no scale.
            begin(network, rows_of(dataset, "train"), init, config.seed)
        if not resume and config.train.minutes is not None:
            steps = here.add(torch.tensor(_calibrate(task, train, validation, config, here.count), device=device)) // here.count
            config = config.model_copy(update={"train": config.train.model_copy(update={"steps": int(steps)})})
        if not resume:
            if here.first:
                folder = RunFolder.create(out, dataset.name)
                folder.write_config(config)
                told = _describe(config, dataset, network, device, command)
                folder.update(**told, init=None if init is None else str(Path(init).resolve()))
        return _train(config, folder, task, dataset, train, validation, here, announce, stop, going_on, init is not None)


def _set_threads(config: Config, features: int) -> None:
    """The threads that were asked for, or one where matrices are too small to be shared.

    Several threads do not speed up such a step on an idle machine, and on a busy one, where they wait for each other, they make
    it many times slower.
    """
    widest = max(features, *config.model.hidden)
    if config.train.threads is not None:
        torch.set_num_threads(config.train.threads)
    elif config.train.batch_size * widest <= _SMALL:
        torch.set_num_threads(1)


def settings_of(config: Config) -> Settings:
    """The part of a configuration that the training loop reads."""
    train = config.train
    names = (
        "steps",
        "batch_size",
        "lr",
        "warmup",
        "weight_decay",
        "clip",
        "ema",
        "penalty",
        "validate_every",
        "patience",
        "log_every",
        "accumulate",
        "optimizer",
        "momentum",
        "compile",
        "recompute",
        "precision",
    )
    return Settings(seed=config.seed, **{name: getattr(train, name) for name in names})


def _calibrate(task: Task, train: Rows, validation: Rows, config: Config, count: int) -> int:
    """How many steps fit into ``train.minutes``: measured once on a copy, then fixed, so that a resumed run is the same run.

    Each of ``count`` ranks measures with its share of a batch, for itself: what they wait for each other is not in it.
    """
    import copy

    settings = settings_of(config)
    settings = replace(settings, batch_size=-(-settings.batch_size // count))
    trainer = Trainer(copy.deepcopy(task), train, validation.spread(-(-len(validation) // count)), settings)
    trainer.run(until=5)
    began, done = time.monotonic(), trainer.step
    while time.monotonic() - began < 2.0:
        trainer.run(until=trainer.step + 5)
    each = (time.monotonic() - began) / (trainer.step - done)
    began = time.monotonic()
    trainer.validate()
    looks = 20 * (time.monotonic() - began)
    minutes = config.train.minutes or 0.0
    return max(20, int((60 * minutes - looks) / each))


def _describe(config: Config, dataset: Dataset, network: Network, device: torch.device, command: str) -> dict[str, Any]:
    names = list(dataset.schema.names)
    sizes = {split: len(getattr(dataset, split)) for split in ("train", "validation", "test")}
    shape = list(dataset.train.values.shape[1:])
    data = {"name": dataset.name, "kind": dataset.kind, "columns": names, "shape": shape, "rows": sizes}
    # So that later questions are about the same rows: see RunFolder.dataset.
    path = Path(config.data.name)
    place = str(path.resolve()) if path.exists() and dataset.kind != "toy" else None
    data |= {"warnings": dataset.warnings, "path": place, "fingerprint": fingerprint(dataset)}
    recipe = network.recipe
    model = {
        "recipe": recipe["name"],  # type: ignore[index]
        "arguments": recipe["arguments"],  # type: ignore[index]
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "family": "free" if config.model.lipschitz == "free" else config.model.family,
    }
    return {
        "task": config.task,
        "data": data,
        "model": model,
        "versions": versions(),
        "machine": machine(device),
        "seed": config.seed,
        "steps": config.train.steps,
        "step": 0,
        "seconds": 0.0,
        "status": "running",
        "command": command,
    }


def _train(
    config: Config,
    folder: RunFolder,
    task: Task,
    dataset: Dataset,
    train: Rows,
    validation: Rows,
    here: Ranks,
    announce: Callable[..., Sequence[Callback]],
    stop: Callable[[], bool],
    going_on: bool,
    given: bool,
) -> Outcome:
    trainer = Trainer(task, train, validation, settings_of(config), (), here)
    if going_on:
        load_state(trainer, folder.state)
    extra: dict[str, Any] = {"schema": dataset.schema.to_dict()}
    if config.task != "density":
        extra["classes"] = {"name": dataset.label, "levels": list(dataset.levels)}
    metrics = Metrics(folder, trainer.step) if here.first else None
    if metrics is not None:
        trainer.callbacks = [metrics, *announce(folder, dataset, task.network, config)]
        if isinstance(dataset.schema, ImageSchema) and config.train.pictures and config.task != "classify":
            trainer.callbacks.append(snapshots(folder, trainer, dataset.schema, config.train.pictures))
        folder.update(status="running", step=trainer.step)

    def write(current: Trainer) -> None:
        if here.first:
            save(current.best_network(), folder.best, extra=extra)
            save_state(current, folder.state)
            folder.update(step=current.step, seconds=round(current.seconds, 3))

    try:
        if given and not going_on:
            trainer.validate()  # weights that were given to start from compete for the best
        complete = trainer.run(save=write, save_every=config.train.checkpoint_every, stop=stop)
    except Diverged:
        if here.first:
            save(trainer.best_network(), folder.best, extra=extra)
            folder.update(status="diverged", step=trainer.step)
        raise
    finally:
        if metrics is not None:
            metrics.close()
    status = folder.update(status="finished" if complete else "interrupted") if here.first else {"status": "finished"}
    return Outcome(folder, status, here.first)
