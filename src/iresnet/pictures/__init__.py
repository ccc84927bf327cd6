"""Pictures of data beside samples: a density in the plane, pairs of columns, a grid of images, who is taken for whom.

Each function writes one PNG, whole or not at all. Blue is the data and vermilion the flow, two colours that also the
colour-blind tell apart; every picture has a white ground and is made to be read 350 pixels wide as well as 700.
"""

from __future__ import annotations

from .columns import pairs
from .confusion import confusion_matrix
from .grid import image_grid
from .plane import density_2d
from .sheet import sheet

__all__ = ["confusion_matrix", "density_2d", "image_grid", "pairs", "sheet"]
