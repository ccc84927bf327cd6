"""Laws of modules: gradients for every parameter, no change in evaluation, copies that answer bit for bit the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..flow import Flow

__all__ = ["check_copies", "check_parameter_gradients", "check_unchanged", "same"]


def same(left: Tensor, right: Tensor) -> bool:
    """Equal bit for bit in shape, dtype and every entry, NaN included."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return bool(((left == right) | ((left != left) & (right != right))).all())


def check_parameter_gradients(module: nn.Module, loss: Callable[[], Tensor], *, unused: tuple[str, ...] = ()) -> None:
    """``loss()`` gives every parameter a finite gradient that is not all zero, but for those whose name contains ``unused``."""
    module.zero_grad(set_to_none=True)
    loss().backward()
    for name, parameter in module.named_parameters():
        if not parameter.numel() or (parameter.grad is None and any(part in name for part in unused)):
            continue
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite"
        if not any(part in name for part in unused):
            assert bool(parameter.grad.any()), f"the gradient of {name} is zero"
    module.zero_grad(set_to_none=True)


def check_unchanged(flow: Flow, x: Tensor, context: Tensor | None = None) -> None:
    """In evaluation nothing that a flow is asked changes it, and asked again it answers bit for bit the same."""
    flow.eval()
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    first = flow.log_prob(x, context)
    one = context[0] if context is not None and context.dim() == 2 else context
    flow.sample(3, one, generator=torch.Generator().manual_seed(1))
    flow.invert(flow.encode(x, context).detach(), context)
    flow.sample_and_log_prob(2, one)
    again = flow.log_prob(x, context)
    after = flow.state_dict()
    assert before.keys() == after.keys(), "the state's names changed"
    changed = [name for name in before if not same(before[name], after[name])]
    assert not changed, f"evaluation changed {', '.join(changed)}"
    assert same(first, again), f"log_prob moved by {float((first - again).abs().max()):.3g} between two calls"


def check_copies(flow: Flow, build: Callable[[], Flow], x: Tensor, context: Tensor | None = None) -> None:
    """A deep copy, a pickled copy and a fresh flow that loads the state strictly answer bit for bit the same, and print alike."""
    flow.eval()
    expected = flow.log_prob(x, context).detach()
    fresh = build()
    fresh.to(flow.base.anchor.dtype)
    fresh.load_state_dict(load_tensors(save_tensors(flow.state_dict())), strict=True)
    fresh.eval()
    copies = {"deepcopy": copy.deepcopy(flow), "pickle": pickle.loads(pickle.dumps(flow)), "load_state_dict": fresh}
    for name, other in copies.items():
        assert repr(other) == repr(flow), f"{name}: another repr"
        found = other.log_prob(x, context).detach()
        assert same(found, expected), f"{name}: log_prob differs by {float((found - expected).abs().max()):.3g}"
