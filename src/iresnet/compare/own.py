"""Our own flow as one system among others: the network that ``iresnet train`` builds for the same data."""

from __future__ import annotations

import torch
from torch import Tensor

from ..fitting import start
from ..flow import Flow
from ..models import dense_flow, image_flow
from ..numerics.logdet import Exact, LogDet
from ..numerics.noise import Noise
from ..numerics.series import PowerSeries
from .domain import Domain
from .system import System

__all__ = ["Own", "iresnet"]


class Own(System):
    """A :class:`~iresnet.flow.Flow`, which has its own whitening or logit."""

    inverse_kind = "certified"

    def __init__(self, flow: Flow, domain: Domain) -> None:
        super().__init__(None)
        self.flow = flow
        self.rough: LogDet = Exact() if domain.features <= 10 else PowerSeries(probes=2, tol=1e-3)
        self.density_kind = "exact" if isinstance(flow.eval_logdet, Exact) else "estimated, with its error"

    @property
    def anchor(self) -> Tensor:
        return self.flow.anchor

    def initialize(self, x: Tensor) -> None:
        start(self.flow, x)

    def density(self, z: Tensor, noise: Noise | None) -> Tensor:
        return self.flow.log_prob(z, noise=noise)

    def latent(self, z: Tensor) -> Tensor:
        return self.flow.encode(z)

    def data(self, latent: Tensor) -> Tensor:
        return self.flow.decode(latent)

    def judge(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        with torch.no_grad():
            return self.flow.log_prob(x, noise=noise, logdet=self.rough)

    def sample(self, count: int, seed: int = 0) -> Tensor:
        return self.flow.sample(count, generator=torch.Generator().manual_seed(seed))


def iresnet(domain: Domain, width: int | None = None) -> System:
    """The network of the data's preset, its hidden layers as wide as asked for; None for the preset's own width."""
    model = domain.config.model
    hidden = tuple(width or own for own in model.hidden)
    lipschitz = model.lipschitz
    assert not isinstance(lipschitz, str)
    if domain.images:
        blocks = (model.blocks,) if isinstance(model.blocks, int) else tuple(model.blocks)
        flow = image_flow(
            domain.shape,
            None,
            blocks,
            hidden,
            lipschitz,
            model.family,
            model.nonlinearity,
            alpha=domain.alpha,
            levels=domain.levels,
        )
        return Own(flow, domain)
    assert isinstance(model.blocks, int)
    flow = dense_flow(
        domain.features,
        blocks=model.blocks,
        hidden=hidden,
        lipschitz=lipschitz,
        family=model.family,
        whiten=True,
        nonlinearity=model.nonlinearity,
        base=model.base,
    )
    return Own(flow, domain)
