"""Remake results/cost_model.json: processor time of a row, scored, trained on and drawn, by dimension, depth, dtype and ranks.

    python experiments/cost_model.py

Everything is processor time of one thread, the median over turns that take the cases in rotation, so that other programs on the
machine matter little. Flows have weights drawn at random in place of trained ones, large enough for the series and the solver to
work. ``tables`` are dense flows, ``images`` convolution flows; ``ranks`` is the processor time of a training step of one batch on
one process and on two under torchrun, summed over processes: what is more than that of one is the price of working together.
What the file has is not measured again. ``docs/scaling.md`` shows the figures; ``--check`` compares it with the file, ``--page``
writes its tables again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from quality import processor
from torch import Tensor

from iresnet.files import write_json
from iresnet.flow import Flow
from iresnet.models import dense_flow, image_flow
from iresnet.numerics.noise import Noise
from iresnet.tasks.density import score
from iresnet.tasks.rows import Rows

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "results" / "cost_model.json", ROOT / "docs" / "scaling.md"
START, END = "<!-- figures -->", "<!-- end of figures -->"
TABLES = [(d, 8, 32) for d in (2, 8, 32, 128)] + [(8, blocks, 32) for blocks in (4, 16)] + [(8, 8, width) for width in (64, 128)]
IMAGES = [((1, 28, 28), (1, 1, 1), 48), ((1, 28, 28), (2, 2, 2), 48), ((3, 32, 32), (1, 1, 1), 48)]
ROWS, PICTURES = 2048, 16


def shaken(flow: Flow, x: Tensor) -> Flow:
    """The flow, set up on x, with weights of a size that training reaches."""
    flow.initialize(x)
    with torch.no_grad():
        for name, parameter in flow.named_parameters():
            if name.endswith(("gain", "weights.2")):  # what starts at zero
                parameter.normal_(0, 0.5 / (parameter.shape[-1] ** 0.5 if parameter.dim() > 1 else 1))
    return flow


def trained(flow: Flow, x: Tensor) -> None:
    flow.train()
    flow.zero_grad()
    (-flow.log_prob(x).mean()).backward()
    flow.eval()


def scored(flow: Flow, x: Tensor, dtype: torch.dtype) -> None:
    for _ in score(flow, Rows(x.double()), dtype=dtype, batch_size=1024):
        pass


def drawn(flow: Flow, count: int) -> None:
    with torch.no_grad():
        bound = flow.bind()
        bound.decode(bound.latents(count, Noise(0, torch.arange(count))))


def median(cases: dict[str, Callable[[], None]], turns: int) -> dict[str, float]:
    """Seconds of processor time of each case, by turns; a first turn is not counted."""
    spent: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(turns + 1):
        for name, run in cases.items():
            began = time.process_time()
            run()
            if turn:
                spent[name].append(time.process_time() - began)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


def tables(keep: Callable[[str, dict[str, Any]], None], done: list[Any]) -> None:
    for features, blocks, width in TABLES:
        if (features, blocks, width) in [(row["dimension"], row["blocks"], row["width"]) for row in done]:
            continue
        torch.manual_seed(0)
        x = torch.randn(ROWS, features) @ (torch.eye(features) + 0.3 * torch.randn(features, features).tril())
        flow = shaken(dense_flow(features, blocks=blocks, hidden=(width, width)), x).eval()
        some = x[:512]
        cases: dict[str, Callable[[], None]] = {
            "score, float64": lambda flow=flow, x=x: scored(flow, x, torch.float64),
            "score, float32": lambda flow=flow, x=x: scored(flow, x, torch.float32),
            "train, float32": lambda flow=flow, some=some: trained(flow, some),
            "sample": lambda flow=flow: drawn(flow, 512),
        }
        counts = {"score, float64": ROWS, "score, float32": ROWS, "train, float32": 512, "sample": 512}
        seconds = median(cases, 3)
        row = {"dimension": features, "blocks": blocks, "width": width, "logdet": repr(flow.eval_logdet)}
        keep("tables", row | {"us_per_row": {name: 1e6 * seconds[name] / counts[name] for name in cases}})


def images(keep: Callable[[str, dict[str, Any]], None], done: list[Any]) -> None:
    for shape, blocks, width in IMAGES:
        if (shape, blocks) in [(tuple(row["shape"]), tuple(row["blocks"])) for row in done]:
            continue
        torch.manual_seed(0)
        x = torch.rand(PICTURES, *shape) * 256
        flow = shaken(image_flow(shape, blocks=blocks, hidden=width, nonlinearity="elu"), x).eval()
        cases = {"train, float32": lambda flow=flow, x=x: trained(flow, x), "sample": lambda flow=flow: drawn(flow, 4)}
        seconds = median(cases, 3)
        row = {"shape": list(shape), "blocks": list(blocks), "width": width}
        row["parameters"] = sum(parameter.numel() for parameter in flow.parameters())
        ms = {"train, float32": 1e3 * seconds["train, float32"] / PICTURES, "sample": 1e3 * seconds["sample"] / 4}
        keep("images", row | {"ms_per_image": ms})


STEPS = """
import sys, time, torch
from iresnet import dense_flow
from iresnet.parallel import ranks
from iresnet.settings import Settings
from iresnet.tasks.rows import Rows
from iresnet.train import Trainer
torch.manual_seed(0)
torch.set_num_threads(1)
width, batch = int(sys.argv[1]), int(sys.argv[2])
x = torch.randn(20_000, 8)
flow = dense_flow(8, blocks=8, hidden=(width, width))
flow.initialize(x)
with ranks(torch.device("cpu")) as here:
    trainer = Trainer(flow, Rows(x), None, Settings(steps=1000, batch_size=batch), (), here)
    trainer.run(until=5)
    began = time.process_time()
    trainer.run(until=25)
    spent = here.add(torch.tensor((time.process_time() - began) / 20, dtype=torch.float64))
    if here.first:
        print(float(spent))
