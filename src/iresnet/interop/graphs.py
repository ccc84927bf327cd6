"""Programs as files: traced with a batch of any size, written, read back and run by the runtime they are for."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..files import write_atomic
from .programs import Program

__all__ = ["ENDINGS", "KEY", "read_metadata", "run_file", "write_program"]

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
KEY = "iresnet"  # what the metadata are called in a file
_OPSET = 20


def write_program(program: Program, inputs: Sequence[Tensor], path: Path, kind: str, metadata: dict[str, Any]) -> Path:
    """Trace ``program`` at ``inputs``, of which the first dimension is the batch, and write it with its metadata, atomically.

    Raises
    ------
    UserError
        If a package is missing, the flow has a part that cannot be traced, or the file cannot be written.
    """
    needed(kind)
    batch = torch.export.Dim("batch")
    with torch.no_grad(), _quiet():
        try:
            shapes = tuple({0: batch} for _ in inputs)
            traced = torch.export.export(program.eval(), tuple(inputs), dynamic_shapes=shapes)
            content = _onnx(traced, program, inputs, metadata) if kind == "onnx" else _torch(traced, metadata)
        except Exception as error:  # whatever the tracer stumbled upon
            told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise UserError(f"{type(program).__name__} of this flow cannot be exported to {kind}: {told[:300]}") from error
    return write_atomic(path, content)


def _torch(traced: torch.export.ExportedProgram, metadata: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(traced, file, extra_files={f"{KEY}.json": json.dumps(metadata)})
    return file.getvalue()


def _onnx(traced: torch.export.ExportedProgram, program: Program, inputs: Sequence[Tensor], metadata: dict[str, Any]) -> bytes:
    from onnxscript.optimizer import fold_constants, remove_unused_nodes

    names = list(program.inputs[: len(inputs)])
    # The exporter's own optimiser tries every pattern at every node, for minutes where a series was written out; runtimes rewrite
    # what they load anyway, and what it computes from constants is found in a moment.
    found = torch.onnx.export(
        traced,
        dynamo=True,
        opset_version=_OPSET,
        input_names=names,
        output_names=list(program.outputs),
        verbose=False,
        optimize=False,
    )
    assert found is not None
    fold_constants(found.model)
    remove_unused_nodes(found.model)
    found.model.producer_name, found.model.producer_version = KEY, metadata["version"]
    found.model.metadata_props[KEY] = json.dumps(metadata)
    return found.model_proto.SerializeToString()


def run_file(path: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a file's program by the runtime it is for."""
    if path.suffix == ENDINGS["torch"]:
        with torch.no_grad():
            return list(torch.export.load(path).module()(*inputs))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    fed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, fed)]


def read_metadata(path: Path) -> dict[str, Any]:
    """What a file says of its program."""
    if path.suffix == ENDINGS["torch"]:
        extra = {f"{KEY}.json": ""}
        torch.export.load(path, extra_files=extra)
        return json.loads(extra[f"{KEY}.json"])
    import onnx

    return json.loads({one.key: one.value for one in onnx.load(path).metadata_props}[KEY])


def needed(kind: str) -> None:
    """Whether what a format needs is installed. Raises UserError."""
    if kind not in ENDINGS:
        raise UserError(f"the format is onnx or torch, got {kind!r}")
    if kind == "onnx":
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            told = f"exporting to ONNX needs {error.name}: pip install 'iresnet[onnx]', or use the format torch"
            raise UserError(told) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of packages and classes of its own."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
