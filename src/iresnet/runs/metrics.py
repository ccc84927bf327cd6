"""The record of a training run: JSON lines, and TensorBoard's events where that is installed."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import to_json, write_atomic
from .folder import RunFolder

__all__ = ["Metrics"]


class Metrics:
    """A callback that appends each record to ``metrics.jsonl`` and, where TensorBoard is installed, to its event files.

    Going on at ``step`` drops the records after it, which will come again.
    """

    def __init__(self, folder: RunFolder, step: int = 0) -> None:
        path = folder.metrics
        kept = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # a line that a kill cut short
                if 0 < record["step"] <= step:
                    kept.append(line)
        write_atomic(path, "".join(f"{line}\n" for line in kept))
        self._path, self._file = path, path.open("ab", buffering=0)  # nothing held back for a kill to lose
        self._events = _tensorboard(folder.path / "events", step)

    def __call__(self, record: dict[str, Any]) -> None:
        try:
            line = to_json(record, indent=None).encode() + b"\n"
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for key, value in record.items():
                if self._events is not None and isinstance(value, (int, float)) and key not in ("step", "seconds"):
                    self._events.add_scalar(f"{record['split']}/{key}", float(value), record["step"])
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}; free space, then --resume") from error

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._events is not None:
            with suppress(OSError):  # a full disk, which has been told
                self._events.close()


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:  # an extra: iresnet[tensorboard]
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
