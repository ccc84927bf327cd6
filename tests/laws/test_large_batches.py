"""A large batch is taken in parts: the same numbers and gradients, in bounded memory."""

from __future__ import annotations

import pytest
import torch

from iresnet import Exact, dense_flow
from iresnet.numerics import logdet


@pytest.mark.parametrize("context", [0, 2])
def test_parts_of_a_batch_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch, context: int) -> None:
    torch.manual_seed(0)
    flow = dense_flow(5, context=context, blocks=2, hidden=(8, 8)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x, given = torch.randn(50, 5).double(), torch.randn(50, context).double() if context else None
    found = []
    for entries in (2**23, 25 * 8):  # all rows at once, and eight at a time
        monkeypatch.setattr(logdet, "_ENTRIES", entries)
        flow.zero_grad(set_to_none=True)
        estimate = flow.estimate(x, given, logdet=Exact())
        (estimate.value * torch.linspace(-1, 2, 50)).sum().backward()
        with torch.no_grad():
            again = flow.log_prob(x, given, logdet=Exact())
        gradients = [parameter.grad for parameter in flow.parameters() if parameter.grad is not None]
        found.append([estimate.value.detach(), estimate.stderr, estimate.bias, again, *gradients])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-11)
