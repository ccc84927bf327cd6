"""Pictures of data beside samples: a density in the plane, pairs of columns, a grid of images.

Each function writes one PNG, whole or not at all. Blue is the data and vermilion the flow, two colours that also the
colour-blind tell apart; every picture has a white ground and is made to be read 350 pixels wide as well as 700.
"""

from __future__ import annotations

from .columns import pairs
from .grid import image_grid
from .plane import density_2d

__all__ = ["density_2d", "image_grid", "pairs"]
