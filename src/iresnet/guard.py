"""Where training broke: which part of a flow first meets a number that is not finite."""

from __future__ import annotations

import torch

from .bijections.chain import ChainTransform
from .flow import Flow
from .tasks.rows import Batch

__all__ = ["Diverged", "first_bad"]


class Diverged(RuntimeError):
    """Training met a number that is not finite. The message names the block; the flow holds its last good state."""


def first_bad(flow: Flow, batch: Batch) -> str:
    """Where a batch first stops being finite."""
    for name, parameter in flow.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"first in the parameter {name}"
    with torch.no_grad():
        x, transform = batch.x, flow.bind(batch.context).transform
        if not bool(torch.isfinite(x).all()):
            return "in the data itself"
        for index, part in enumerate(transform.parts if isinstance(transform, ChainTransform) else (transform,)):
            x = part.forward(x)
            if not bool(torch.isfinite(x).all()):
                return f"first after block {index}"
    for name, parameter in flow.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"in the gradient of {name}"
    return "in the loss"
