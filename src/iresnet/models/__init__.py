"""Floor 2: assemblies, plain functions that put a network together. ``__all__`` is what a checkpoint's recipe may name."""

from __future__ import annotations

from .classifiers import dense_classifier, image_classifier
from .dense import BASES, dense_flow
from .images import image_flow
from .points import point_flow
from .resnets import ResNet, dense_resnet, image_resnet, resnet164

__all__ = [
    "BASES",
    "ResNet",
    "dense_classifier",
    "dense_flow",
    "dense_resnet",
    "image_classifier",
    "image_flow",
    "image_resnet",
    "point_flow",
    "resnet164",
]
