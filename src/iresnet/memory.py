"""How much memory training on images will take, and whether there is so much: told before it begins.

An estimate from shapes alone, with factors measured on a CPU: within a third of the peak from 28 x 28 to 256 x 256 pixels, 1 to
512 images a step. Two things take memory: the activations of a step, which grow with the batch, and the bounds of convolutions,
which grow with the resolution alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from .bijections import Residual
from .contract.conv_branches import ConvBranch
from .errors import UserError

__all__ = ["available", "check_images", "check_step", "step_bytes"]

_ACTIVATION = 18  # bytes for each entry of a branch's input and hidden layers, in float32: kept, and on the way back
_BOUND = 14  # bytes for each entry of the matrices of a spectrum, on four tori of half as many frequencies as places
_BASE = 100 * 2**20


def step_bytes(network: nn.Module, rows: int) -> tuple[int, int]:
    """About how many bytes a step of ``rows`` images takes, and how many of them whatever the rows; zeros if none."""
    entries = bounds = 0
    for part in network.modules():
        if isinstance(part, Residual) and isinstance(part.branch, ConvBranch):
            channels, height, width = part.branch.shape
            entries += (channels + sum(part.branch.hidden)) * height * width
            if part.branch.guarantee == "sound":
                sizes = [min(outputs, inputs) for outputs, inputs, taps, _ in part.branch.kernel_shapes() if taps > 1]
                bounds += sum(size**2 for size in sizes) * 2 * (height + 1) * (width + 1)
    fixed = _BASE + _BOUND * bounds if entries else 0
    return fixed + _ACTIVATION * entries * rows, fixed


def available(device: torch.device) -> int | None:
    """Bytes that are free on a device, for a process in a container those that it may have; None if that cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = [_machine(), _container()]
    return min((count for count in free if count is not None), default=None) if device.type == "cpu" else None


def _machine() -> int | None:
    """What Linux could give without swapping; elsewhere all memory there is."""
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What is left of a control group's limit (version 2); None without one."""
    try:
        limit, used = int((folder / "memory.max").read_text()), int((folder / "memory.current").read_text())
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit - used + int(fields.get("inactive_file", 0))  # cached files are given up when memory is needed
    except (OSError, ValueError):
        return None


def check_step(network: nn.Module, rows: int, device: torch.device, *, accumulate: int = 1) -> str | None:
    """A warning where a training step of ``rows`` images, in ``accumulate`` parts, would take more than half of what is free.

    Raises
    ------
    UserError
        If it would take more than there is.
    """
    free = available(device)
    needed, fixed = step_bytes(network, -(-rows // accumulate))
    if free is None or needed <= free / 2:
        return None
    parts = next((count for count in (2**k for k in range(20)) if step_bytes(network, -(-rows // count))[0] <= free / 2), None)
    if parts is None or parts > rows:
        advice = f"{_told(fixed)} of it whatever the batch, for images of this size: make them smaller, or the network"
    else:
        advice = f"take it in parts, with --set train.accumulate={parts}, or lower train.batch_size, now {rows}"
    if needed > free:
        raise UserError(f"a training step would take about {_told(needed)} of memory, and {_told(free)} are free: {advice}")
    return f"a training step takes about {_told(needed)} of memory, and {_told(free)} are free; if that is too little, {advice}"


def check_images(count: int, size: int, place: str) -> None:
    """Refuse ``count`` images of ``size`` bytes that could not be decoded: each is held up to three times meanwhile.

    Raises
    ------
    UserError
        If they would take more memory than is free.
    """
    free, needed = available(torch.device("cpu")), 3 * count * size
    if free is not None and needed > free:
        told = f"{_told(needed)} of memory, and {_told(free)} are free"
        raise UserError(f"decoding the {count:,} images of {place} would take about {told}: make them smaller, or take fewer")


def _told(count: int) -> str:
    return f"{count / 2**30:.2g} GiB" if count < 10 * 2**30 else f"{count / 2**30:,.0f} GiB"
