r"""Base distributions of a flow: what the latent should look like.

References
----------
Polar Generation of Random Variates with the t-Distribution (Bailey, 1994), doi 10.1090/S0025-5718-1994-1219702-8
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .numerics.noise import Noise

__all__ = ["Base", "ClassNormal", "DiagonalNormal", "NormalMixture", "StandardNormal", "StudentT"]

# Entries (component, row, feature) of a mixture, or of samples' matrices, that are in memory at once; more rows go in parts.
_ENTRIES = 2**23


class Base(nn.Module, ABC):
    """A distribution of latents of ``shape``: ``log_prob`` (B, *) to (B,), and ``sample`` from stateless noise."""

    anchor: Tensor

    def __init__(self, shape: tuple[int, ...] | int) -> None:
        super().__init__()
        self.shape = tuple(shape) if isinstance(shape, Sequence) else (int(shape),)
        # Carries dtype and device for a base that has no parameters; never saved.
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def bind(self, context: Tensor | None) -> Base | BoundNormal:
        """The distribution at a context (C,), (B, C) or None; most know of none."""
        return self

    @abstractmethod
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density (B,) in nats at z (B, *shape)."""

    def sample(self, noise: Noise, count: int) -> Tensor:
        """``count`` draws (count, *shape), row i a function of (seed, ``noise.rows[i]``) alone; frozen for an export, none."""
        raise NotImplementedError(f"{type(self).__name__} says how dense latents are, and draws none")

    def center(self) -> Tensor | float:
        """What a temperature pulls draws towards."""
        return 0.0

    def _blank(self, count: int) -> Tensor:
        return torch.empty(count, *self.shape, dtype=self.anchor.dtype, device=self.anchor.device)

    def extra_repr(self) -> str:
        return f"{self.shape}"


class StandardNormal(Base):
    """N(0, I)."""

    def log_prob(self, z: Tensor) -> Tensor:
        flat = z.flatten(1)
        return -0.5 * flat.square().sum(1) - 0.5 * flat.shape[1] * math.log(2 * math.pi)

    def sample(self, noise: Noise, count: int) -> Tensor:
        return noise.normals(self._blank(count))


class DiagonalNormal(Base):
    """Independent normals with learned mean and scale; N(0, I) to begin with."""

    def __init__(self, shape: tuple[int, ...] | int) -> None:
        super().__init__(shape)
        self.mean = nn.Parameter(torch.zeros(self.shape))
        self.log_scale = nn.Parameter(torch.zeros(self.shape))

    def log_prob(self, z: Tensor) -> Tensor:
        flat = ((z - self.mean) * torch.exp(-self.log_scale)).flatten(1)
        return -0.5 * flat.square().sum(1) - self.log_scale.sum() - 0.5 * flat.shape[1] * math.log(2 * math.pi)

    def center(self) -> Tensor | float:
        return self.mean

    def sample(self, noise: Noise, count: int) -> Tensor:
        return self.mean + self.log_scale.exp() * noise.normals(self._blank(count))


class ClassNormal(Base):
    """Independent normals, mean and scale learned for each of K classes, given as indicators (B, K); N(0, I) to begin with."""

    def __init__(self, shape: tuple[int, ...] | int, classes: int) -> None:
        super().__init__(shape)
        self.classes = classes
        self.mean = nn.Parameter(torch.zeros(classes, *self.shape))
        self.log_scale = nn.Parameter(torch.zeros(classes, *self.shape))

    def bind(self, context: Tensor | None) -> BoundNormal:
        if context is None:
            raise ValueError(f"this base is conditional: it needs a context of width {self.classes}")
        mean, log_scale = (context @ part.flatten(1) for part in (self.mean, self.log_scale))
        return BoundNormal(mean.unflatten(-1, self.shape), log_scale.unflatten(-1, self.shape), self.shape)

    def log_prob(self, z: Tensor) -> Tensor:
        return self.bind(None).log_prob(z)  # which says that it needs a context

    def sample(self, noise: Noise, count: int) -> Tensor:
        return self.bind(None).sample(noise, count)

    def extra_repr(self) -> str:
        return f"{self.shape}, classes={self.classes}"


