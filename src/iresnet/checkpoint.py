"""Flows on disk: one safetensors file that carries its recipe, and the state a training run goes on from.

A checkpoint folder holds ``model.safetensors``: the weights and, in the file's header, the recipe (an assembly of
:mod:`iresnet.models` by name, with literal arguments), the repr of what it built, and what belongs to the model, such as a
table's schema. One file, renamed into place, cannot be half old and half new. ``recipe.json`` beside it is for people. Nothing
is pickled.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from . import models
from .classifier import Classifier
from .errors import UserError
from .files import write_atomic, write_json
from .flow import Flow

if TYPE_CHECKING:
    from .train import Trainer

__all__ = ["Network", "load", "load_extra", "load_state", "save", "save_state"]

Network = Flow | Classifier | models.ResNet

_MODEL = "model.safetensors"
_HEADER = "iresnet"
_FORMAT = 1
_DTYPES = {str(kind).removeprefix("torch."): kind for kind in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


def save(flow: Network, folder: str | Path, *, extra: dict[str, Any] | None = None) -> Path:
    """Write ``flow``, or a classifier, to ``folder``, atomically; ``extra`` (JSON values) is kept with it.

    How log-determinants are estimated and inverses solved for is not part of a model: a flow that was given estimators or a
    solver of its own is loaded with the assembly's.

    Raises
    ------
    UserError
        If the folder cannot be written to.
    """
    from . import __version__

    header = {
        "format": _FORMAT,
        "version": __version__,
        "recipe": getattr(flow, "recipe", None),
        "dtype": str(flow.anchor.dtype).removeprefix("torch."),
        "repr": repr(flow),
        "extra": extra or {},
    }
    folder = Path(folder)
    tensors = {key: value.detach().cpu().contiguous() for key, value in flow.state_dict().items()}
    write_atomic(folder / _MODEL, save_bytes(tensors, {_HEADER: json.dumps(header)}))
    write_json(folder / "recipe.json", {key: header[key] for key in ("version", "recipe", "dtype", "extra")})
    return folder


def load(folder: str | Path, *, into: Network | None = None, device: str | torch.device = "cpu") -> Network:
    """The flow or classifier that :func:`save` wrote, in evaluation mode; of a run folder the best weights.

    Parameters
    ----------
    into : a flow of the same architecture, for one that was built by hand; None rebuilds it from the recipe.

    Raises
    ------
    UserError
        If there is no checkpoint, the file is damaged, or architecture and weights do not agree.
    """
    path = _find(folder)
    tensors, header = _read(path)
    flow = into if into is not None else _rebuild(header, path)
    if into is None and repr(flow) != header["repr"]:
        raise UserError(
            f"{path}: this version of iresnet ({_version()}) builds another model than {header['version']} did; use that version"
        )
    try:
        flow.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(f"{path}: the weights do not fit this flow: {' '.join(lines[1:3])}") from error
    return flow.to(device).eval()


def load_extra(folder: str | Path) -> dict[str, Any]:
    """What ``extra`` was given to :func:`save`. Raises UserError as :func:`load` does."""
    return _read(_find(folder))[1]["extra"]


def _version() -> str:
    from . import __version__

    return __version__


def _find(folder: str | Path) -> Path:
    folder = Path(folder)
    for path in (folder / "best" / _MODEL, folder / _MODEL):
        if path.is_file():
            return path
    if not folder.exists():
        raise UserError(f"{folder} does not exist; give the folder of a run or of a saved flow")
    if (folder / "run.json").exists():
        raise UserError(
            f"{folder} holds a run that has saved no weights yet; continue it with: iresnet train --resume --out {folder}"
        )
    raise UserError(f"{folder} holds no flow: there is no {_MODEL} in it")


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        data = path.read_bytes()
        tensors = load_bytes(data)
        metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        return tensors, json.loads(metadata[_HEADER])
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); use another copy") from error
    except KeyError as error:
        raise UserError(f"{path} was not written by iresnet: its header holds no recipe") from error


def _rebuild(header: dict[str, Any], path: Path) -> Network:
    recipe = header["recipe"]
    if recipe is None:
        raise UserError(f"{path} holds a flow that was built by hand; build it again and load with into=flow")
    try:
        name, arguments, dtype = recipe["name"], recipe["arguments"], _DTYPES[header["dtype"]]
        assemble: Callable[..., Network] | None = getattr(models, name) if name in models.__all__ else None
        if assemble is None or not callable(assemble):
            raise UserError(f"{path}: iresnet.models has no assembly {name!r}")
        with torch.random.fork_rng():  # the weights drawn here are overwritten: the caller's generator is not to notice
            return assemble(**arguments).to(dtype)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its recipe builds no flow ({error}); build it by hand and load with into=flow") from error


def save_state(trainer: Trainer, path: str | Path, *, extra: dict[str, Any] | None = None) -> Path:
    """All that training goes on from, in one file: weights, averages, best weights, the optimiser's moments, and the counters."""
    tensors = {f"model.{key}": value for key, value in trainer.network.state_dict().items()}
    tensors |= {f"average.{key}": value for key, value in trainer.average.items()}
    tensors |= {f"best.{key}": value for key, value in (trainer.best_state or {}).items()}
    for index, parameter in enumerate(trainer.parameters):
        for key, value in trainer.optimizer.state[parameter].items():
            tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
    counters = {key: getattr(trainer, key) for key in ("step", "best", "since_best", "seconds", "stopped_early", "counted")}
    counters["window"] = trainer.window.tolist()
    header = {"format": _FORMAT, "counters": counters, "ranks": trainer.ranks.count, "extra": extra or {}}
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    return write_atomic(path, save_bytes(contiguous, {_HEADER: json.dumps(header)}))


def load_state(trainer: Trainer, path: str | Path) -> dict[str, Any]:
    """Put ``trainer`` where :func:`save_state` found it; returns ``extra``.

    Raises
    ------
    UserError
        If the file is missing, damaged, or of another model.
    """
    tensors, header = _read(Path(path))

    def part(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

    try:
        trainer.network.load_state_dict(part("model."))
    except RuntimeError as error:
        raise UserError(f"{path} belongs to another model than the configuration describes") from error
    device = trainer.task.anchor.device
    for key, value in part("average.").items():
        trainer.average[key].copy_(value)
    best = part("best.")
    trainer.best_state = {key: value.to(device) for key, value in best.items()} if best else None
    for index, parameter in enumerate(trainer.parameters):
        state = part(f"optimizer.{index}.")
        trainer.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
    counters = header["counters"]
    trainer.window = torch.tensor(counters.pop("window"), dtype=torch.float64, device=trainer.window.device)
    for key, value in counters.items():
        setattr(trainer, key, value)
    trainer.remember()
    if header["ranks"] != trainer.ranks.count:
        told = f"{header['ranks']} process(es) before and {trainer.ranks.count} now"
        warnings.warn(f"{told}: the run goes on equal to rounding, not bit for bit", UserWarning, stacklevel=2)
    return header["extra"]
