"""Files that are either whole or absent: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from .errors import UserError

__all__ = ["cache_folder", "read_json", "to_json", "write_atomic", "write_json"]


def write_atomic(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Write ``content`` to ``path`` so that a crash leaves the old file or the new one, never a part.

    Raises
    ------
    UserError
        If the folder cannot be written to or the disk is full; the old file is then untouched.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except OSError as error:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder") from error
    except BaseException:  # Ctrl-C while writing: leave no part file behind
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    """The process' file mode mask; reading it means setting it, for want of a getter."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def write_json(path: str | os.PathLike[str], content: Any) -> Path:
    """``content`` as indented JSON, atomically; see :func:`to_json`."""
    return write_atomic(path, to_json(content) + "\n")


def to_json(content: Any, indent: int | None = 2) -> str:
    """``content`` as JSON, on one line for ``indent=None``. NaN and infinities, which strict readers refuse, become null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not (value - value == 0.0):
        return None
    return value


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises
    ------
    UserError
        If the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); it may come from another program") from error


def cache_folder() -> Path:
    """Where what can be made again is kept: ``IRESNET_CACHE``, or ``iresnet`` in the platform's folder for caches."""
    if named := os.environ.get("IRESNET_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "iresnet" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "iresnet"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iresnet"
