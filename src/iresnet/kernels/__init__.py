"""Kernels in C++ for training on a CPU, made on the machine that runs them: :func:`operations`.

They are compiled once, in some seconds, and kept in the cache folder for this processor, compiler and release of torch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ..files import cache_folder

__all__ = ["ACTIVATIONS", "DTYPES", "Unavailable", "at_hand", "operations"]

ACTIVATIONS = ("ReLU", "ELU", "Tanh", "Sigmoid")
DTYPES = (torch.float32, torch.float64)
_SOURCES = ("dense.cpp", "gram.cpp", "noise.cpp")
_NATIVE = ("-O3", "-march=native", "-fopenmp", "-std=c++20")


class Unavailable(RuntimeError):
    """There can be no kernels here; the text says why."""


_loaded: list[Any] = []


def operations() -> Any:
    """torch's operations of the sources beside this module, compiled if they have not been.

    Raises
    ------
    Unavailable
        Without a C++ compiler that can do it, and on another system than Linux.
    """
    if _loaded:
        return _loaded[0]
    if sys.platform != "linux":
        raise Unavailable("kernels are made on Linux only")
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None or shutil.which(compiler) is None:
        raise Unavailable("no C++ compiler was found: install g++, or name one in the environment variable CXX")
    torch.ops.load_library(_library(compiler))
    _loaded.append(torch.ops.iresnet)
    return _loaded[0]


def at_hand() -> Any:
    """:func:`operations` if this process has asked for them before, or None: for what gives the same bits without them."""
    return _loaded[0] if _loaded else None


def _library(compiler: str) -> str:
    """The path of the compiled library, which is made where there is none."""
    # What "native" stands for depends on the processor, and folders are shared between machines.
    seen = _run([compiler, *_NATIVE, "-E", "-v", "-x", "c++", os.devnull])
    sources = [resources.files(__name__).joinpath(name).read_text(encoding="utf-8") for name in _SOURCES]
    told = "\n".join((*sources, torch.__version__, str(torch.compiled_with_cxx11_abi()), seen))
    name = f"{hashlib.sha256(told.encode()).hexdigest()[:24]}.so"
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError:  # compiled again by the next process
        folder = Path(tempfile.mkdtemp(prefix="iresnet-kernels-"))
    import fcntl  # there is none on Windows

    path = folder / name
    with open(folder / "lock", "w") as lock:  # processes that start together wait for the first
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _compile(compiler, sources, path)
    return str(path)


def _compile(compiler: str, sources: list[str], path: Path) -> None:
    home = Path(torch.__file__).parent
    options = ["-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", f"-I{home / 'include'}"]
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside:

        def build(number: int) -> str:
            file = Path(beside) / _SOURCES[number]
            file.write_text(sources[number], encoding="utf-8")
            _run([compiler, *_NATIVE, *options, "-c", str(file), "-o", f"{file}.o"])
            return f"{file}.o"

        with ThreadPoolExecutor() as pool:
            objects = list(pool.map(build, range(len(sources))))
        made = f"{beside}/{path.name}"
        _run([compiler, *_NATIVE, "-shared", *objects, "-o", made, f"-L{home / 'lib'}", "-lc10", "-ltorch_cpu"])
        os.replace(made, path)


def _run(command: list[str]) -> str:
    """What the compiler said."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace").stderr
    except subprocess.CalledProcessError as error:
        told = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr.strip()[-200:])
        raise Unavailable(f"{command[0]} could not compile them: {told.strip()}") from error
    except OSError as error:
        raise Unavailable(f"{command[0]} could not be run: {error.strerror or error}") from error
