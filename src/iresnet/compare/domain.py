"""What a system is built for: the shape of a row, and what comes before a system's own layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..bijections import ActNorm, Bijection, Chain, Flatten, Pixels, Whiten
from ..config import Config, build_config
from ..data import Dataset, ImageSchema
from ..presets import IMAGE_PRESETS
from ..runs.building import pixel_alpha

__all__ = ["Domain"]

_FEW = 5000  # training rows up to which a table gets the preset for small tables


@dataclass(frozen=True)
class Domain:
    """Rows of ``shape``: (d,) for vectors, (C, H, W) for images of ``levels`` levels.

    ``alpha`` is of the logit of pixels, ``rows`` the number of training rows, which chooses a preset.
    """

    shape: tuple[int, ...]
    rows: int | None = None
    levels: int = 256
    alpha: float | None = 0.05
    name: str = ""

    @classmethod
    def of(cls, dataset: Dataset) -> Domain:
        """The domain of a data set, unconditional."""
        schema = dataset.schema
        if not isinstance(schema, ImageSchema):
            rows = len(dataset.train) if dataset.kind != "toy" else None
            return cls((schema.features,), rows, name=dataset.name)
        alpha = pixel_alpha(Config(), dataset, schema)
        return cls(schema.shape, len(dataset.train), schema.levels, alpha, dataset.name)

    @property
    def features(self) -> int:
        """The number d of dimensions."""
        return math.prod(self.shape)

    @property
    def images(self) -> bool:
        """Whether a row is an image."""
        return len(self.shape) == 3

    @property
    def config(self) -> Config:
        """What ``iresnet train`` would do with such data: its network, and how all systems are trained."""
        if self.images:
            return build_config(options=IMAGE_PRESETS["density"]["tiny"])
        small = self.rows is not None and self.rows < _FEW
        return build_config(preset="small-table" if small else None)

    def before(self, *, flat: bool = True) -> Bijection | None:
        """What comes before a system: whitening; of images the logit of pixels, and if ``flat`` each of them standardised."""
        if not self.images:
            return Whiten(self.features)
        pixels = Pixels(self.levels, self.alpha)
        if not flat:
            return pixels
        standard = ActNorm(self.features)
        for parameter in standard.parameters():
            parameter.requires_grad_(False)  # set from the data, and not trained: as whitening is
        return Chain([pixels, Flatten(self.shape), standard])

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        told: dict[str, Any] = {"shape": list(self.shape)}
        return told | {"levels": self.levels, "alpha": self.alpha} if self.images else told
