"""scikit-learn's densities, fitted by their own algorithms: the full-covariance Gaussian, mixtures of them, and kernels.

What a mixture or a kernel leaves open, the number of components or the bandwidth, is chosen by the same validation rows that
choose the best weights of a flow.

scikit-learn: Machine Learning in Python (Pedregosa et al., 2011), arXiv 1201.0490
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from torch import Tensor

from ..numerics.noise import Noise
from .domain import Domain
from .system import System

__all__ = ["Direct", "Gaussian", "Kernel", "Mixture", "gaussian", "kde", "mixture"]

_ROWS = 60_000  # training rows, at most, evenly taken
_COMPONENTS = (2, 4, 8, 16, 32, 64, 128)
_WIDTHS = (0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.45, 0.7, 1.0)  # of whitened data


class Direct(System):
    """A density that is fitted by an algorithm of its own, not by gradients."""

    lacks = {"roundtrip": "it has no latents"}
    inverse_kind = "no latents"
    model: Any = None

    @property
    def parameters_counted(self) -> int | None:
        return None if self.model is None else self.free_parameters()

    @abstractmethod
    def free_parameters(self) -> int | None:
        """Free numbers of the fitted model."""

    def learn(self, x: Tensor, validation: Tensor, seed: int, over: Callable[[], bool]) -> int:
        """Fit to rows x (N, *); ``over`` says when no further candidate may be tried. Returns the candidates tried."""
        rows = self._numbers(self._enter(x)[0])[:: -(-len(x) // _ROWS)]
        return self.fit(rows, self._numbers(self._enter(validation)[0]), seed, over)

    @abstractmethod
    def fit(self, rows: np.ndarray, held: np.ndarray, seed: int, over: Callable[[], bool]) -> int:
        """As :meth:`learn`, of z (N, d)."""

    def density(self, z: Tensor, noise: Noise | None) -> Tensor:
        return torch.from_numpy(self.model.score_samples(self._numbers(z))).to(z)

    @staticmethod
    def _numbers(z: Tensor) -> np.ndarray:
        return z.detach().double().cpu().numpy()

    def _best(self, candidates: list[Callable[[], Any]], held: np.ndarray, over: Callable[[], bool]) -> int:
        """Keep the candidate that scores highest on held-out rows; stop where two in a row are worse, or the time is over."""
        best, worse, tried = -np.inf, 0, 0
        for candidate in candidates:
            model = candidate()
            tried += 1
            found = float(model.score(held)) / (1 if hasattr(model, "n_components") else len(held))
            if found > best:
                best, worse, self.model = found, 0, model
            else:
                worse += 1
            if worse == 2 or over():
                break
        return tried


class Gaussian(Direct):
    """One normal with a full covariance."""

    inverse_kind = "by formula"
    lacks = {}

    def fit(self, rows: np.ndarray, held: np.ndarray, seed: int, over: Callable[[], bool]) -> int:
        self.model = _mixture(rows, 1, seed)
        return 1

    def free_parameters(self) -> int | None:
        return _free(1, self.model.means_.shape[1])

    def latent(self, z: Tensor) -> Tensor:
        return (z - self._mean(z)) @ torch.from_numpy(self.model.precisions_cholesky_[0]).to(z)

    def data(self, latent: Tensor) -> Tensor:
        factor = torch.from_numpy(self.model.precisions_cholesky_[0]).to(latent)
        return torch.linalg.solve_triangular(factor, latent, upper=True, left=False) + self._mean(latent)

    def draw(self, count: int) -> Tensor:
        d = self.model.means_.shape[1]
        return self.data(torch.randn(count, d, dtype=self.anchor.dtype))

    def _mean(self, like: Tensor) -> Tensor:
        return torch.from_numpy(self.model.means_[0]).to(like)


class Mixture(Direct):
    """A mixture of normals with full covariances by EM: as many as validation asks for, at most as the parameters allow."""

    def __init__(self, domain: Domain, most: int) -> None:
        super().__init__(domain.before())
        self.most = most

    def fit(self, rows: np.ndarray, held: np.ndarray, seed: int, over: Callable[[], bool]) -> int:
        counts = [k for k in _COMPONENTS if k <= min(self.most, len(rows))] or [2]
        return self._best([lambda k=k: _mixture(rows, k, seed) for k in counts], held, over)

    def free_parameters(self) -> int | None:
        return _free(*self.model.means_.shape)

    def draw(self, count: int) -> Tensor:
        self.model.random_state = int(torch.randint(2**31, ()))
        return torch.from_numpy(np.random.permutation(self.model.sample(count)[0])).to(self.anchor)  # it sorts by component


class Kernel(Direct):
    """Gaussian kernels of one width at every training row."""

    def fit(self, rows: np.ndarray, held: np.ndarray, seed: int, over: Callable[[], bool]) -> int:
        def at(width: float) -> Callable[[], Any]:
            return lambda: KernelDensity(bandwidth=width).fit(rows)

        return self._best([at(width) for width in _WIDTHS], held, over)

    def free_parameters(self) -> int | None:
        return None

    def draw(self, count: int) -> Tensor:
        found = self.model.sample(count, random_state=int(torch.randint(2**31, ())))
        return torch.from_numpy(found).to(self.anchor)


def _mixture(rows: np.ndarray, components: int, seed: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where EM stopped is a density all the same
        return GaussianMixture(components, random_state=seed % 2**32).fit(rows)


def _free(components: int, features: int) -> int:
    """Weights, means and covariances."""
    return components - 1 + components * (features + features * (features + 1) // 2)


def gaussian(domain: Domain, size: int | None) -> System:
    """The full-covariance Gaussian: what a flow over whitening starts from."""
    return Gaussian(domain.before())


def mixture(domain: Domain, size: int | None) -> System:
    """A mixture of at most ``size`` normals."""
    return Mixture(domain, size or max(_COMPONENTS))


def kde(domain: Domain, size: int | None) -> System:
    """Kernel density estimation."""
    return Kernel(domain.before())
