"""How to train: the numbers of the training loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Parameters
    ----------
    steps : optimiser steps in all.
    batch_size : rows a step, over all ranks.
    lr : the peak learning rate; warm-up over ``warmup`` steps, then a cosine to zero.
    weight_decay, clip : weight decay, decoupled under AdamW, and the norm that gradients are clipped to.
    optimizer, momentum : "adamw", or "sgd" with Nesterov's momentum.
    ema : decay of the averaged weights that are validated and kept, reached gradually; 0 for none.
    penalty : lambda of the soft constraint lambda * sum ||W||_2^2 added to the loss. It guarantees nothing.
    seed : of everything random.
    validate_every : steps between validations; None for a twentieth of all.
    patience : validations without a new best after which to stop; None never stops early.
    log_every : steps between training records.
    accumulate : parts that a rank's share of a batch is taken in, one after the other, where memory is short.
    compile : train by compiled kernels, see :func:`iresnet.compile`.
    recompute : keep less for the backward pass and compute it again, see :func:`iresnet.compiling.recompute`.
    precision : of the branches' products in training, "float32" or "bf16", see :func:`iresnet.compiling.bfloat16`.
    """

    steps: int = 2000
    batch_size: int = 512
    lr: float = 5e-3
    warmup: int = 50
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.99
    penalty: float = 0.0
    optimizer: str = "adamw"
    momentum: float = 0.9
    seed: int = 0
    validate_every: int | None = None
    patience: int | None = None
    log_every: int = 20
    accumulate: int = 1
    compile: bool = False
    recompute: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.log_every, self.accumulate) < 1 or not self.lr > 0 or not 0 <= self.ema < 1:
            raise ValueError("training needs steps, batch_size, log_every and accumulate >= 1, lr > 0 and ema in [0, 1)")
        periods = [period for period in (self.validate_every, self.patience) if period is not None]
        if not self.clip > 0 or self.warmup < 0 or self.weight_decay < 0 or self.penalty < 0 or any(p < 1 for p in periods):
            raise ValueError("training needs clip > 0, warmup, weight_decay and penalty >= 0, validate_every and patience >= 1")
        if self.precision not in ("float32", "bf16"):
            raise ValueError(f"precision must be float32 or bf16, got {self.precision!r}")
        if self.optimizer not in ("adamw", "sgd") or not 0 <= self.momentum < 1:
            raise ValueError(f"optimizer must be adamw or sgd, momentum in [0, 1), got {self.optimizer!r} and {self.momentum}")

    def build_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of ``parameters``, fused: one call for all of them, since one for each costs more than it computes."""
        if self.optimizer == "sgd":
            nesterov = self.momentum > 0
            return torch.optim.SGD(
                parameters, lr=self.lr, momentum=self.momentum, nesterov=nesterov, weight_decay=self.weight_decay, fused=True
            )
        return torch.optim.AdamW(parameters, lr=self.lr, betas=(0.9, 0.99), weight_decay=self.weight_decay, fused=True)

    @property
    def validation_period(self) -> int:
        """Steps between validations."""
        return self.validate_every or max(1, self.steps // 20)

    def rate(self, step: int) -> float:
        """The learning rate of that step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, min(self.warmup, self.steps // 4)))
        return self.lr * warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))
