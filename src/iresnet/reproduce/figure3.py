"""Samples of images beside the data, and images beside what is found again from their latents."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..report.format import bound, plus_minus
from ..runs import RunFolder, certify_run, draw, evaluate_run, reconstruct_run
from .base import I_RESNET, RESIDUAL_FLOWS, Bar, Cell, Picture, Record, Reproduction, Table
from .telling import mean_and_spread
from .trained import trained_run

__all__ = ["REPRODUCTION", "Figure3"]

_CAPTIONS = {
    "samples.png": "Test images on the left, samples on the right.",
    "neighbours.png": "Above, samples; below each, the three training images nearest to it in pixels.",
    "reconstruction.png": "Above, test images; in the middle their latents, from -3 (black) to 3 (white); below, what the "
    "inverse makes of these.",
}


@dataclass(frozen=True)
class Figure3:
    """An image flow on ``data``, by ``preset`` and ``sets`` for ``steps``, evaluated on ``rows`` test images."""

    data: str = "mnist"
    preset: str | None = "tiny"
    sets: tuple[str, ...] = ("model.blocks=[2,2,2]",)
    steps: int = 250
    rows: int = 200
    back: int = 50
    seeds: int = 1
    threads: int | None = 1


def _measure_one(setting: Figure3, seed: int, folder: Path, advance: Any) -> Cell:
    options: dict[str, Any] = {"data.name": setting.data, "seed": seed, "train.steps": setting.steps, "train.pictures": 0}
    options |= {"evaluate.rows": setting.rows, "evaluate.roundtrip": setting.back, "train.threads": setting.threads}
    run = trained_run(folder, options, setting.sets, setting.preset, advance=advance)
    evaluation, certificate = evaluate_run(run), certify_run(run)
    back = reconstruct_run(run, rows=setting.back)
    draw(run)
    status = run.status()
    told = {"bits_per_dim": evaluation["bits_per_dim"], "seconds": status["seconds"], "parameters": status["model"]["parameters"]}
    return told | {
        "rows": evaluation["rows"],
        "baselines": evaluation.get("baselines", {}),
        "worst_reconstruction": back["max_error"],
        "guaranteed": certificate["holds"],
        "worst_block_bound": max(block["bound"] for block in certificate["blocks"]),
    }


def measure(setting: Figure3, record: Record, bar: Bar) -> None:
    """A run for every seed."""
    for seed in range(setting.seeds):
        with bar(f"flow, seed {seed}", setting.steps) as advance:
            folder = record.path / "runs" / f"{seed}"
            record.cell(f"flow/{seed}", partial(_measure_one, setting, seed, folder, advance))


def pictures(record: Record) -> list[Picture]:
    """Those of the first run."""
    folder = RunFolder.open(record.path / "runs" / "0").path / "pictures"
    found = []
    for name, caption in _CAPTIONS.items():
        if (folder / name).exists():
            shutil.copyfile(folder / name, record.path / f"figure3-{name}")
            found.append(Picture(f"figure3-{name}", caption))
    return found


def tables(record: Record) -> list[Table]:
    """Bits per dimension, and the way there and back."""
    header = (
        "data",
        "bits/dim ± finite set ± estimator",
        "mean over seeds",
        "inverse guaranteed",
        "worst block bound",
        "worst reconstruction",
    )
    cells = record.under("flow")
    bits = [cell["bits_per_dim"] for cell in cells]
    told = [record.arguments["data"], plus_minus(bits[0]["value"], bits[0]["stderr_data"], bits[0]["stderr_estimator"])]
    told.append(mean_and_spread([each["value"] for each in bits]))
    told.append("yes" if all(cell["guaranteed"] for cell in cells) else "no")
    told.append(bound(max(cell["worst_block_bound"] for cell in cells)))
    told.append(f"{max(cell['worst_reconstruction'] for cell in cells):.1e}")
    return [Table("The flow that was drawn from", header, [told])]


def findings(record: Record) -> list[str]:
    """What the pictures are of."""
    cell = record.under("flow")[0]
    told = (
        f"{record.arguments['steps']:,} steps of a flow with {cell['parameters']:,} parameters: "
        f"{cell['bits_per_dim']['value']:.3f} bits/dim on "
    )
    return [f"{told}{cell['rows']} test images of {record.arguments['data']}."]


REPRODUCTION = Reproduction(
    "Figure 3: samples, and the way there and back",
    "An image flow is trained by maximum likelihood; samples are found from latents by certified fixed-point iteration, and "
    "shown beside test images and beside the training images nearest to them. Test images are encoded and found again.",
    [
        I_RESNET("the figures of samples and of reconstructions"),
        RESIDUAL_FLOWS("the figure of samples"),
    ],
    {"tiny": Figure3(), "paper": Figure3(preset="paper", sets=(), steps=250_000, rows=10_000, back=1000, threads=None)},
    measure,
    pictures,
    tables,
    findings,
    [
        "The tiny setting trains minutes where the papers train days, and its samples look like it.",
        "The paper's figure has no numbers; its bits per dimension are in table2.",
        "The reconstruction that fails, of a network without a constraint, is in table1.",
        "The papers show CIFAR-10 and CelebA-HQ too: `iresnet train cifar10` does the first.",
    ],
)
