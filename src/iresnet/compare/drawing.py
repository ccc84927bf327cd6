"""Pictures of a comparison: every density and its samples side by side, or what suits the data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset, ImageSchema
from ..pictures.canvas import DATA, NOTE, SAMPLES, new_figure, save, some
from ..pictures.grid import tiled
from .running import Comparison

__all__ = ["draw"]

_COLUMNS, _NATS, _IMAGES = 4, 12.0, 25


def draw(comparison: Comparison, dataset: Dataset) -> list[Path]:
    """Draw the first seed of every system that has something to show, best first, into ``pictures/``."""
    from .table import summarise

    lines = [line for line in summarise(comparison.rows) if line["finished"]]
    first = {line["model"]: min(row["seed"] for row in comparison.rows if _is(row, line["model"])) for line in lines}
    shown = [(line["title"], comparison.arrays(line["model"], first[line["model"]])) for line in lines]
    shown = [(title, arrays) for title, arrays in shown if arrays]
    place = comparison.folder / "pictures"
    if not shown:
        return []
    held = dataset.test.values.numpy()
    if isinstance(dataset.schema, ImageSchema) or (dataset.kind == "digits" and dataset.features == 64):
        top = dataset.schema.levels - 1 if isinstance(dataset.schema, ImageSchema) else 16
        return [_images(place / "samples.png", held, shown, top)]
    if any("grid" in arrays for _, arrays in shown):
        return [_densities(place / "densities.png", held, shown, dataset), _clouds(place / "samples.png", held, shown)]
    return [_marginals(place / "marginals.png", held, shown, list(dataset.schema.names))]


def _is(row: dict[str, Any], model: str) -> bool:
    return row["model"] == model and row["status"] == "finished"


def _panels(count: int) -> tuple[int, int]:
    columns = min(_COLUMNS, count)
    return math.ceil(count / columns), columns


def _densities(path: Path, held: np.ndarray, shown: list[tuple[str, dict[str, Any]]], dataset: Dataset) -> Path:
    """log p of each system on the same colours, after the truth where it is known."""
    grids = [(title, arrays["grid"], arrays["extent"]) for title, arrays in shown if "grid" in arrays]
    if dataset.log_density is not None:
        grids.insert(0, ("the truth", _truth(grids[0][1], grids[0][2], dataset), grids[0][2]))
    finite = grids[0][1][np.isfinite(grids[0][1])]
    top = float(finite.max())
    with new_figure(*_panels(len(grids)), size=2.6) as (figure, axes):
        for axis, (title, grid, extent) in zip(axes.flat, grids, strict=False):
            density = np.exp(np.clip(np.nan_to_num(grid, nan=-np.inf) - top, -100, 3))
            axis.imshow(density, origin="lower", extent=tuple(extent), cmap="Oranges", vmin=0, vmax=1, aspect="auto")
            _frame(axis, title, DATA if title == "the truth" else SAMPLES, extent)
        _blank(axes, len(grids))
        return save(figure, path)


def _truth(like: np.ndarray, extent: np.ndarray, dataset: Dataset) -> np.ndarray:
    import torch

    x = torch.linspace(float(extent[0]), float(extent[1]), like.shape[1], dtype=torch.float64)
    y = torch.linspace(float(extent[2]), float(extent[3]), like.shape[0], dtype=torch.float64)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    assert dataset.log_density is not None
    return dataset.log_density(torch.stack((columns.flatten(), rows.flatten()), 1)).reshape(like.shape).numpy()


def _clouds(path: Path, held: np.ndarray, shown: list[tuple[str, dict[str, Any]]]) -> Path:
    """Samples of each system after the data."""
    clouds = [("data", held), *((title, arrays.get("samples")) for title, arrays in shown)]
    extent = next(arrays["extent"] for _, arrays in shown if "extent" in arrays)
    with new_figure(*_panels(len(clouds)), size=2.6) as (figure, axes):
        for axis, (title, cloud) in zip(axes.flat, clouds, strict=False):
            if cloud is None:
                axis.text(0.5, 0.5, "draws none", ha="center", va="center", color=NOTE, transform=axis.transAxes)
            else:
                dots = some(np.asarray(cloud))
                axis.scatter(dots[:, 0], dots[:, 1], s=2, c=DATA if title == "data" else SAMPLES, alpha=0.5, linewidths=0)
            _frame(axis, title, DATA if title == "data" else SAMPLES, extent)
        _blank(axes, len(clouds))
        return save(figure, path)


def _marginals(path: Path, held: np.ndarray, shown: list[tuple[str, dict[str, Any]]], names: list[str]) -> Path:
    """Histograms of the first columns: data filled, samples of each system as a line, one row of panels for each."""
    drawn = [(title, arrays["samples"]) for title, arrays in shown if "samples" in arrays]
    count = min(_COLUMNS, len(names))
    with new_figure(len(drawn), count, size=2.2) as (figure, axes):
        for row, (title, samples) in enumerate(drawn):
            for column in range(count):
                axis = axes[row, column]
                low, high = np.quantile(held[:, column], [0.005, 0.995])
                edges = np.linspace(low, high if high > low else low + 1, 41)
                for values, colour, fill in ((held, DATA, True), (samples, SAMPLES, False)):
                    heights = np.histogram(values[:, column], edges)[0] / len(values)
                    axis.stairs(heights, edges, color=colour, fill=fill, alpha=0.35 if fill else 1.0, linewidth=1.4)
                axis.set(yticks=[], box_aspect=0.7)
                axis.locator_params(axis="x", nbins=3)
                axis.set_xlabel(names[column][:14] if row == len(drawn) - 1 else "", parse_math=False)
                if column == 0:
                    axis.set_ylabel(title, color=SAMPLES, fontsize=10)
        return save(figure, path)


def _images(path: Path, held: np.ndarray, shown: list[tuple[str, dict[str, Any]]], top: int) -> Path:
    """A square of samples of each system after the data."""
    sheets = [("data", held[:_IMAGES]), *((title, arrays["samples"][:_IMAGES]) for title, arrays in shown if "samples" in arrays)]
    with new_figure(*_panels(len(sheets)), size=2.6) as (figure, axes):
        for axis, (title, images) in zip(axes.flat, sheets, strict=False):
            side = images.reshape(len(images), 8, 8) if images.ndim == 2 else images
            if side.ndim == 4:
                side = side[:, 0] if side.shape[1] == 1 else side.transpose(0, 2, 3, 1)
            axis.imshow(tiled(np.clip(np.nan_to_num(side.astype(float)) / top, 0, 1)), cmap="gray", vmin=0, vmax=1)
            axis.set_title(title, color=DATA if title == "data" else SAMPLES, fontsize=11)
            axis.set_axis_off()
        _blank(axes, len(sheets))
        return save(figure, path)


def _frame(axis: Any, title: str, colour: str, extent: Any) -> None:
    axis.set(xlim=extent[:2], ylim=extent[2:], box_aspect=1, xticks=[], yticks=[])
    axis.set_title(title, color=colour, fontsize=11)


def _blank(axes: np.ndarray, used: int) -> None:
    for axis in axes.flat[used:]:
        axis.set_axis_off()