"""


def together(keep: Callable[[str, dict[str, Any]], None], done: list[Any]) -> None:
    """Processor time of a step, summed over one and over two processes."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "steps.py"
        script.write_text(STEPS)
        for width, batch in ((32, 512), (128, 512), (128, 4096)):
            ms: dict[str, float] = {}
            if (width, batch) in [(row["width"], row["batch"]) for row in done]:
                continue
            for count in (1, 2):
                launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
                command = [*launch, str(script), str(width), str(batch)]
                run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
                if run.returncode:
                    raise SystemExit(run.stderr)
                ms[str(count)] = 1e3 * float(run.stdout)
            keep("ranks", {"dimension": 8, "blocks": 8, "width": width, "batch": batch, "ms_per_step_of_all_ranks": ms})


def figures(content: dict[str, Any]) -> str:
    """The tables of the page."""
    lines = [
        "| columns | blocks | width | score, float64 | score, float32 | training step | sample |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in content["tables"]:
        told = row["us_per_row"]
        shown = " | ".join(f"{told[name]:.1f}" for name in ("score, float64", "score, float32", "train, float32", "sample"))
        lines.append(f"| {row['dimension']} | {row['blocks']} | {row['width']} | {shown} |")
    lines += [
        "",
        "| image | blocks | width | weights | training step, ms an image | sample, ms an image |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for row in content["images"]:
        size, ms = " x ".join(map(str, row["shape"])), row["ms_per_image"]
        head = f"| {size} | {sum(row['blocks'])} | {row['width']} | {row['parameters']:,} "
        lines.append(f"{head}| {ms['train, float32']:.0f} | {ms['sample']:.0f} |")
    lines += ["", "| width | batch | one process | two |", "|--:|--:|--:|--:|"]
    for row in content["ranks"]:
        ms = row["ms_per_step_of_all_ranks"]
        lines.append(f"| {row['width']} | {row['batch']} | {ms['1']:.1f} | {ms['2']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare the page with the file")
    parser.add_argument("--page", action="store_true", help="only write the page's tables again, from the file")
    asked = parser.parse_args()
    if not (asked.check or asked.page):
        torch.set_num_threads(1)
        machine = {"processor": processor(), "cores": os.cpu_count(), "threads": 1}
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        head = {"name": "cost_model", "remake": "python experiments/cost_model.py", "machine": machine, "versions": versions}
        held: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        rows = {part: held.get(part, []) for part in ("tables", "images", "ranks")}

        def keep(part: str, row: dict[str, Any]) -> None:
            rows[part].append(row)
            print(row, flush=True)
            write_json(RESULTS, head | rows)

        for part, measure in (("tables", tables), ("images", images), ("ranks", together)):
            measure(keep, rows[part])
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    new = f"{before}{START}\n\n{figures(json.loads(RESULTS.read_text()))}\n\n{END}{after}"
    if asked.check and new != text:
        raise SystemExit(f"{PAGE} is not what {RESULTS} says; write it again with: python experiments/cost_model.py --page")
    if not asked.check:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
