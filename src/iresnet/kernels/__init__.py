"""Kernels in C++ for a CPU, made on the machine that runs them: :func:`operations`.

They are compiled once, in some seconds, and kept in the cache folder for this processor, compiler and release of torch.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ..files import cache_folder

__all__ = ["ACTIVATIONS", "DTYPES", "Unavailable", "at_hand", "operations", "take"]

ACTIVATIONS = ("ReLU", "ELU", "Tanh", "Sigmoid")
DTYPES = (torch.float32, torch.float64)
_SOURCES, _HEADERS = ("dense.cpp", "gram.cpp", "inverse.cpp", "noise.cpp"), ("common.h",)
_NATIVE = ("-O3", "-march=native", "-fopenmp", "-std=c++20")


class Unavailable(RuntimeError):
    """There can be no kernels here; the text says why."""


_known: list[Any] = []  # the operations, or the Unavailable that was raised in place of them: neither is found twice


def operations() -> Any:
    """torch's operations of the sources beside this module, compiled if they have not been.

    Raises
    ------
    Unavailable
        Without a C++ compiler that can do it, and on another system than Linux.
    """
    if not _known:
        try:
            _load()
            _known.append(torch.ops.iresnet)
        except Unavailable as reason:
            _known.append(reason)
    if isinstance(_known[0], Unavailable):
        raise _known[0]
    return _known[0]


def at_hand() -> Any:
    """:func:`operations` if this process has asked for them before and has them, or None."""
    return _known[0] if _known and not isinstance(_known[0], Unavailable) else None


def take(tensor: torch.Tensor) -> bool:
    """Whether there are kernels for such a tensor; not inside transforms of torch.func or torch's compiler."""
    if tensor.device.type != "cpu" or tensor.dtype not in DTYPES or torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():  # pyright: ignore[reportAttributeAccessIssue]
        return False
    with suppress(Unavailable):
        return bool(operations())
    return False


def _load() -> None:
    if sys.platform != "linux":
        raise Unavailable("kernels are made on Linux only")
    compiler = shlex.split(os.environ.get("CXX", "")) or [next(filter(shutil.which, ("g++", "clang++", "c++")), "")]
    if shutil.which(compiler[0]) is None:
        raise Unavailable("no C++ compiler was found: install g++, or name one in the environment variable CXX")
    texts = {name: resources.files(__name__).joinpath(name).read_text(encoding="utf-8") for name in (*_SOURCES, *_HEADERS)}
    # What "native" stands for depends on the processor, and folders are shared between machines.
    seen = _run([*compiler, *_NATIVE, "-E", "-v", "-x", "c++", os.devnull])
    told = "\n".join((*texts.values(), torch.__version__, str(torch.compiled_with_cxx11_abi()), seen))
    path = cache_folder() / "kernels" / f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.so"
    if _loaded(path):
        return
    try:
        with _alone(path.parent):  # processes that start together wait for the first
            if not _loaded(path):
                _compile(compiler, texts, path)
                torch.ops.load_library(str(path))
    except OSError:  # no place to keep them: compiled again by the next process
        folder = Path(tempfile.mkdtemp(prefix="iresnet-kernels-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            _compile(compiler, texts, folder / path.name)
            torch.ops.load_library(str(folder / path.name))
        except OSError as error:
            raise Unavailable(f"they could not be written to {folder} or loaded from there: {error}") from error


def _loaded(path: Path) -> bool:
    """Load the library if it is there, whole: half of one would kill the process."""
    with suppress(OSError):
        if path.with_suffix(".sha256").read_text(encoding="utf-8") == _digest(path):
            torch.ops.load_library(str(path))
            return True
    return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, where the file system has locks."""
    import fcntl  # there is none on Windows

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _compile(compiler: list[str], texts: dict[str, str], path: Path) -> None:
    home = Path(torch.__file__).parent
    options = ["-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", f"-I{home / 'include'}"]
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside:

        def build(name: str) -> str:
            file = f"{beside}/{name}"
            _run([*compiler, *_NATIVE, *options, "-c", file, "-o", f"{file}.o"])
            return f"{file}.o"

        for name, text in texts.items():
            Path(beside, name).write_text(text, encoding="utf-8")
        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(build, _SOURCES))
        made = Path(beside, path.name)
        _run([*compiler, *_NATIVE, "-shared", *objects, "-o", str(made), f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu"])
        digest = Path(beside, "digest")
        digest.write_text(_digest(made), encoding="utf-8")
        os.replace(made, path)
        os.replace(digest, path.with_suffix(".sha256"))


def _run(command: list[str]) -> str:
    """What the compiler said."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stderr
    except subprocess.CalledProcessError as error:
        told = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr.strip()[-200:])
        raise Unavailable(f"{command[0]} could not compile them: {told.strip()}") from error
    except OSError as error:
        raise Unavailable(f"{command[0]} could not be run: {error.strerror or error}") from error
