"""Several processes under torchrun, or one: what training needs to know of them.

``torch.distributed`` is the engine; this only starts it, names the device, adds up numbers, and says when a process is gone.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count as counting

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

__all__ = ["PeerLost", "Ranks", "choose_device", "first", "processes", "ranks"]

# How long a process waits for one that says nothing. One that ended is noticed at once; this is for a machine that is cut off.
_PATIENCE = timedelta(minutes=10)
# How gloo and NCCL tell of it; neither has an exception of its own for all of them.
_SIGNS = ("connection closed", "connection reset", "broken pipe", "timed out", "gloo", "nccl")
_joined = counting()  # so that a process that joins others again does not meet what was said before


class PeerLost(RuntimeError):
    """Another process of the same work ended or does not answer."""


@dataclass(frozen=True)
class Ranks:
    """This process' rank among ``count``, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def add(self, values: Tensor) -> Tensor:
        """The sum over ranks of ``values``, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def part(self, places: Tensor, chunk: int = 1) -> Tensor:
        """This rank's share of ``places``: contiguous, and as even as it gets in whole chunks."""
        share = places[::chunk].tensor_split(self.count)
        before = sum(map(len, share[: self.rank])) * chunk
        return places[before : before + len(share[self.rank]) * chunk]


def processes() -> int:
    """How many processes were started for the same work: 1, or what torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first() -> bool:
    """Whether this is the process, of those that were started together, that talks."""
    return os.environ.get("RANK", "0") == "0"


def choose_device(name: str = "auto") -> torch.device:
    """The device by name; "auto" takes a GPU if there is one.

    Raises
    ------
    ValueError
        For a device that this machine does not have.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not available here; use 'cpu' or 'auto'") from error
    return device


@contextmanager
def ranks(device: torch.device, patience: timedelta = _PATIENCE) -> Iterator[Ranks]:
    """Join the other processes that torchrun started, for as long as the block runs; alone, there is nothing to join.

    Raises
    ------
    PeerLost
        If another process ends before this one is done with it, or does not answer for as long as ``patience``.
    """
    if processes() == 1:
        yield Ranks(0, 1, device)
        return
    started, store = not dist.is_initialized(), None
    try:
        if started:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            store, rank, count = next(rendezvous("env://", timeout=patience))
            store = PrefixStore(f"iresnet-{next(_joined)}", store)
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=patience)
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        if store is not None:
            _leave(store, dist.get_world_size(), patience)
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise PeerLost(f"another of the {processes()} processes ended or does not answer ({_first_line(error)})") from error
    finally:
        if started and dist.is_initialized():
            dist.destroy_process_group()


def _leave(store: PrefixStore, count: int, patience: timedelta) -> None:
    """Wait until all are here: one that closes its sockets early resets those of another that has yet to read its last sum."""
    end = time.monotonic() + patience.total_seconds()
    with suppress(RuntimeError):  # the process that held the store has gone, which it does when all were here
        here = store.add("leaving", 1)
        while here < count and time.monotonic() < end:
            time.sleep(0.01)
            here = store.add("leaving", 0)


def _lost(error: RuntimeError) -> bool:
    known = isinstance(error, dist.DistError) or type(error) is RuntimeError
    return known and any(sign in str(error).lower() for sign in _SIGNS)


def _first_line(error: RuntimeError) -> str:
    """What happened, without the place in the source of who says it."""
    line = str(error).strip().splitlines()[0]
    return re.sub(r"^\[[^\]]*\.\w+:\d+\] *", "", line).split(". ")[0][:160]
