"""Memory of a training step: flat in the number of terms, and with recomputation little more than plain backpropagation.

16 blocks of 43-128-128-43 of the Gram family, batch 512, float32. The figure is the peak of what a forward and a backward pass
allocate above what was there before (weights, gradients, data), summed up over all allocations and releases that torch's profiler
records; the size of the process would tell of the allocator's caches instead. It is counted and not timed: a repetition gives the
same number. ``kept`` is what of it autograd keeps from the forward to the backward pass, by its saved-tensor hooks. Plain
backpropagation is that of the same network with a loss of its output alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import iresnet

from .harness import Options, Row, compare

__all__ = ["kept", "peak", "rows"]

FEATURES, BATCH, BLOCKS, HIDDEN = 43, 512, 16, (128, 128)
TERMS = (2, 5, 10, 20, 40)
MIB = 2**20


def peak(loss: Callable[[], Tensor]) -> float:
    """Most MiB that a forward and a backward pass of ``loss`` hold at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        loss().backward()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most / MIB


def kept(loss: Callable[[], Tensor], flow: iresnet.Flow) -> float:
    """MiB that autograd keeps for the backward pass of ``loss``, weights apart; what is kept twice counts once."""
    seen = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())  # kept alive: no address returns
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in flow.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(size for place, (_, size) in seen.items() if place not in weights) / MIB


def rows(options: Options) -> list[Row]:
    """For each number of terms, with recomputation and without."""
    torch.manual_seed(0)
    x = torch.randn(BATCH, FEATURES)
    flow = iresnet.dense_flow(FEATURES, blocks=BLOCKS, hidden=HIDDEN, family="gram")
    flow.initialize(x)
    flow.train()

    def step(logdet: iresnet.PowerSeries | None) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            flow.zero_grad(set_to_none=False)  # gradients stay allocated: they are no part of the figure
            return flow.encode(x).square().sum() if logdet is None else -flow.log_prob(x, logdet=logdet).mean()

        return loss

    def peaks(logdet: iresnet.PowerSeries | None) -> list[float]:
        return [peak(step(logdet))]

    step(iresnet.PowerSeries(terms=2))().backward()
    plain, found = peaks(None), []
    for terms in TERMS:
        logdet = iresnet.PowerSeries(terms=terms)
        slim = replace(logdet, recompute=True)
        if terms == TERMS[0]:
            first, first_slim = peaks(logdet), peaks(slim)
        more = {"terms": terms, "kept": kept(step(logdet), flow)}
        told = f"{terms} terms against {TERMS[0]}"
        found.append(compare(told, "iresnet", "MiB", peaks(logdet), first, target=1.1, at_least=False, **more))
        more["kept"] = kept(step(slim), flow)
        found.append(compare(f"{told}, recompute", "iresnet", "MiB", peaks(slim), first_slim, target=1.1, at_least=False, **more))
        told, plainly = f"{terms} terms, recompute", {"terms": terms, "kept": kept(step(None), flow)}
        found.append(compare(told, "plain backpropagation", "MiB", peaks(slim), plain, target=1.5, at_least=False, **plainly))
    return found
