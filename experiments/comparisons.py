"""Comparisons that are recorded, and the page docs/compare.md made of them.

    python experiments/comparisons.py moons checkerboard     fit, minutes for each system; keep figures and pictures
    python experiments/comparisons.py --page                 write the page from the files
    python experiments/comparisons.py --check                exit with 1 if the page is not what the files say

An interrupted comparison goes on where it was. Data of files are looked up by name in the folder that IRESNET_DATA names.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from reproductions import keep_picture

from iresnet.compare.catalogue import entry
from iresnet.compare.display import markdown
from iresnet.compare.table import summarise
from iresnet.files import write_json
from iresnet.reproduce.table2 import PUBLISHED

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS, PICTURES = ROOT / "docs" / "compare.md", ROOT / "results" / "compare", ROOT / "docs" / "assets" / "compare"
CPU = ["--clock", "cpu"]
POWER = ["power_month", "--drop", "Sub_metering_1,Sub_metering_2,Sub_metering_3", "--dequantize", "auto"]
RUNS: dict[str, tuple[str, list[str]]] = {
    "moons": ("Two moons", ["moons", "--minutes", "1", *CPU]),
    "checkerboard": ("Checkerboard", ["checkerboard", "--minutes", "1", *CPU]),
    "digits": ("Digits: 64 columns of levels, 1,437 rows", ["digits", "--minutes", "2", *CPU]),
    "protein": ("Protein: 10 columns, 36,584 rows", ["protein", "--minutes", "3", *CPU]),
    "power": ("Household power: 5 columns, dequantised", [*POWER, "--minutes", "3", *CPU]),
    "mnist": ("MNIST", ["mnist", "--minutes", "5", "--seeds", "3", *CPU]),
}
HEAD = """# Which flow is right for your data?

```sh
pip install 'iresnet[compare]'
iresnet compare table.csv --models iresnet,glow,maf,nsf --minutes 3 --seeds 3
iresnet compare moons                                     # every system that can, a minute each
iresnet compare mnist --minutes 10 --clock cpu            # images: Glow with its scales, the others on logits of flattened pixels
iresnet compare --resume --out runs/compare-table-1       # on again: what is finished is kept
```

An invertible ResNet is one flow among many, and not the best one for every table. `compare` fits the others beside it, from
well-kept libraries, and tells. The folder then holds `compare.html`, a page to open; `compare.json`, every figure; the
pictures; and in `systems/` log p of every test row, by which two systems can be compared row by row.

## What is held equal

- **Rows**: one split; levels are dequantised by the same noise; the same test rows, which no system has seen, are scored in
  float64 (images in float32).
- **Units**: the schema's, then the same full-covariance whitening (of pixels the logit, and for all but the two that are made
  for images each pixel standardised). Its log-determinant is part of every density, which is in your units.
- **Parameters**: hidden widths are chosen so that the number of trainable parameters, masked ones not counted, comes nearest to
  `--params`, which is that of our own default unless you say. Planar and radial maps, of 2 d + 1 and d + 2 parameters, end at
  128 layers.
- **Time**: `--minutes` for each system and seed, of optimiser steps alone, by wall time or `--clock cpu`, which is fair on a
  busy machine.
- **The loop**: AdamW, gradients clipped, warm-up, a cosine of the time spent to zero, averaged weights, the best of twenty
  looks at the validation rows. Batches and averaging are those of `iresnet train` for such data; the learning rate is a
  system's own (below), chosen on the checkerboard by the validation rows.

| system | from | built as | learning rate |
|---|---|---|---|
| i-ResNet | iresnet | the network of `iresnet train` | 0.01; small tables 0.005 |
| NICE, RealNVP | zuko | 8 additive and a scaling, or 8 affine couplings | 0.01 |
| Glow | normflows | 16 steps of ActNorm, LU-parametrised linear map, affine coupling; images: 8 a scale | 0.01 |
| MADE, MAF, IAF | zuko | one masked layer, five, and five the other way round | 0.01 |
| NSF | zuko | 3 autoregressive layers of splines on [-5, 5] | 0.01 |
| FFJORD | zuko | a field with 3 hidden layers, adaptive solver; trace exact up to 8 columns (scored: 128), else a probe | 0.01 |
| planar, radial | normflows | up to 128 maps, from data to latent, which start at the identity | 0.01 |
| Residual | normflows | the library's example: 16 blocks, each layer 0.9 by power iteration | 0.003 |
| Gaussian, mixture, kernels | scikit-learn | components or bandwidth chosen on the validation rows | - |

Each adapter is held by tests: log p agrees with the base density and the determinant of the encoder by finite differences; in
the plane the density integrates to one, and to the share of its own samples in a frame. Where two libraries have a flow, the
one that passes is used: torchflows' radial map is off by up to 10.6 nats in 3 dimensions (20 random maps, 5 points each), and
nothing keeps its planar map invertible (10 of 1,000 as initialised are not). Planar and radial maps have a formula in one
direction. Here it is that of densities; sampling them would need a numerical inverse, and their cells say so.

A round trip is in float32 and in standardised units. *Certified* is what [the theory](theory.md) means by it: each branch is
bounded below one for every input, and every inverse ends with a bound of its error. *By formula* is exact up to rounding, which
a deep coupling may amplify."""
TOLD = """

## Recorded

Every system that can, one thread of a shared machine, by the processor's time; the command under each table makes it again.
"""


def fit(name: str) -> None:
    """Run one comparison in its folder, on where it was, and keep its figures and pictures."""
    folder = ROOT / "runs" / "compare" / name
    begun = (folder / "compare.json").exists()
    what = ["--resume"] if begun else RUNS[name][1]
    subprocess.run([sys.executable, "-m", "iresnet", "compare", *what, "--out", folder], check=True)
    keep(name, folder)


def keep(name: str, folder: Path) -> None:
    """The record of a finished comparison, without what is of one machine."""
    content = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    content["data"].pop("fingerprint")
    content.pop("command")  # which names a folder of this machine
    command = shlex.join(["iresnet", "compare", *RUNS[name][1]])
    head = {"name": name, "remake": f"python experiments/comparisons.py {name}", "command": command}
    write_json(RESULTS / f"{name}.json", head | content)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for path in (folder / "pictures").glob("*.png"):
        keep_picture(path, PICTURES / f"{name}-{path.name}")


def page() -> str:
    """The page of the files that there are."""
    parts = [HEAD.strip(), TOLD.strip()]
    for name, (title, _) in RUNS.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            continue
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        best = next(line["title"] for line in summarise(content["rows"]) if line["finished"])
        parts += [f"### {title}", markdown(content)]
        if name == "mnist":
            titles = {model: entry(model).title for model in PUBLISHED} | {"iresnet": "residual flows"}
            told = "; ".join(f"{titles[model]} {figure}" for model, figure in PUBLISHED.items())
            parts.append(
                f"Published bits/dim of MNIST, of large models after days of training, each paper with its own: {told}. "
                "IAF, the mixture and kernels are not in the table: each of IAF's densities takes a pass for every pixel, and "
                "the other two are not made for hundreds of dimensions."
            )
        for picture in sorted(PICTURES.glob(f"{name}-*.png")):
            shown = picture.stem.removeprefix(f"{name}-")
            parts.append(f"![{title}, {shown} of all systems, {best} first](assets/compare/{picture.name})")
        parts.append(f"```sh\n{content['command']}\n```")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    for name in asked.names:
        fit(name)
    if asked.check:
        fresh = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        sys.exit(0 if fresh else "docs/compare.md is stale: run python experiments/comparisons.py --page")
    if asked.page or asked.names:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
