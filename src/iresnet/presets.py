"""Named sets of settings: what a task, a kind of data and ``--preset`` change of the defaults.

What they are expected to reach, and in what time, is in docs/command-line.md and docs/images.md.
"""

from __future__ import annotations

from typing import Any

from .errors import UserError

__all__ = ["IMAGE_PRESETS", "PRESETS", "TASKS", "preset_changes"]

Changes = dict[str, Any]

# What a task changes where the data are a table or a toy set.
TASKS: dict[str, Changes] = {
    "density": {},
    "classify": {
        "model.blocks": 8,
        "model.hidden": [64, 64],
        "model.lipschitz": 0.9,
        "model.nonlinearity": "elu",
        "model.whiten": False,
        "train.steps": 600,
        "train.batch_size": 256,
        "train.lr": 3e-3,
        "train.weight_decay": 1e-4,
        "train.smoothing": 0.1,
    },
    "hybrid": {},
}

PRESETS: dict[str, Changes] = {
    "quick": {"model.blocks": 8, "train.steps": 500},
    "small-table": {
        "model.blocks": 8,
        "model.base": "student",
        "train.lr": 5e-3,
        "train.steps": 800,
        "train.validate_every": 20,
    },
    "standard": {},
    "thorough": {"train.steps": 20_000, "train.batch_size": 1024, "train.ema": 0.999},
}

_TINY: Changes = {
    "model.blocks": [4, 4, 4],
    "model.hidden": [48, 48],
    "model.lipschitz": 0.97,
    "model.nonlinearity": "elu",
    "train.steps": 600,
    "train.batch_size": 64,
    "train.lr": 1e-2,
    "train.validation_rows": 200,
    "train.log_every": 10,
    "train.pictures": 4,
    "evaluate.batch_size": 128,
    "evaluate.precision": "float32",
    "evaluate.solver": "Anderson(tol=1e-7)",
    "evaluate.roundtrip": 100,
}
_SMALL: Changes = _TINY | {
    "model.blocks": [6, 6, 6],
    "model.hidden": [64, 64],
    "train.steps": 6000,
    "train.validation_rows": 500,
    "train.ema": 0.998,
    "train.pictures": 8,
}
_PAPER: Changes = _SMALL | {
    "model.blocks": [16, 16, 16],
    "model.hidden": [512, 512],
    "model.lipschitz": 0.98,
    "train.steps": 250_000,
    "train.lr": 1e-3,
    "train.ema": 0.999,
    "train.checkpoint_every": 1000,
    "evaluate.batch_size": 256,
}

_CLASSIFY: Changes = {
    "data.crop": "auto",
    "model.blocks": [4, 4],
    "model.hidden": [32, 32],
    "model.lipschitz": 0.9,
    "model.nonlinearity": "elu",
    "model.split": False,
    "model.head": "linear",
    "train.steps": 4000,
    "train.batch_size": 128,
    "train.lr": 5e-3,
    "train.weight_decay": 1e-4,
    "train.smoothing": 0.1,
    "train.ema": 0.998,
    "evaluate.batch_size": 256,
    "evaluate.roundtrip": 100,
}
# The i-ResNet paper's 54 blocks and training of CIFAR-10; the channels of its branches are not told there for every stage.
_CLASSIFY_PAPER: Changes = _CLASSIFY | {
    "data.crop": 4,
    "data.flip": True,
    "model.blocks": [18, 18, 18],
    "model.hidden": [128, 128],
    "model.pad": 13,
    "model.head": "pool",
    "train.steps": 78_000,
    "train.optimizer": "sgd",
    "train.lr": 0.1,
    "train.weight_decay": 5e-4,
    "train.smoothing": 0.0,
    "train.ema": 0.999,
    "train.checkpoint_every": 1000,
}

# A nat of the label weighs d / 20 nats of density: more bends the flow for little (docs/classification.md).
_HYBRID: Changes = {"model.head": "convolution", "train.weight": 0.05}

# For images, by task; the first of each is what counts where none is named.
IMAGE_PRESETS: dict[str, dict[str, Changes]] = {
    "density": {"tiny": _TINY, "small": _SMALL, "paper": _PAPER},
    "classify": {"tiny": _CLASSIFY, "small": _CLASSIFY | {"train.steps": 12_000, "train.ema": 0.999}, "paper": _CLASSIFY_PAPER},
    "hybrid": {name: preset | _HYBRID for name, preset in (("tiny", _TINY), ("small", _SMALL), ("paper", _PAPER))},
}


def preset_changes(task: str, preset: str | None, *, images: bool) -> Changes:
    """What a task, a kind of data and a preset change of the defaults, by dotted keys.

    Raises
    ------
    UserError
        For a preset that is unknown or not for these data.
    """
    known = IMAGE_PRESETS.get(task, {}) if images else PRESETS
    if preset is not None and preset not in known:
        elsewhere = PRESETS if images else IMAGE_PRESETS["density"]
        if preset in elsewhere:
            kinds = ("tables", "images") if images else ("images", "tables")
            raise UserError(f"preset {preset} is for {kinds[0]}; for {kinds[1]} there are {', '.join(known)}")
        raise UserError(f"unknown preset {preset!r}; known are {', '.join(known)}")
    if images:
        return known[preset or next(iter(known))] if known else {}
    return TASKS.get(task, {}) | (PRESETS[preset] if preset is not None else {})
