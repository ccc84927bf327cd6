"""Pictures of a run on images: samples beside data, along training, beside their nearest neighbours, and there and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import ImageSchema
from ..flow import Flow
from ..numerics.fixed_point import NotConverged
from ..numerics.noise import Noise
from ..pictures import image_grid, sheet
from ..train import Trainer
from .building import flow_of
from .folder import RunFolder
from .sampling import draw_rows

__all__ = ["draw_images", "draw_roundtrip", "nearest", "snapshots"]

_GRID, _NEIGHBOURS = 64, 8  # samples beside data, and samples shown with the three training images nearest to them
_SNAPSHOT, _ROUNDTRIP = 16, 10
_LATENTS = 3.0  # latents from -3 to 3 are drawn from black to white
_PART = 2**24  # entries of distances and of images at once


def draw_images(folder: RunFolder, schema: ImageSchema, *, seed: int = 0) -> list[str]:
    """Samples beside test images, and beside the training images nearest to them, so that memorising would be seen."""
    dataset = folder.dataset()
    held = dataset.test if len(dataset.test) else dataset.train
    samples, _, _ = draw_rows(folder, _GRID, seed=seed)
    place, top = folder.path / "pictures", (0.0, float(schema.levels - 1))
    some = held.values[torch.arange(min(_GRID, len(held))) * len(held) // min(_GRID, len(held))]  # evenly: files come by class
    image_grid(place / "samples.png", _plain(samples), _plain(some), scale=top)
    shown = samples[:_NEIGHBOURS]
    found, _ = nearest(shown, dataset.train.values, 3)
    rows = torch.stack([shown, *(dataset.train.values[found[:, rank]] for rank in range(3))])
    sheet(place / "neighbours.png", rows.flatten(0, 1), _NEIGHBOURS, levels=schema.levels)
    return ["samples.png", "neighbours.png"]


def draw_roundtrip(folder: RunFolder, schema: ImageSchema, x: Tensor, z: Tensor, back: Tensor) -> None:
    """Images, their latents and what these decode to, (N, C, H, W) each, one below the other."""
    shown = slice(0, _ROUNDTRIP)
    grey = (z[shown].double() / _LATENTS + 1) * (schema.levels / 2)
    rows = torch.cat((x[shown].double().cpu(), grey, back[shown].double()))
    sheet(folder.path / "pictures" / "reconstruction.png", rows, len(x[shown]), levels=schema.levels)


def _plain(images: Tensor) -> Tensor:
    """(N, C, H, W) as pictures are drawn: (N, H, W) or (N, H, W, 3)."""
    return images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1)


def nearest(images: Tensor, among: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Positions (N, count) in ``among`` of the images nearest to each of ``images``, and 2-norm distances, nearest first."""
    wanted = images.flatten(1).float()
    size = max(1, _PART // wanted.shape[1])
    best = torch.full((len(wanted), count), torch.inf)
    places = torch.zeros(len(wanted), count, dtype=torch.int64)
    for start in range(0, len(among), size):
        part = among[start : start + size].flatten(1).float()
        distances = torch.cat((best, torch.cdist(wanted, part)), 1)
        here = torch.arange(start, start + len(part)).expand(len(wanted), -1)
        best, chosen = distances.topk(count, largest=False)
        places = torch.cat((places, here), 1).gather(1, chosen)
    return places, best


def snapshots(folder: RunFolder, trainer: Trainer, schema: ImageSchema, count: int) -> Callable[[dict[str, Any]], None]:
    """A callback that draws samples of the averaged weights ``count`` times along training, of the same latents each time."""

    def call(record: dict[str, Any]) -> None:
        step, settings = int(record["step"]), trainer.settings
        before = max(0, step - settings.validation_period)
        if record["split"] != "validation" or step * count // settings.steps == before * count // settings.steps:
            return
        flow = flow_of(trainer.best_network())  # type: ignore[arg-type]
        if flow is not None:
            draw_snapshot(flow, schema, folder.path / "pictures" / f"samples_after_{step:07d}_steps.png", settings.seed)

    return call


def draw_snapshot(flow: Flow, schema: ImageSchema, path: Path, seed: int) -> None:
    """A row of samples, or nothing where the weights have no certified inverse at this point."""
    anchor = flow.anchor
    context = None
    if flow.context:
        kinds = torch.arange(_SNAPSHOT) * flow.context // _SNAPSHOT
        context = torch.nn.functional.one_hot(kinds, flow.context).to(anchor)
    try:
        x = flow.sample(_SNAPSHOT, context, noise=Noise(seed, torch.arange(_SNAPSHOT, device=anchor.device)))
    except NotConverged:
        return
    sheet(path, schema.decode(x), _SNAPSHOT // 2, levels=schema.levels)