@dataclass(frozen=True)
class BoundNormal:
    """:class:`ClassNormal` at a context: ``mean`` and ``log_scale`` (*shape) or, with a context for each row, (B, *shape)."""

    mean: Tensor
    log_scale: Tensor
    shape: tuple[int, ...]

    def log_prob(self, z: Tensor) -> Tensor:
        mean, log_scale = self.mean.to(z.dtype), self.log_scale.to(z.dtype)
        flat = ((z - mean) * torch.exp(-log_scale)).flatten(1)
        volume = log_scale.expand(z.shape).flatten(1).sum(1)
        return -0.5 * flat.square().sum(1) - volume - 0.5 * flat.shape[1] * math.log(2 * math.pi)

    def center(self) -> Tensor | float:
        return self.mean

    def sample(self, noise: Noise, count: int) -> Tensor:
        blank = self.mean.new_empty(count, *self.shape)
        return self.mean + self.log_scale.exp() * noise.normals(blank)


class StudentT(Base):
    """Independent Student t with learned degrees of freedom, for heavy tails, scaled to unit variance where that exists.

    Parameters
    ----------
    shape : of the latent.
    degrees : to begin with, above 2, for each entry; they stay above 2.
    """

    def __init__(self, shape: tuple[int, ...] | int, degrees: float = 10.0) -> None:
        super().__init__(shape)
        if not degrees > 2:
            raise ValueError(f"StudentT needs more than 2 degrees of freedom for a variance, got {degrees}")
        self.raw_degrees = nn.Parameter(torch.full(self.shape, math.log(degrees - 2)))

    def _degrees(self) -> tuple[Tensor, Tensor]:
        """Degrees of freedom and the scale that makes the variance one."""
        degrees = 2 + self.raw_degrees.exp()
        return degrees, torch.sqrt((degrees - 2) / degrees)

    def log_prob(self, z: Tensor) -> Tensor:
        degrees, scale = self._degrees()
        half = (degrees + 1) / 2
        constant = torch.lgamma(half) - torch.lgamma(degrees / 2) - 0.5 * torch.log(degrees * math.pi) - torch.log(scale)
        return (constant - half * torch.log1p((z / scale).square() / degrees)).flatten(1).sum(1)

    def sample(self, noise: Noise, count: int) -> Tensor:
        degrees, scale = self._degrees()
        blank = self._blank(count).double() if self.anchor.device.type != "mps" else self._blank(count)
        angle = 2 * math.pi * noise.at(1).uniforms(blank)
        radius = torch.sqrt(degrees * torch.expm1(-2 / degrees * torch.log(noise.at(0).uniforms(blank))))
        return (scale * radius * torch.cos(angle)).to(self.anchor.dtype)


