"""What a comparison asks of a density model of any library: to be fitted by one loop, to score rows and to draw new ones.

A :class:`System` sees rows as the data's schema encodes them. What comes before its own layers (whitening of a table, the logit
of pixels) is one bijection, the same for all systems, whose log-determinant is part of every density.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..bijections import Bijection
from ..numerics.elimination import log_abs_det
from ..numerics.fixed_point import Picard
from ..numerics.logdet import Exact
from ..numerics.noise import Noise

__all__ = ["System", "Unable", "count_parameters", "log_prob_by_jacobian", "seeded"]


class Unable(RuntimeError):
    """A system was asked for what it cannot do; the message says why."""


class System(nn.Module, ABC):
    """One density model behind one interface; x is (B, *shape) as encoded, z is (B, *), the rows after ``before``.

    A subclass gives :meth:`density`, and :meth:`latent`, :meth:`data` and :meth:`draw` as far as its library can.

    Attributes
    ----------
    density_kind : whether log p is exact or estimated, in a few words.
    inverse_kind : what is guaranteed of the inverse, in a few words.
    lacks : why a column of the table stays empty, by column: "samples", "roundtrip".
    """

    density_kind: str = "exact"
    inverse_kind: str = "by formula"
    lacks: ClassVar[dict[str, str]] = {}
    size: int | None

    def __init__(self, before: Bijection | None = None) -> None:
        super().__init__()
        self.before, self.size = before, None  # the size is what of the system grows, once chosen: see ``build``
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)

    @property
    def anchor(self) -> Tensor:
        """A tensor of the dtype and on the device in which the system computes."""
        return self._anchor  # type: ignore[return-value]

    @property
    def parameters_counted(self) -> int | None:
        """Numbers that training may change; None where the data themselves are kept."""
        return count_parameters(self)

    # What a library's adapter gives.

    @abstractmethod
    def density(self, z: Tensor, noise: Noise | None) -> Tensor:
        """log-density (B,) of z (B, *), differentiable in the parameters while training."""

    def latent(self, z: Tensor) -> Tensor:
        """Latents (B, *) of z."""
        raise Unable(self.lacks["roundtrip"])

    def data(self, latent: Tensor) -> Tensor:
        """z of latents, by the library's own inverse."""
        raise Unable(self.lacks["roundtrip"])

    def draw(self, count: int) -> Tensor:
        """``count`` new z from torch's global generator."""
        raise Unable(self.lacks["samples"])

    def settle(self, iterations: int = 5) -> None:
        """What the library needs after every change of the weights, such as power iterations."""

    def start(self, z: Tensor) -> None:
        """Data-dependent initialisation of the system's own layers from z (N, *), once."""

    # What a comparison calls.

    def initialize(self, x: Tensor) -> None:
        """Set whitening and the system's own layers from training rows x (N, *), once."""
        with torch.no_grad():
            x = x.to(self.anchor)
            self.start(x if self.before is None else self.before.initialize(x))

    def log_prob(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """log p(x) (B,) in nats as the library computes it: in training mode for gradients, else its best.

        ``noise`` gives each row's estimate its own probes, where there is an estimate that can be told.
        """
        z, log_det = self._enter(x)
        return self.density(z, noise) + log_det

    def score(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """log p(x) (B,) without gradients: the best that can be had of this system, which may cost more than ``log_prob``."""
        with torch.no_grad():
            return self.log_prob(x, noise)

    def judge(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """log p(x) (B,) without gradients, good enough to tell weights apart by."""
        with torch.no_grad():
            return self.log_prob(x, noise)

    def encode(self, x: Tensor) -> Tensor:
        """Latents of x. Raises Unable."""
        with torch.no_grad():
            return self.latent(self._enter(x)[0])

    def decode(self, latent: Tensor) -> Tensor:
        """x of latents, by the library's own inverse with its own stopping rule. Raises Unable."""
        with torch.no_grad():
            return self._leave(self.data(latent))

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """``count`` new rows (count, *shape), a function of the seed. Raises Unable."""
        with torch.no_grad(), seeded(seed):
            return self._leave(self.draw(count))

    def _enter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.before is None:
            return x, x.new_zeros(len(x))
        z, estimate = self.before.bind().forward_and_logdet(x, Exact(), Noise())
        return z, estimate.value

    def _leave(self, z: Tensor) -> Tensor:
        return z if self.before is None else self.before.bind().inverse(z, Picard()).value


def count_parameters(module: nn.Module) -> int:
    """Trainable numbers of a module, without those that a mask sets to zero."""
    total = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    for part in module.modules():
        mask, weight = getattr(part, "mask", None), getattr(part, "weight", None)
        if isinstance(mask, Tensor) and isinstance(weight, nn.Parameter) and mask.shape == weight.shape:
            total -= int((mask == 0).sum())
    return total


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's and numpy's global generators at a seed, and afterwards as they were: other libraries draw from both."""
    import numpy as np

    before: Any = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(before)


def log_prob_by_jacobian(system: System, x: Tensor) -> Tensor:
    """log p(x) (B,) of a system with base N(0, I) over vectors, by the full Jacobian of its encoder: a row for each output."""
    with torch.enable_grad():
        z, log_det = system._enter(x.detach())
        z = z.detach().requires_grad_(True)
        latent = system.latent(z)
        rows = [torch.autograd.grad(latent[:, k].sum(), z, retain_graph=True)[0] for k in range(latent.shape[1])]
    base = torch.distributions.Normal(0.0, 1.0).log_prob(latent.detach()).sum(1)
    return base + log_abs_det(torch.stack(rows, 1)) + log_det
