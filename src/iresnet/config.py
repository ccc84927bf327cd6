"""The configuration of a run: every setting, its default, its limits, and one place where they come together.

Later wins: defaults, those of the task, ``--preset``, ``--config FILE`` (TOML), command-line options, ``--set key=value``.
Keys are dotted by section.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from .contract.branches import FAMILIES
from .data.images import names_images
from .errors import UserError
from .literals import parse_logdet, parse_solver, parse_value
from .models import BASES
from .presets import preset_changes

__all__ = ["Config", "build_config", "keys", "read_toml", "to_toml"]


def _readable(parse: Callable[[str], Any]) -> AfterValidator:
    """Texts that ``parse`` reads, such as the name of an estimator with its arguments."""

    def check(value: str | None) -> str | None:
        if value is not None:
            parse(value)
        return value

    return AfterValidator(check)


_LogDetText = Annotated[str | None, _readable(parse_logdet)]
_SolverText = Annotated[str | None, _readable(parse_solver)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


_Count = Annotated[int, Field(ge=1, le=1000)]


class DataConfig(_Section):
    """Which rows and columns; see ``iresnet train --help``."""

    name: str = ""
    columns: list[str] | None = None
    drop: list[str] = []
    missing: Literal["error", "drop"] = "error"
    label: str | None = None
    context: list[str] = []
    support: dict[str, str] = {}
    dequantize: str | dict[str, float] | None = None
    n: int | None = Field(default=None, ge=10)
    crop: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    flip: bool = False


class ModelConfig(_Section):
    """The network: arguments of an assembly of :mod:`iresnet.models`."""

    blocks: _Count | Annotated[list[_Count], Field(min_length=1)] = 16
    hidden: list[int] = Field(default=[32, 32], min_length=1)
    kind: Literal["iresnet", "resnet", "resnet164"] = "iresnet"
    lipschitz: Annotated[float, Field(gt=0, lt=1)] | Literal["free"] = 0.99
    lipschitz_per: Literal["branch", "layer"] = "branch"
    whiten: bool = True
    family: str = "sandwich"
    nonlinearity: str = "tanh"
    base: str = "normal"
    components: int | None = Field(default=None, ge=1, le=10_000)
    pad: int = Field(default=0, ge=0, le=64)
    head: Literal["linear", "pool", "convolution"] = "pool"
    split: bool = True
    dense: int = Field(default=0, ge=0)
    alpha: Annotated[float, Field(gt=0, lt=0.5)] | Literal["auto", "none"] = "auto"
    preactivate: bool = False

    @field_validator("lipschitz", mode="before")
    @classmethod
    def _lipschitz(cls, value: Any) -> Any:
        return "free" if value is None else value

    @field_validator("alpha", mode="before")
    @classmethod
    def _alpha(cls, value: Any) -> Any:
        return "none" if value is None else value

    @field_validator("family")
    @classmethod
    def _family(cls, value: str) -> str:
        return _among(value, FAMILIES)

    @field_validator("base")
    @classmethod
    def _base(cls, value: str) -> str:
        return _among(value, sorted(BASES))

    @field_validator("hidden")
    @classmethod
    def _hidden(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError("widths must be at least 1")
        return value


class TrainConfig(_Section):
    """How to train: see :class:`iresnet.train.Settings`."""

    steps: int = Field(default=2000, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=512, ge=1)
    lr: float = Field(default=1e-2, gt=0)
    warmup: int = Field(default=50, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.99, ge=0, lt=1)
    penalty: float = Field(default=0.0, ge=0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    weight: float = Field(default=1.0, gt=0)
    logdet: _LogDetText = None
    validate_every: int | None = Field(default=None, ge=1)
    validation_rows: int | None = Field(default=None, ge=1)
    pictures: int = Field(default=0, ge=0)
    patience: int | None = Field(default=None, ge=1)
    log_every: int = Field(default=20, ge=1)
    accumulate: int = Field(default=1, ge=1)
    compile: bool = False
    recompute: bool = False
    precision: Literal["float32", "bf16"] = "float32"
    checkpoint_every: int = Field(default=200, ge=1)
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)


class EvaluateConfig(_Section):
    """How figures are computed."""

    logdet: _LogDetText = None
    solver: _SolverText = None
    batch_size: int = Field(default=1024, ge=1)
    roundtrip: int = Field(default=1000, ge=0)
    rows: int | None = Field(default=None, ge=1)
    precision: Literal["float64", "float32"] = "float64"


class Config(_Section):
    """A whole run."""

    task: Literal["density", "classify", "hybrid"] = "density"
    seed: int = Field(default=0, ge=0, lt=2**63)
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


def _among(value: str, known: tuple[str, ...] | list[str]) -> str:
    if value not in known:
        raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    return value


def build_config(
    *,
    preset: str | None = None,
    file: str | Path | None = None,
    options: dict[str, Any] | None = None,
    sets: list[str] | tuple[str, ...] = (),
    start: dict[str, Any] | None = None,
) -> Config:
    """The configuration from all its sources.

    Parameters
    ----------
    preset : a name of :mod:`iresnet.presets`; those of images are others than those of tables.
    file : a TOML file with sections as in a run folder's ``config.toml``.
    options : dotted keys to values; None values say nothing.
    sets : ``key=value`` texts with dotted keys.
    start : dotted keys to values of a run whose weights are taken over, where no preset is named.

    Raises
    ------
    UserError
        For an unknown preset or key (near ones are named), a file that is not TOML, or a value outside its limits.
    """
    flat: dict[str, Any] = {}
    if file is not None:
        flat |= _flatten(read_toml(file))
    flat |= {key: value for key, value in (options or {}).items() if value is not None}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text!r}: write key=value, such as --set model.blocks=12")
        flat[key.strip()] = parse_value(value)
    tree = Config().model_dump()
    task, name = flat.get("task", "density"), flat.get("data.name", "")
    below = preset_changes(task, preset, images=names_images(name)) if isinstance(task, str) and isinstance(name, str) else {}
    for key, value in (below | ((start or {}) if preset is None else {}) | flat).items():
        _place(tree, key, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:2])  # below come the members of a union
        told = first["msg"].removeprefix("Value error, ")
        raise UserError(f"setting {where}={first.get('input')!r}: {told[0].lower()}{told[1:]}") from error


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, dict) and f"{prefix}{key}" in ("data", "model", "train", "evaluate")
        flat |= _flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def keys() -> list[str]:
    """All dotted keys of a configuration."""
    return list(_flatten(Config().model_dump()))


def _place(tree: dict[str, Any], key: str, value: Any) -> None:
    known = keys()
    section, _, name = key.rpartition(".")
    if key not in known:
        near = difflib.get_close_matches(key, known, 3, 0.4) or [other for other in known if other.endswith(f".{name}")]
        hint = (
            f"; did you mean {' or '.join(near)}?"
            if near
            else f"; sections are {', '.join(sorted({k.split('.')[0] for k in known}))}"
        )
        raise UserError(f"unknown setting {key!r}{hint}")
    (tree[section] if section else tree)[name] = value


def read_toml(path: str | Path) -> dict[str, Any]:
    """The content of a TOML file. Raises UserError if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def to_toml(config: Config) -> str:
    """``config`` as TOML, which has no null: what is not set is left out."""
    return tomli_w.dumps(_without_none(config.model_dump()))


def _without_none(tree: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in tree.items() if v is not None}
