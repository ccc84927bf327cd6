"""The memory of Anderson's acceleration: last points and residuals of each row, and the extrapolation from them.

References
----------
Anderson Acceleration for Fixed-Point Iterations (Walker and Ni, 2011), doi 10.1137/10078356X
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["History"]


class History:
    """The last points and residuals of each row, and the extrapolation from them."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.points: list[Tensor] = []
        self.residuals: list[Tensor] = []
        self.valid: list[Tensor] = []

    def push(self, x: Tensor, residual: Tensor, refused: Tensor) -> None:
        if not self.memory:
            return
        # A refused point says that the model of the row is wrong: forget the row's history.
        self.valid = [mask & ~refused for mask in self.valid]
        self.points, self.residuals, self.valid = (
            [*old[-self.memory :], new] for old, new in ((self.points, x), (self.residuals, residual), (self.valid, ~refused))
        )

    def propose(self, image: Tensor) -> Tensor:
        r"""image - (dX + dF) gamma, with gamma the least-squares combination of the residuals' differences."""
        if len(self.points) < 2:
            return image
        newest = self.residuals[-1]
        valid = torch.stack([mask & self.valid[-1] for mask in self.valid[:-1]], -1)
        moves = torch.stack([(self.points[-1] - point).flatten(1) for point in self.points[:-1]], -1)
        changes = torch.stack([(newest - residual).flatten(1) for residual in self.residuals[:-1]], -1)
        zero = torch.zeros((), dtype=image.dtype, device=image.device)
        moves, changes = torch.where(valid[:, None], moves, zero), torch.where(valid[:, None], changes, zero)
        gram = changes.mT @ changes
        scale = gram.diagonal(dim1=-2, dim2=-1).amax(-1).clamp(min=torch.finfo(gram.dtype).tiny)
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        ridge = 10 * torch.finfo(gram.dtype).eps
        system = gram / scale[:, None, None] + ridge * eye
        right = (changes.mT @ newest.flatten(1)[..., None]) / scale[:, None, None]
        gamma = torch.linalg.solve_ex(system, right)[0].nan_to_num(0.0, 0.0, 0.0)
        return image - ((moves + changes) @ gamma)[..., 0].reshape(image.shape)

    def select(self, rows: Tensor) -> None:
        self.points = [point[rows] for point in self.points]
        self.residuals = [residual[rows] for residual in self.residuals]
        self.valid = [mask[rows] for mask in self.valid]
