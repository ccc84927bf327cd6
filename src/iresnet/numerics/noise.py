"""Stateless random numbers: a function of (seed, row, place), the same alone, in any batch, on any rank and any device.

A row's probe is drawn by hashing, so nothing has to be kept, restored or synchronised, and errors of different rows are
independent. The mixing function is that of SplitMix64, in wrapping 64-bit integers, so that all devices agree bit for bit.

References
----------
Fast Splittable Pseudorandom Number Generators (Steele, Lea and Flood, 2014), doi 10.1145/2660193.2660195
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import kernels

__all__ = ["Noise"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_INVERSE = pow(_GOLDEN, -1, 1 << 64)
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The 64-bit pattern of ``value`` as the signed integer that torch stores."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix_tensor(value: Tensor) -> Tensor:
    """The mixing function, in the memory of ``value`` where it can."""
    value = _shift(value, 30).bitwise_xor_(value).mul_(_signed(_FIRST))
    value = _shift(value, 27).bitwise_xor_(value).mul_(_signed(_SECOND))
    return _shift(value, 31).bitwise_xor_(value)


@dataclass(frozen=True)
class Noise:
    """A source of random numbers without state.

    Parameters
    ----------
    seed : the key; two sources with different keys are independent.
    rows : Tensor (B,) of int64 or None. Global numbers of the rows of a batch: every row gets its own numbers. With None all
        rows share the same ones, which makes a log-density deterministic and smooth in x.
    """

    seed: int = 0
    rows: Tensor | None = None

    @classmethod
    def fresh(cls, batch: int, device: torch.device | str = "cpu") -> Noise:
        """A new source seeded by torch's global generator (so ``torch.manual_seed`` rules it), with independent rows."""
        seed = int(torch.randint(0, 2**62, ()))
        return cls(seed, torch.arange(batch, device=device))

    @staticmethod
    def joined(sources: Sequence[Noise]) -> Noise:
        """One source for a batch that has the rows of the first source, then those of the second, and so on.

        Each row gets the numbers that its own source has for it; ``uniform`` and ``at`` of the whole are of no source.

        Raises
        ------
        ValueError
            If a source gives all its rows the same numbers.
        """
        # A row's key is that of row * golden + seed: golden is odd, so that seeds can be moved into rows.
        rows = [source.rows + _signed(source.seed * _INVERSE) for source in sources if source.rows is not None]
        if len(rows) < len(sources):
            raise ValueError("sources without rows have one number for all of them, and no place in a joined batch")
        return Noise(0, torch.cat(rows))

    def at(self, *place: int) -> Noise:
        """The source for a place below this one, such as (block, probe)."""
        key = self.seed
        for index in place:
            key = _mix(key + _GOLDEN * (index + 1))
        return replace(self, seed=key)

    def select(self, rows: Tensor) -> Noise:
        """The source for some rows of the batch (mask or indices)."""
        return self if self.rows is None else replace(self, rows=self.rows[rows])

    def uniform(self) -> float:
        """One number in (0, 1) for the whole batch."""
        return ((_mix(self.seed ^ _GOLDEN) >> 11) + 0.5) / (1 << 53)

    def _words(self, count: int, device: torch.device) -> Tensor:
        """Mixed words, uniform in 64 bits, ``count`` for each row: (B, count), or (1, count) for all rows."""
        columns = torch.arange(1, count + 1, device=device) * _signed(_GOLDEN)
        if self.rows is None:
            return _mix_tensor(columns + _signed(_mix(self.seed)))[None]
        keys = _mix_tensor(_mix_tensor(self.rows.to(device, torch.int64) * _signed(_GOLDEN) + _signed(self.seed)))
        return _mix_tensor(keys[:, None] + columns)

    def signs(self, like: Tensor) -> Tensor:
        """Rademacher signs, +1 or -1 with equal probability, of the shape and dtype of ``like`` (B, *)."""
        count = math.prod(like.shape[1:])
        run = kernels.at_hand()
        if run and self.rows is not None and self.rows.shape == like.shape[:1] and kernels.take(like):
            signs = torch.empty(like.shape, dtype=like.dtype)
            run.signs(self.rows.to("cpu", torch.int64).contiguous(), _signed(self.seed), signs)
            return signs
        # The sign of each byte of a word: one word has eight.
        signs = self._words(-(-count // 8), like.device).view(torch.int8).bitwise_right_shift_(7).bitwise_or_(1)
        return signs[:, :count].to(like.dtype).reshape(signs.shape[0], *like.shape[1:]).expand(like.shape)

    def uniforms(self, like: Tensor) -> Tensor:
        """Uniform numbers in the open interval (0, 1), of the shape and dtype of ``like`` (B, *)."""
        bits = 53 if like.dtype == torch.float64 else 24  # as many as the significand holds, so that 1 is never reached
        words = _shift(self._words(math.prod(like.shape[1:]), like.device), 65 - bits).to(like.dtype)
        return ((words + 0.5) * 2.0 ** (1 - bits)).reshape(words.shape[0], *like.shape[1:]).expand(like.shape)

    def normals(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape and dtype of ``like`` (B, *), by Box and Muller's transform in float64."""
        wide = torch.empty(like.shape, dtype=torch.float64, device=like.device)
        radius = torch.sqrt(-2.0 * torch.log(self.at(0).uniforms(wide)))
        return (radius * torch.cos(2.0 * math.pi * self.at(1).uniforms(wide))).to(like.dtype)