class NormalMixture(Base):
    r"""A mixture of normals with full covariances, for latents in clusters or on spikes, which a normal base cannot make.

    Component k has the density of :math:`y = ((z - c_k) T_k - s_k) A_k` under N(0, I). Centre :math:`c_k`, precision factor
    :math:`T_k` (upper triangular, :math:`T_k T_k^T = \Sigma_k^{-1}`) and weight are set once by :meth:`set`, say by EM.
    What is learned are corrections, zero to begin with: the shift :math:`s_k`, the triangle :math:`A_k`, whose diagonal is the
    exponential of ``log_scale``, and a change of the weights' logarithms. They are in units of the component's own width, so
    that one learning rate suits the broad and the narrow. Until it is set, the components are scattered about zero.

    Samples are differentiable in all parameters but the weights: which component a row comes from is a choice. A reparametrised
    gradient, as of ``Flow.sample_and_log_prob``, so lacks what moving a row between components would add.

    Parameters
    ----------
    shape : of the latent, of d entries.
    components : K.
    """

    log_weights: Tensor
    centers: Tensor
    triangles: Tensor
    initialized: Tensor

    def __init__(self, shape: tuple[int, ...] | int, components: int = 20) -> None:
        super().__init__(shape)
        if components < 1:
            raise ValueError(f"a mixture needs at least one component, got {components}")
        d = math.prod(self.shape)
        self.components = components
        scattered = Noise(0, torch.arange(components)).normals(torch.empty(components, d))
        # Half of the variance between the components and half within: roughly N(0, I) as a whole.
        self.register_buffer("log_weights", torch.full((components,), -math.log(components)))
        self.register_buffer("centers", math.sqrt(0.5) * scattered)
        self.register_buffer("triangles", math.sqrt(2.0) * torch.eye(d).repeat(components, 1, 1))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self.logits = nn.Parameter(torch.zeros(components))
        self.shift = nn.Parameter(torch.zeros(components, d))
        self.log_scale = nn.Parameter(torch.zeros(components, d))
        self.shear = nn.Parameter(torch.zeros(components, d * (d - 1) // 2))

    @torch.no_grad()
    def set(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        """Become the mixture of these weights (K,), means (K, d) and covariances (K, d, d); corrections go back to zero.

        Raises
        ------
        ValueError
            For other shapes, weights that are not positive, or covariances that are not positive definite.
        """
        given = [torch.as_tensor(value) for value in (weights, means, covariances)]
        wide = torch.float64 if self.anchor.device.type != "mps" else torch.float32
        weights, means, covariances = (value.to(self.anchor.device, wide) for value in given)
        k, d = self.centers.shape
        if (weights.shape, means.shape, covariances.shape) != ((k,), (k, d), (k, d, d)):
            raise ValueError(
                f"this mixture takes weights ({k},), means ({k}, {d}) and covariances ({k}, {d}, {d}), "
                f"got {tuple(weights.shape)}, {tuple(means.shape)} and {tuple(covariances.shape)}"
            )
        lower, failed = torch.linalg.cholesky_ex(covariances)
        if bool(failed.any()) or not bool((weights > 0).all()) or not bool(torch.isfinite(means).all()):
            raise ValueError("a mixture needs positive weights, finite means and positive definite covariances")
        eye = torch.eye(d, dtype=wide, device=lower.device)
        self.log_weights.copy_(torch.log(weights / weights.sum()))
        self.centers.copy_(means)
        self.triangles.copy_(torch.linalg.solve_triangular(lower, eye.expand(k, d, d), upper=False).mT)
        for parameter in self.parameters():
            parameter.zero_()
        self.initialized.fill_(True)

    def _learned(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Log-weights (K,) and triangles A (K, d, d)."""
        triangle = torch.diag_embed(self.log_scale.to(dtype).exp())
        above = torch.triu_indices(triangle.shape[1], triangle.shape[1], 1, device=triangle.device)
        triangle[:, above[0], above[1]] = self.shear.to(dtype)
        return torch.log_softmax(self.log_weights.to(dtype) + self.logits.to(dtype), 0), triangle

    def log_prob(self, z: Tensor) -> Tensor:
        flat, dtype = z.flatten(1), z.dtype
        k, d = self.centers.shape
        centers, triangles = self.centers.to(dtype), self.triangles.to(dtype)
        log_weights, learned = self._learned(dtype)
        volume = triangles.diagonal(dim1=1, dim2=2).log().sum(1) + self.log_scale.to(dtype).sum(1)
        peaks = (log_weights + volume)[:, None] - 0.5 * d * math.log(2 * math.pi)
        parts = []
        for rows in flat.split(max(1, _ENTRIES // (k * d))):
            # The difference first: (z T - c T) would cancel where a component is narrow.
            y = ((rows - centers[:, None]) @ triangles - self.shift[:, None].to(dtype)) @ learned
            parts.append(torch.logsumexp(peaks - 0.5 * y.square().sum(2), 0))
        return torch.cat(parts)

    def center(self) -> Tensor | float:
        raise ValueError("a mixture has no single center that a temperature could pull draws towards; leave temperature at 1")

    def sample(self, noise: Noise, count: int) -> Tensor:
        blank = self._blank(count)
        dtype, d = blank.dtype, self.centers.shape[1]
        log_weights, learned = self._learned(dtype)
        wide = torch.empty(count, 1, dtype=torch.float64 if blank.device.type != "mps" else dtype, device=blank.device)
        edges = log_weights.detach().to(wide.dtype).exp().cumsum(0)
        chosen = torch.searchsorted(edges, noise.at(2).uniforms(wide).squeeze(1)).clamp(max=self.components - 1)
        parts, size = [], max(1, _ENTRIES // d**2)
        for y, k in zip(noise.normals(blank).flatten(1).split(size), chosen.split(size), strict=True):
            inner = torch.linalg.solve_triangular(learned[k], y[:, None], upper=True, left=False) + self.shift[k, None]
            outer = torch.linalg.solve_triangular(self.triangles[k], inner, upper=True, left=False)
            parts.append(outer.squeeze(1) + self.centers[k])
        return torch.cat(parts).reshape(blank.shape)

    def extra_repr(self) -> str:
        return f"{self.shape}, components={self.components}"
