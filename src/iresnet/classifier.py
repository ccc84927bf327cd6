"""A classifier whose features can be inverted: a flow without regard to its density, and a head on its latents.

References
----------
| Invertible Residual Networks (Behrmann et al., 2019), arXiv 1811.00995 (injective padding, classification)
| Residual Flows for Invertible Generative Modeling (Chen et al., 2019), arXiv 1906.02735 (hybrid models)
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from .flow import Flow, Inversion
from .numerics.fixed_point import Solver
from .numerics.noise import Noise

__all__ = ["Classifier"]


class Classifier(nn.Module):
    """Class scores of x: a linear map of what a head reads of features that determine x.

    Parameters
    ----------
    flow : from widened data to latents. Its base matters only where the density is asked for.
    classes : K.
    head : latents (B, *) to features (B, F); None to take the latents' entries.
    width : F.
    pad : zero channels that x is widened by before the flow, which then maps into a larger space (injective padding). Features
        still determine x, but there is no density.
    """

    def __init__(self, flow: Flow, classes: int, head: nn.Module | None = None, width: int | None = None, pad: int = 0) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"a classifier needs at least two classes, got {classes}")
        entries = int(torch.Size(flow.shape).numel())
        self.flow, self.classes, self.pad = flow, classes, pad
        self.head = nn.Flatten() if head is None else head
        self.linear = nn.Linear(width or entries, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @property
    def anchor(self) -> Tensor:
        """A tensor of the dtype and on the device in which the network computes."""
        return self.flow.anchor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row of data."""
        return (self.flow.shape[0] - self.pad, *self.flow.shape[1:])

    def widen(self, x: Tensor) -> Tensor:
        """x with its zero channels, as the flow takes it."""
        return torch.cat((x, x.new_zeros(x.shape[0], self.pad, *x.shape[2:])), 1) if self.pad else x

    def initialize(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Set what depends on data x (N, *), once; return the latents."""
        return self.flow.initialize(self.widen(x), context)

    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Latents of x (B, *), differentiable: the features that the head reads, from which :meth:`invert` finds x."""
        return self.flow.encode(self.widen(x), context)

    def invert(self, z: Tensor, context: Tensor | None = None, *, solver: Solver | None = None, throw: bool = True) -> Inversion:
        """Widened data of latents z, with error bounds; the first ``shape[0]`` channels are x. See :meth:`Flow.invert`."""
        return self.flow.invert(z, context, solver=solver, throw=throw)

    def sample(
        self,
        label: int,
        n: int,
        context: Tensor | None = None,
        *,
        solver: Solver | None = None,
        noise: Noise | None = None,
        temperature: float = 1.0,
        tries: int = 10_000,
    ) -> Tensor:
        """n draws (n, *) of p(x | y) for the class y = ``label``, of the joint density p(x) p(y | x), without gradients.

        Latents of p(z) are kept with probability p(y | z), which is exact, and only the kept ones are inverted. Row i is a
        function of (``noise.seed``, ``noise.rows[i]``). At another ``temperature`` p(z) is the base's, narrower or wider
        around its center, and p(y | z) stays.

        Raises
        ------
        ValueError
            If the network has no density, there is no such class, or the class is so rare that ``tries`` latents do not yield it.
        NotConverged
            If an inverse could not be found.
        """
        if self.pad:
            raise ValueError("this classifier widens its data and has no density to draw from")
        if not 0 <= label < self.classes:
            raise ValueError(f"label must be from 0 to {self.classes - 1}, got {label}")
        noise = noise or Noise.fresh(n, self.anchor.device)
        with torch.no_grad():
            flow = self.flow.bind(context)
            z = torch.empty(n, *self.shape, dtype=self.anchor.dtype, device=self.anchor.device)
            left = torch.arange(n, device=z.device)
            for attempt in range(tries):
                key = noise.at(attempt).select(left)
                own = context if context is None or context.dim() == 1 else context[left]
                drawn = replace(flow, base=self.flow.base.bind(own)).latents(len(left), key.at(0), temperature)
                share = self.classify(drawn).softmax(1)[:, label]
                kept = key.at(1).uniforms(share[:, None])[:, 0] < share
                z[left[kept]] = drawn[kept]
                left = left[~kept]
                if not len(left):
                    return flow.decode(z, solver=solver)
        raise ValueError(f"class {label} is too rare: {len(left)} of {n} draws found none in {tries} tries each")

    def classify(self, z: Tensor) -> Tensor:
        """Logits (B, K) of latents z (B, *)."""
        return self.linear(self.head(z))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Logits (B, K) of x (B, *)."""
        return self.classify(self.encode(x, context))

    def extra_repr(self) -> str:
        return f"classes={self.classes}" + (f", pad={self.pad}" if self.pad else "")
