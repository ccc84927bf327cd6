"""normflows' flows: planar, radial, Glow for vectors and for images, and its Residual.

Planar and radial maps have a formula in one direction only. Here that direction is from data to latent (``Reverse``), so that
densities are exact, and samples would need a numerical inverse. torchflows has both too, but nothing makes its planar map
invertible, and its radial map takes a distance for each column and adds up d determinants: see docs/compare.md.

| Variational Inference with Normalizing Flows (Rezende and Mohamed, 2015), arXiv 1505.05770
| Glow: Generative Flow with Invertible 1x1 Convolutions (Kingma and Dhariwal, 2018), arXiv 1807.03039
| Residual Flows for Invertible Generative Modeling (Chen et al., 2019), arXiv 1906.02735
| normflows: A PyTorch Package for Normalizing Flows (Stimper et al., 2023), arXiv 2302.12014
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import normflows as nf
import torch
from torch import Tensor, nn

from ..bijections import Bijection
from ..errors import UserError
from ..numerics.noise import Noise
from .domain import Domain
from .system import System, log_prob_by_jacobian

__all__ = ["NormflowsSystem", "OneWay", "ResidualSystem", "glow", "planar", "radial", "residual"]

_STEPS, _BLOCKS = 16, 16  # steps of Glow, and residual blocks as in the library's own example
_MOST = 128  # planar or radial maps, each of which moves little
_IDENTITY = math.log(math.e - 1)  # of a parameter x, where log(1 + exp(x)) = 1
_EXACT = 128  # dimensions up to which a full Jacobian is affordable


class NormflowsSystem(System):
    """A ``NormalizingFlow`` with base N(0, I)."""

    def __init__(self, before: Bijection | None, features: int, flows: Sequence[nn.Module]) -> None:
        super().__init__(before)
        self.model: Any = nf.NormalizingFlow(nf.distributions.DiagGaussian(features, trainable=False), list(flows))

    def start(self, z: Tensor) -> None:
        self.model.log_prob(z)  # ActNorm sets itself from the first batch it sees

    def density(self, z: Tensor, noise: Noise | None) -> Tensor:
        return self.model.log_prob(z)

    def latent(self, z: Tensor) -> Tensor:
        return self.model.inverse(z)

    def data(self, latent: Tensor) -> Tensor:
        return self.model(latent)

    def draw(self, count: int) -> Tensor:
        return self.model.sample(count)[0]


class OneWay(NormflowsSystem):
    """Maps with a formula from data to latent alone."""

    inverse_kind = "exists, no formula"
    lacks = dict.fromkeys(("samples", "roundtrip"), "its maps are invertible, but no formula gives the inverse")

    def data(self, latent: Tensor) -> Tensor:
        return System.data(self, latent)

    def draw(self, count: int) -> Tensor:
        return System.draw(self, count)


class ResidualSystem(NormflowsSystem):
    """``Residual`` of a ``LipschitzMLP`` and ``ActNorm``, whose norms are held by power iteration."""

    inverse_kind = "not certain: norms are estimates"

    def __init__(self, before: Bijection | None, features: int, flows: Sequence[nn.Module]) -> None:
        super().__init__(before, features, flows)
        self.features = features
        estimated = "estimated, 20 terms, one probe"
        self.density_kind = "exact" if features == 2 else f"{estimated}; scored exactly" if features <= _EXACT else estimated

    def start(self, z: Tensor) -> None:
        self.settle(50)
        super().start(z)

    def settle(self, iterations: int = 5) -> None:
        nf.utils.update_lipschitz(self.model, iterations)

    def latent(self, z: Tensor) -> Tensor:
        for flow in reversed(self.model.flows):
            z = flow.iresblock(z) if isinstance(flow, nf.flows.Residual) else flow.inverse(z)[0]
        return z

    def score(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        return log_prob_by_jacobian(self, x) if self.features <= _EXACT else super().score(x, noise)


class GlowImages(System):
    """A ``MultiscaleFlow`` of ``GlowBlock``: its latents are a list, one for each scale."""

    def __init__(self, before: Bijection | None, shape: tuple[int, ...], width: int, steps: int) -> None:
        super().__init__(before)
        channels, height, width_ = shape
        scales = 1 + sum(1 for k in (1, 2) if height % 2**k == width_ % 2**k == 0 and min(height, width_) // 2**k >= 4)
        if scales == 1:
            raise UserError(f"glow needs images whose sides halve at least once, not {height} x {width_}")
        scales -= 1  # each squeezes once
        bases, flows, merges = [], [], []
        for level in range(scales):
            # Level 0 is the innermost: all squeezes, and of each split but the last half of the channels.
            depth = scales - level
            size = channels * 2 ** (depth + 1)
            flows.append([*(nf.flows.GlowBlock(size, width) for _ in range(steps)), nf.flows.Squeeze()])
            side = (height // 2**depth, width_ // 2**depth)
            if level > 0:
                merges.append(nf.flows.Merge())
                bases.append(nf.distributions.DiagGaussian((size // 2, *side), trainable=False))
            else:
                bases.append(nf.distributions.DiagGaussian((size, *side), trainable=False))
        self.model: Any = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)

    def start(self, z: Tensor) -> None:
        self.model.log_prob(z, None)

    def density(self, z: Tensor, noise: Noise | None) -> Tensor:
        return self.model.log_prob(z, None)

    def latent(self, z: Tensor) -> Any:
        return self.model.inverse_and_log_det(z)[0]

    def data(self, latent: Any) -> Tensor:
        return self.model.forward_and_log_det(latent)[0]

    def draw(self, count: int) -> Tensor:
        return self.model.sample(count)[0]


def planar(domain: Domain, depth: int) -> System:
    """``depth`` planar maps, from data to latent."""
    maps = []
    for _ in range(depth):
        # The library replaces w.u by log(1 + exp(w.u)) - 1, which is 0 here: a new map is the identity, in a random direction.
        w = torch.randn(1, domain.features) / domain.features**0.5
        u = _IDENTITY * w / w.square().sum()
        maps.append(nf.flows.Reverse(nf.flows.Planar((domain.features,), u=u, w=w)))
    return OneWay(domain.before(), domain.features, maps)


def radial(domain: Domain, depth: int) -> System:
    """``depth`` radial maps, from data to latent."""
    maps = []
    for _ in range(depth):
        # Strength log(1 + exp(beta)) - |alpha|, which is 0 here: a new map is the identity, around a random point.
        made = nf.flows.Radial((domain.features,))
        made.alpha.data.fill_(1.0)
        made.beta.data.fill_(_IDENTITY)
        maps.append(nf.flows.Reverse(made))
    return OneWay(domain.before(), domain.features, maps)


def glow(domain: Domain, width: int) -> System:
    """Sixteen steps of ActNorm, an LU-parametrised linear map and an affine coupling; images: multi-scale, 1x1 convolutions."""
    if domain.images:
        return GlowImages(domain.before(flat=False), domain.shape, width, _STEPS // 2)
    d = domain.features
    if d < 2:
        raise UserError("glow couples columns with one another and needs at least two")
    flows: list[nn.Module] = []
    for _ in range(_STEPS):
        network = nf.nets.MLP([(d + 1) // 2, width, width, 2 * (d // 2)], init_zeros=True)
        flows += [nf.flows.AffineCouplingBlock(network, scale_map="sigmoid"), _linear(d), nf.flows.ActNorm(d)]
    return NormflowsSystem(domain.before(), d, flows)


def _linear(features: int) -> nn.Module:
    """A rotation to begin with, parametrised by its LU decomposition."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.lu is deprecated")
        return nf.flows.InvertibleAffine(features)


def residual(domain: Domain, width: int) -> System:
    """Sixteen blocks of two hidden layers, each layer bounded by 0.9, as in the library's own example."""
    flows: list[nn.Module] = []
    widths = [domain.features, width, width, domain.features]
    for _ in range(_BLOCKS):
        branch = nf.nets.LipschitzMLP(widths, init_zeros=True, lipschitz_const=0.9)
        flows += [nf.flows.Residual(branch, reduce_memory=True), nf.flows.ActNorm(domain.features)]
    return ResidualSystem(domain.before(), domain.features, flows)
