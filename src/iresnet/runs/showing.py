"""Pictures of a run for its report: the density in the plane, pairs of columns, digits, each beside data."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import ContextColumn, ImageSchema, Schema
from ..errors import UserError
from ..flow import Flow
from ..pictures import confusion_matrix, density_2d, image_grid, pairs, sheet
from .classes import draw_classes
from .evaluating import previous_of
from .folder import RunFolder
from .gallery import draw_images
from .sampling import draw_rows

__all__ = ["draw"]

_POINTS, _GRID, _IMAGES = 2000, 120, 64
_EACH, _ROWS = 12, 20  # samples of each class, and classes shown


def draw(folder: RunFolder, *, seed: int = 0) -> list[str]:
    """Draw what suits the task and the data, into ``pictures/``; returns the names of the files."""
    task = folder.config().task
    drawn = [] if task == "density" else _confusion(folder)
    if task != "classify":
        drawn += _by_class(folder, seed)
    return drawn if task == "classify" else [*drawn, *_samples(folder, seed)]


def _by_class(folder: RunFolder, seed: int) -> list[str]:
    """Where rows are images: samples of each class, one row of them for each."""
    dataset = folder.dataset()
    images = isinstance(dataset.schema, ImageSchema)
    if not images and not (dataset.kind == "digits" and dataset.features == 64):
        return []
    try:
        drawn = draw_classes(folder, _EACH, seed=seed, most=_ROWS).values
    except UserError:  # no classes, or one too rare to be drawn
        return []
    top = dataset.schema.levels if isinstance(dataset.schema, ImageSchema) else 17
    sheet(folder.path / "pictures" / "samples-by-class.png", drawn if images else drawn.reshape(-1, 1, 8, 8), _EACH, levels=top)
    return ["samples-by-class.png"]


def _confusion(folder: RunFolder) -> list[str]:
    """Who is taken for whom, as it was last evaluated."""
    found = previous_of(folder)
    if "confusion" not in found:
        return []
    confusion_matrix(folder.path / "pictures" / "confusion.png", found["confusion"], found["levels"], found["label"])
    return ["confusion.png"]


def _samples(folder: RunFolder, seed: int) -> list[str]:
    dataset = folder.dataset()
    flow, schema = folder.flow()
    if isinstance(schema, ImageSchema):
        return draw_images(folder, schema, seed=seed)
    digits = dataset.kind == "digits" and dataset.features == 64
    held = dataset.test if len(dataset.test) else dataset.train
    count = _IMAGES if digits else min(_POINTS, len(held))
    samples, _, _ = draw_rows(folder, count, seed=seed)
    place = folder.path / "pictures"
    if digits:
        top = (0.0, 16.0)
        image_grid(place / "samples.png", samples.reshape(-1, 8, 8), held.values[:_IMAGES].reshape(-1, 8, 8), scale=top)
        return ["samples.png"]
    if dataset.features == 2:
        low, high = _frame(torch.cat((held.values, dataset.train.values)))
        extent = (float(low[0]), float(high[0]), float(low[1]), float(high[1]))
        if not schema.context:
            density_2d(place / "density.png", _grid(flow, schema, low, high), extent, held.values[:_POINTS], samples)
            return ["density.png"]
        drawn = []
        for level in _levels(schema.context)[:4]:
            row = schema.context_row(level)
            name = "density " + " ".join(f"{key} {value}" for key, value in level.items())
            mine = (held.context == row).all(1) if held.context is not None else torch.ones(len(held), dtype=torch.bool)
            given, _, _ = draw_rows(folder, count, context=[f"{key}={value}" for key, value in level.items()], seed=seed)
            grid = _grid(flow, schema, low, high, row)
            density_2d(place / f"{name.replace(' ', '_')}.png", grid, extent, held.values[mine][:_POINTS], given)
            drawn.append(f"{name.replace(' ', '_')}.png")
        return drawn
    pairs(place / "pairs.png", list(schema.names), held.values[:_POINTS], samples)
    return ["pairs.png"]


def _levels(columns: tuple[ContextColumn, ...]) -> list[dict[str, str]]:
    """Contexts to show: each level of the first class column, or low, middle and high of the first numeric one."""
    first, rest = columns[0], columns[1:]
    others = {column.name: column.levels[0] if column.levels else "0" for column in rest}
    if first.levels:
        return [{first.name: level} | others for level in first.levels]
    return [{first.name: f"{first.center + step * first.scale:.4g}"} | others for step in (-1.0, 0.0, 1.0)]


def _frame(values: Tensor) -> tuple[Tensor, Tensor]:
    """The middle 99.8 % of both columns, and a little around."""
    quantiles = torch.quantile(values[:20_000], torch.tensor([0.001, 0.999], dtype=values.dtype), dim=0)
    margin = 0.15 * (quantiles[1] - quantiles[0]).clamp(min=1e-9)
    return quantiles[0] - margin, quantiles[1] + margin


def _grid(flow: Flow, schema: Schema, low: Tensor, high: Tensor, context: Tensor | None = None) -> Tensor:
    """log p in the user's units on a grid (H, W), rows from low y to high y; minus infinity outside the columns' support."""
    axes = [torch.linspace(float(low[k]), float(high[k]), _GRID, dtype=torch.float64) for k in range(2)]
    y, x = torch.meshgrid(axes[1], axes[0], indexing="ij")
    points = torch.stack((x.flatten(), y.flatten()), 1)
    inside = torch.ones(len(points), dtype=torch.bool)
    for place, column in enumerate(schema.columns):
        if column.support != "real":
            inside &= points[:, place] > (column.low if column.support == "bounded" else 0.0)
        if column.support == "bounded":
            inside &= points[:, place] < column.high
    values = torch.full((len(points),), -torch.inf, dtype=torch.float64)
    encoded, log_jacobian = schema.encode(points[inside], continuous=True)
    with torch.no_grad():
        found = torch.cat([flow.log_prob(part, context) for part in encoded.split(4096)])
    values[inside] = found.double().cpu() + log_jacobian
    return values.reshape(_GRID, _GRID)
