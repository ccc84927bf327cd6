r"""log det(I + J) by Hutchinson's trace and Arnoldi's process: v^T log(I + J) v from the Krylov space of each probe.

After k products with J, an orthonormal basis V of the Krylov space of v and the small Hessenberg matrix :math:`H = V^T J V` give
:math:`v^T \log(I+J) v \approx |v|^2 e_1^T \log(I+H) e_1`. That is exact where the power series of k terms is, for polynomials of
degree k, and fits the rest to this J and this v: for the same promise it takes about half the products. What is left is bounded
after the fact. By the residual of :math:`(I+tJ)x = v` in the Krylov space, and :math:`v^T V_{k+1} = 0`,

.. math:: \big|v^T \log(I+J) v - |v|^2 e_1^T \log(I+H) e_1\big|
          \le c\, |v|^2 \prod_{j \le k} h_{j+1,j} \int_0^1 \frac{t^k}{(1 - ct) \det(I + tH)} dt .

Both integrals are sums over the nodes t of :func:`~iresnet.numerics.quadrature.log_rule`, and need of H only two determinants at
each node, which grow with k by one line (Hyman's recurrence): no matrix logarithm and no eigenvalue is computed, and a defective
H, or a Krylov space that is exhausted early, is nothing special.

References
----------
| Analysis of some Krylov subspace approximations to the matrix exponential operator (Saad, 1992), doi 10.1137/0729014
| Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature (Ubaru, Chen and Saad, 2017), doi 10.1137/16M1104974
| The Algebraic Eigenvalue Problem (Wilkinson, 1965), chapter 7, for Hyman's recurrence
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .elimination import solve
from .linearize import Probed, attachable, linearize
from .logdet import Estimate, Function, lipschitz_of
from .noise import Noise
from .probes import DISTRIBUTIONS, draw_probes, inner, split_probes, stderr_of_mean
from .quadrature import log_rule

__all__ = ["Krylov"]

_ENTRIES = 2**21  # of the probes that are taken at once: their bases hold some dozen times that
_UNCERTIFIED = 50  # steps at most without a certificate, whose bias is infinite


@dataclass(frozen=True)
class Krylov:
    r"""log det(I + J) with m random probes v a row, each in its own Krylov space.

    Parameters
    ----------
    probes : random vectors m; a standard error needs two.
    steps : products with J for each probe. None: for each row and probe as many as ``tol`` asks for.
    tol : largest bound of the truncation in nats, for each row and block, with ``steps=None``.
    distribution : of the probes, "rademacher" or "gaussian". Rademacher's has the smaller variance.
    first_trace : take tr J exactly where the branch offers it, which removes most of the variance.
    split : None, or k to cut each probe into n parts, see :func:`~iresnet.numerics.probes.split_probes`: for images (B, C, H, W)
        n = C k^2. A probe then costs n times the products. Where the Jacobian couples what is near, as for convolutions, the
        variance falls by far more than n.
    recompute : keep only inputs and probes for the backward pass, and compute the rest again: less memory, more time.

    The stated bias is a sound bound of the truncation (the integral above, for the very probes used, and the error of the
    quadrature), plus an estimate of rounding. It is infinite where the branch has no certificate; steps then end when the value
    no longer changes by ``tol``.

    In training the gradient is that of the surrogate :math:`\langle J^T w, v \rangle` with :math:`(I+J^T) w = v` solved in the
    same Krylov space, so that its memory does not grow with the steps. w is off by at most :math:`|v| \prod_{j \le k} h_{j+1,j} /
    ((1-c) \det(I+H))`, the integrand above at t = 1; the nearer c is to one, the more that exceeds ``tol``.

    Raises
    ------
    ValueError
        For ``probes`` or ``steps`` below one, ``tol`` that is not positive, or an unknown distribution.
    """

    probes: int = 1
    steps: int | None = None
    tol: float = 1e-4
    distribution: Literal["rademacher", "gaussian"] = "rademacher"
    first_trace: bool = True
    split: int | None = None
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.probes < 1 or any(number is not None and number < 1 for number in (self.steps, self.split)):
            raise ValueError(f"Krylov needs probes, steps and split >= 1, got {self.probes}, {self.steps} and {self.split}")
        if not self.tol > 0:
            raise ValueError(f"Krylov needs tol > 0, got {self.tol}")
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(f"Krylov: distribution is one of {DISTRIBUTIONS}, got {self.distribution!r}")

    def __call__(self, function: Function, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Estimate]:
        """g(x) and log det(I + dg/dx) for x (B, *); see :class:`~iresnet.numerics.logdet.LogDet`."""
        attached = attachable(function, x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not attached):
            at = linearize(function, x)
            known_trace = self.first_trace and at.trace is not None
            trace = at.trace() if known_trace and at.trace is not None else None
        probes = draw_probes(self.distribution, self.probes, x, noise or Noise())
        probes = probes if self.split is None else split_probes(probes, self.split)
        differentiable = attached or (torch.is_grad_enabled() and at.value.requires_grad)
        totals, bias, weights = [], [], []
        with torch.no_grad():
            for part in probes.split(max(1, _ENTRIES // max(1, x.numel()))):
                arnoldi = _Arnoldi(at.vjp, part, lipschitz_of(function), self.tol if self.steps is None else 0.0)
                arnoldi.run(self.steps)
                totals.append(arnoldi.value(known_trace))
                bias.append(arnoldi.error)
                weights += [arnoldi.resolvent(known_trace)] if differentiable else []
            forms = torch.cat(totals).unflatten(0, (self.probes, -1)).mean(1)
        image, value = at.value, forms.mean(0)
        if differentiable and not attached:
            surrogate = inner(at.vjp(torch.cat(weights)), probes).mean(0)
            value = value + (surrogate - surrogate.detach())
        if trace is not None:
            value = value + trace
        if attached and at.attach is not None:
            image, value = at.attach(Probed(value, torch.cat(weights), probes, known_trace, self.recompute))
        return image, Estimate(value, stderr_of_mean(forms), torch.cat(bias).mean(0))


class _Arnoldi:
    r"""Arnoldi's process with A = J^T from all probes (m, B, *) at once; each probe of each row stops alone.

    Small things are in float64: H by columns (m, B, k), and at each node t the determinants (m, B, n, 2) of I + t H and of the
    same without its first row and column. With :math:`q_i = \det(I+tH_{i-1}) \prod_{j=i}^{k-1} (-t h_{j+1,j})`, expanding along
    the new column gives :math:`\det(I+tH_k) = \det(I+tH_{k-1}) + t \sum_{i \le k} q_i h_{ik}`.
    """

    def __init__(self, product: Function, probes: Tensor, lipschitz: float, tol: float) -> None:
        self.product, self.probes, self.lipschitz, self.tol = product, probes, lipschitz, tol
        flat = probes.flatten(2)
        self.small = torch.float64 if flat.device.type != "mps" else flat.dtype
        length = torch.linalg.vector_norm(flat, dim=-1)
        self.square = length.to(self.small).square()
        self.eps = 4 * torch.finfo(flat.dtype).eps
        # The rule's error, times |v|^2, is to be a small part of the tolerance.
        wanted = max(0.05 * tol / max(flat.shape[-1], 1), self.eps)
        nodes, weights, error = log_rule(lipschitz if lipschitz < 1 else 0.999, wanted)
        self.nodes, self.weights = nodes.to(flat.device, self.small), weights.to(flat.device, self.small)
        self.floor = self.square * (error + self.eps)  # quadrature and rounding
        self.basis = _Stack(_unit(flat, length))
        self.dets = torch.ones(*self.square.shape, len(nodes), 2, dtype=self.small, device=flat.device)
        self.signed: _Stack | None = None  # the q_i
        self.columns: list[Tensor] = []
        self.below: list[Tensor] = []  # h_(k+1,k); zero where a probe has stopped
        self.took: list[Tensor] = []  # which probes took each step
        self.descent = self.square  # |v|^2 times their product
        self.remainder = torch.full_like(self.square, torch.inf)
        self.active = torch.ones_like(self.square, dtype=torch.bool)

    def run(self, steps: int | None) -> None:
        """``steps`` steps, or until every probe's remainder is below the tolerance; fewer where there is nothing left."""
        size = self.probes[0, 0].numel() if self.probes.numel() else 1
        enough = self.floor.clamp(min=self.tol)
        before = torch.full_like(self.square, torch.inf)
        for step in range(1, min(steps or (size if self.lipschitz < 1 else _UNCERTIFIED), size) + 1):
            self._step()
            self._bound(step)
            if step == size and self.lipschitz < 1:  # the Krylov space is everything
                self.remainder = torch.where(self.active, 0.0, self.remainder)
            left = self.remainder
            if not self.lipschitz < 1:
                after = self._form()
                before, left = after, (after - before).abs()
            self.active = self.active & (left > enough)
            if steps is None and not bool(self.active.any()):
                break

    def _step(self) -> None:
        vector = self.basis.all[..., -1, :].reshape(self.probes.shape)
        vector = self.product(vector).to(vector.dtype).flatten(2)
        column: Tensor | float = 0.0
        for _ in range(2):  # twice is enough: orthogonal to rounding
            part = (self.basis.all @ vector[..., None])[..., 0]
            vector = vector - (part[..., None, :] @ self.basis.all)[..., 0, :]
            column = part + column
        below = torch.linalg.vector_norm(vector, dim=-1)
        self.basis.push(_unit(vector, below))
        wide = torch.where(self.active[..., None], torch.as_tensor(column).to(self.small), 0.0)
        self.columns.append(wide)
        self.took.append(self.active)
        self.below.append(torch.where(self.active, below.to(self.small), 0.0))
        if self.signed is None:  # the first row and column are not in the minor
            self.signed = _Stack((self.dets * self.dets.new_tensor([1.0, 0.0])).flatten(2))
        else:
            self.signed.scale((-self.nodes * self.below[-2][..., None]).repeat_interleave(2, -1))
            self.signed.push(self.dets.flatten(2))
        grown = (wide[..., None, :] @ self.signed.all).reshape(self.dets.shape)
        self.dets = torch.where(self.active[..., None, None], self.dets + self.nodes[:, None] * grown, self.dets)

    def _bound(self, step: int) -> None:
        """The remainder after that step, for the probes that took it."""
        self.descent = torch.where(self.active, self.descent * self.below[-1], self.descent)
        if self.lipschitz < 1:
            shares = self.lipschitz * self.weights * self.nodes**step / (1 - self.lipschitz * self.nodes)
            self.remainder = torch.where(self.active, self.descent * (shares / self.dets[..., 0]).sum(-1), self.remainder)

    def _form(self) -> Tensor:
        """|v|^2 e_1^T log(I + H) e_1 (m, B)."""
        whole, minor = self.dets.unbind(-1)
        return self.square * ((1 - minor / whole) @ (self.weights / self.nodes))

    def value(self, known_trace: bool) -> Tensor:
        """v^T log(I + J) v (m, B), less v^T J v where an exact trace stands for it."""
        found = self._form() - (self.square * self.columns[0][..., 0] if known_trace else 0.0)
        return found.to(self.probes.dtype)

    @property
    def error(self) -> Tensor:
        """Bound (m, B) of what the values leave out, and an estimate of rounding: as A errs by eps, so does the form by
        eps v^T (I + A)^-1 v."""
        grows = (self.dets[..., 1] / self.dets[..., 0]).amax(-1).clamp(min=1.0)
        return (self.remainder + self.floor + self.square * self.eps * grows).to(self.probes.dtype)

    def resolvent(self, known_trace: bool) -> Tensor:
        """w (m, B, *) with (I + J^T) w = v in the Krylov space, less v where an exact trace stands for it."""
        count = len(self.columns)
        matrix = self.square.new_zeros(*self.square.shape, count, count)
        for index, (column, below) in enumerate(zip(self.columns, self.below, strict=True)):
            matrix[..., : index + 1, index] = column
            if index + 1 < count:  # the space of a probe that stopped here ends here, whatever others do
                matrix[..., index + 1, index] = torch.where(self.took[index + 1], below, 0.0)
        eye = torch.eye(count, dtype=self.small, device=matrix.device)
        found = solve(eye + matrix, eye[:, 0].expand(*self.square.shape, count))
        found = (found - (eye[0] if known_trace else 0.0)) * self.square.sqrt()[..., None]
        basis = self.basis.all[..., :count, :]
        return (found.to(basis.dtype)[..., None, :] @ basis).reshape(self.probes.shape)


class _Stack:
    """Vectors (m, B, d) put one by one into (m, B, k, d), with room kept for more."""

    def __init__(self, first: Tensor) -> None:
        self.count, self.room = 1, torch.empty_like(first)[..., None, :].repeat(1, 1, 8, 1)
        self.room[..., 0, :] = first

    @property
    def all(self) -> Tensor:
        return self.room[..., : self.count, :]

    def push(self, vector: Tensor) -> None:
        if self.count == self.room.shape[-2]:
            self.room = torch.cat([self.room, torch.empty_like(self.room)], -2)
        self.room[..., self.count, :] = vector
        self.count += 1

    def scale(self, factor: Tensor) -> None:
        self.all.mul_(factor[..., None, :])


def _unit(vectors: Tensor, length: Tensor) -> Tensor:
    """Vectors (m, B, d) divided by their length (m, B); zero stays zero."""
    return vectors / length.clamp(min=torch.finfo(length.dtype).tiny)[..., None]
