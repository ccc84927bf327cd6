"""Where training broke: which part of a network first meets a number that is not finite."""

from __future__ import annotations

import torch
from torch import nn

from .bijections.chain import ChainTransform
from .flow import Flow
from .tasks.rows import Batch

__all__ = ["Diverged", "first_bad"]


class Diverged(RuntimeError):
    """Training met a number that is not finite. The message names the block; the network holds its last good state."""


def first_bad(network: nn.Module, batch: Batch) -> str:
    """Where a batch first stops being finite; block by block where the network is a flow or has one."""
    for name, parameter in network.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"first in the parameter {name}"
    if not bool(torch.isfinite(batch.x).all()):
        return "in the data itself"
    flow = network if isinstance(network, Flow) else getattr(network, "flow", None)
    if isinstance(flow, Flow):
        with torch.no_grad():
            x = batch.x if flow is network else network.widen(batch.x)  # type: ignore[operator]
            transform = flow.bind(batch.context).transform
            for index, part in enumerate(transform.parts if isinstance(transform, ChainTransform) else (transform,)):
                x = part.forward(x)
                if not bool(torch.isfinite(x).all()):
                    return f"first after block {index}"
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"in the gradient of {name}"
    return "in the loss"
