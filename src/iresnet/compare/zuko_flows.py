"""zuko's flows with its defaults but for widths: NICE, RealNVP, MADE, MAF, IAF, neural splines and the continuous flow.

| NICE: Non-linear Independent Components Estimation (Dinh, Krueger and Bengio, 2014), arXiv 1410.8516
| Density estimation using Real NVP (Dinh, Sohl-Dickstein and Bengio, 2016), arXiv 1605.08803
| MADE: Masked Autoencoder for Distribution Estimation (Germain, Gregor, Murray and Larochelle, 2015), arXiv 1502.03509
| Masked Autoregressive Flow for Density Estimation (Papamakarios, Pavlakou and Murray, 2017), arXiv 1705.07057
| Improving Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), arXiv 1606.04934
| Neural Spline Flows (Durkan, Bekasov, Murray and Papamakarios, 2019), arXiv 1906.04032
| FFJORD (Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud, 2018), arXiv 1810.01367
| zuko (Rozet et al., 2022), doi 10.5281/zenodo.7625672
"""

from __future__ import annotations

from typing import Any

import torch
import zuko
from torch import Tensor
from zuko.flows import CNF, MAF, NICE, NSF, RealNVP
from zuko.lazy import LazyInverse, UnconditionalTransform
from zuko.transforms import AdditiveTransform, MonotonicAffineTransform

from ..bijections import Bijection
from ..numerics.noise import Noise
from .domain import Domain
from .system import System, seeded

__all__ = ["Continuous", "ZukoSystem", "cnf", "iaf", "made", "maf", "nice", "nsf", "realnvp"]

_COUPLINGS, _LAYERS, _SPLINES = 8, 5, 3  # transforms of couplings, of MAF and IAF (as in the papers), and of splines
_TRACE = 8  # features up to which the trace of the continuous flow is exact while training
_EVALUATED = 128  # and when it is evaluated


class ZukoSystem(System):
    """A lazy flow of zuko's: a distribution is built for each call."""

    def __init__(self, before: Bijection | None, flow: zuko.lazy.Flow) -> None:
        super().__init__(before)
        self.flow: Any = flow

    def density(self, z: Tensor, noise: Noise | None) -> Tensor:
        return self.flow().log_prob(z)

    def latent(self, z: Tensor) -> Tensor:
        return self.flow().transform(z)

    def data(self, latent: Tensor) -> Tensor:
        return self.flow().transform.inv(latent)

    def draw(self, count: int) -> Tensor:
        return self.flow().sample((count,))


class Continuous(ZukoSystem):
    """A ``CNF``, solved to the library's tolerances; the trace is exact where that is affordable, else Hutchinson's."""

    inverse_kind = "to the solver's tolerance"

    def __init__(self, before: Bijection | None, flow: CNF, features: int) -> None:
        super().__init__(before, flow)
        self.features = features
        self.density_kind = "exact to the solver's tolerance" if features <= _EVALUATED else "estimated, one probe"

    def density(self, z: Tensor, noise: Noise | None) -> Tensor:
        limit = _TRACE if self.training else _EVALUATED
        self.flow.transform.exact = exact = self.features <= limit
        if exact or self.training or noise is None or noise.rows is None or len(z) == 0:
            return self.flow().log_prob(z)
        # The library draws the probes of a batch from torch's own generator: a function of the batch, not of each row.
        with seeded(noise.at(int(noise.rows[0])).seed):
            return self.flow().log_prob(z)


def nice(domain: Domain, width: int) -> System:
    """Eight additive couplings and a scale for each column."""
    flow: Any = NICE(
        domain.features, transforms=_COUPLINGS, univariate=AdditiveTransform, shapes=((),), hidden_features=(width, width)
    )
    zeros = torch.zeros(domain.features), torch.zeros(domain.features)
    flow.transform.transforms.append(UnconditionalTransform(MonotonicAffineTransform, *zeros))
    return ZukoSystem(domain.before(), flow)


def realnvp(domain: Domain, width: int) -> System:
    """Eight affine couplings."""
    return ZukoSystem(domain.before(), RealNVP(domain.features, transforms=_COUPLINGS, hidden_features=(width, width)))


def made(domain: Domain, width: int) -> System:
    """One masked network: each column normal, given those before it."""
    return ZukoSystem(domain.before(), MAF(domain.features, transforms=1, hidden_features=(width, width)))


def maf(domain: Domain, width: int) -> System:
    """Five masked networks, the order of columns reversed between them."""
    return ZukoSystem(domain.before(), MAF(domain.features, transforms=_LAYERS, hidden_features=(width, width)))


def iaf(domain: Domain, width: int) -> System:
    """The same the other way round: samples in one pass, densities one column after the other."""
    flow: Any = MAF(domain.features, transforms=_LAYERS, hidden_features=(width, width))
    parts = flow.transform.transforms
    for place, part in enumerate(parts):
        parts[place] = LazyInverse(part)
    return ZukoSystem(domain.before(), flow)


def nsf(domain: Domain, width: int) -> System:
    """Three autoregressive layers of rational-quadratic splines on [-5, 5]."""
    return ZukoSystem(domain.before(), NSF(domain.features, transforms=_SPLINES, hidden_features=(width, width)))


def cnf(domain: Domain, width: int) -> System:
    """One field with three hidden layers, as in FFJORD's toy experiments."""
    flow = CNF(domain.features, hidden_features=(width,) * 3, exact=domain.features <= _TRACE)
    return Continuous(domain.before(), flow, domain.features)
