"""Several processes under torchrun, or one: what training needs to know of them.

``torch.distributed`` is the engine; this only starts it, names the device, and adds up numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["Ranks", "choose_device", "ranks"]


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

    def part(self, places: Tensor) -> Tensor:
        """This rank's share of ``places``: contiguous, and as even as it gets."""
        return places.tensor_split(self.count)[self.rank]


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
def ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the other processes that torchrun started, for as long as the block runs; alone, there is nothing to join."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(0, 1, device)
        return
    started = not dist.is_initialized()
    if started:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if started:
            dist.destroy_process_group()
