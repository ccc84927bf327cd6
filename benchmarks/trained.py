"""Flows trained on scikit-learn's digits (8 x 8, dequantised), and one network in the hands of two libraries."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

import iresnet
from iresnet.contract.base import Bound
from iresnet.numerics.noise import Noise

from .peers import Architecture, Peer, build

__all__ = [
    "FEATURES",
    "LIPSCHITZ",
    "BoundModule",
    "Counter",
    "digit_images",
    "digits",
    "our_flow",
    "our_image_flow",
    "their_flow",
]

FEATURES, LIPSCHITZ = 64, 0.97
BLOCKS, HIDDEN, STEPS, BATCH = 8, (64, 64), 600, 256


@cache
def raw_digits(rows: int) -> tuple[Tensor, Tensor]:
    """Training rows and ``rows`` held-out rows of levels in [0, 17), (N, 64) float64, dequantised."""
    data = iresnet.data.load("digits", seed=0)
    train, test = (part.values + Noise(0, part.rows).uniforms(part.values) for part in (data.train, data.test))
    return train, test.repeat(-(-rows // len(test)), 1)[:rows]


@cache
def digits(rows: int = 500) -> tuple[Tensor, Tensor]:
    """The same, standardised column by column, (N, 64) float32."""
    train, test = raw_digits(rows)
    mean, std = train.mean(0), train.std(0)
    return ((train - mean) / std).float(), ((test - mean) / std).float()


@cache
def digit_images(rows: int) -> tuple[Tensor, Tensor]:
    """The same as images of levels, (N, 1, 8, 8) float32."""
    train, test = (part.float().clamp(max=16.999).reshape(-1, 1, 8, 8) for part in raw_digits(rows))
    return train, test


@cache
def our_flow(family: str, lipschitz: float = LIPSCHITZ) -> iresnet.Flow:
    """Our flow of 8 blocks of 64-64-64-64 after 600 steps, in evaluation mode."""
    torch.manual_seed(0)
    flow = iresnet.dense_flow(FEATURES, blocks=BLOCKS, hidden=HIDDEN, lipschitz=lipschitz, family=family)
    iresnet.fit(flow, digits()[0], steps=STEPS, batch_size=BATCH, seed=0)
    return flow.eval()


@cache
def our_image_flow() -> iresnet.Flow:
    """Our flow of two times 4 convolution blocks of 32 channels after 300 steps on the digits as images, in evaluation mode."""
    torch.manual_seed(0)
    flow = iresnet.image_flow((1, 8, 8), blocks=(4, 4), hidden=32, lipschitz=LIPSCHITZ, levels=17, split=False)
    iresnet.fit(flow, digit_images(1)[0], steps=300, batch_size=BATCH, seed=0)
    return flow.eval()


@cache
def their_flow(name: str) -> Peer:
    """A peer's flow of the same shape after as many steps of Adam, in evaluation mode."""
    torch.manual_seed(0)
    train = digits()[0]
    peer = build(name, Architecture(FEATURES, BLOCKS, HIDDEN, LIPSCHITZ))
    peer.initialize(train[:BATCH])
    optimizer = torch.optim.Adam(peer.parameters(), lr=1e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (-peer.log_prob(train[torch.randint(len(train), (BATCH,))]).mean()).backward()
        optimizer.step()
        peer.settle()
    return peer.eval()


class Counter:
    """Rows that went through something, forwards and backwards."""

    def __init__(self) -> None:
        self.values = self.products = 0


class BoundModule(nn.Module):
    """A bound branch of ours as the module that a peer's residual block asks for; counts evaluations and products with its
    Jacobian, each per row."""

    def __init__(self, bound: Bound, counter: Counter | None = None) -> None:
        super().__init__()
        self.bound, self.counter = bound, counter or Counter()

    def forward(self, x: Tensor) -> Tensor:
        self.counter.values += len(x)
        if x.requires_grad:  # peers take views of gradients, which convolutions may leave in another order
            x = x.clone()
            x.register_hook(Tensor.contiguous)
        value = self.bound(x)
        if value.requires_grad:
            value.register_hook(self._count)
        return value

    def _count(self, gradient: Tensor) -> None:
        self.counter.products += len(gradient)
