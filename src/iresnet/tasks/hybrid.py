r"""The hybrid task: a density and a classifier that share all features, trained in one forward pass.

The objective of a row with d dimensions is :math:`\log p(x) + w d \log p(y \mid x)`: the weight w compares nats of
classification with nats of density *per dimension*, as in Residual Flows, where an image has thousands of dimensions and one
label. For w = 1/d it is the likelihood :math:`\log p(x, y)`. Either way the model is one joint distribution, p(x) p(y | x).

References
----------
| Residual Flows for Invertible Generative Modeling (Chen et al., 2019), arXiv 1906.02735
| Hybrid Models with Deep and Invertible Features (Nalisnick et al., 2019), arXiv 1902.02767
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..classifier import Classifier
from ..numerics.noise import Noise
from .base import Judgement, Task
from .classify import Classify, class_sums
from .density import Density
from .rows import Batch, Rows

__all__ = ["Hybrid"]

_DENSITY = 5  # sums of the density task, before those of classification


class Hybrid(Task):
    """log p(x) + weight * d * log p(y | x) of a classifier without padding, in nats and in the user's units.

    Parameters
    ----------
    weight : w above; 1 weighs a nat of the label like a nat *per dimension* of x.
    smoothing : share of each label that is spread evenly over all classes. What is told of training is without it.

    Raises
    ------
    ValueError
        If the network has no density.
    """

    told = ("loss", "log_prob", "cross_entropy", "error")
    network: Classifier

    def __init__(self, network: Classifier, weight: float = 1.0, smoothing: float = 0.0) -> None:
        super().__init__(network)
        if not isinstance(network, Classifier) or network.pad:
            raise ValueError("a hybrid model needs an invertible network without padding, which has a density")
        if not weight > 0:
            raise ValueError(f"the weight of classification must be positive, got {weight}")
        self.factor, self.smoothing = weight * math.prod(network.shape), smoothing
        self.parts = (Density(network.flow), Classify(network))

    def forward(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        z, density = self.network.flow.bind(batch.context).encode_and_estimate(batch.x, noise=noise)
        logits = self.network.classify(z)
        nats = -density.value.sum()
        smooth = cross_entropy(logits, batch.classes, label_smoothing=self.smoothing, reduction="sum")
        log_prob = batch.log_jacobian.double().sum() - nats.detach().double()
        _, wrong, cross, _ = class_sums(logits, batch.classes)
        return nats + self.factor * smooth, torch.stack((self.factor * cross - log_prob, log_prob, cross, wrong))

    def measure(self, rows: Rows, seed: int) -> Tensor:
        return torch.cat([part.measure(rows, seed) for part in self.parts])

    def judge(self, sums: Tensor) -> Judgement:
        density, classes = (part.judge(own) for part, own in zip(self.parts, (sums[:_DENSITY], sums[_DENSITY:]), strict=True))
        goodness = density.figures["log_prob"] - self.factor * classes.figures["cross_entropy"]
        return Judgement(goodness, density.figures | classes.figures)
