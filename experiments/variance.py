"""Remake results/estimators/*.json: what an estimate of a log-determinant costs, and how far off it is.

    python experiments/variance.py digits lipschitz dimensions ideas roulettes      (half an hour on one core)
    IRESNET_DATA=... python experiments/variance.py images                (MNIST; as long again)
    python experiments/variance.py --table digits                         the file as Markdown

Errors are in nats per row for the whole log-density, root mean square over rows and draws of the probes, against the determinant
of the full Jacobian in float64. A product is one J^T v for one row in one block, so that figures are means over blocks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from torch import Tensor
from variance_ideas import ideas
from variance_roulettes import roulettes

import iresnet
from iresnet.files import write_json
from iresnet.models import image_flow
from iresnet.numerics.linearize import linearize
from iresnet.numerics.logdet import Estimate, LogDet
from iresnet.numerics.noise import Noise

RESULTS = Path(__file__).resolve().parent.parent / "results" / "estimators"
SEEDS = (0, 1, 2)
ROWS, IMAGES = 300, 8
TARGETS = {"digits": 0.3, "images": 0.003 * 784}  # standard errors in nats that a report might ask for
# What Residual Flows' code evaluates with: 20 terms and a geometric roulette, Gaussian probes, no exact trace.
PEER = iresnet.PowerSeries(terms=20, roulette="geometric", tail=0.5, distribution="gaussian", first_trace=False)
DIGITS: dict[str, LogDet] = {
    "Residual Flow": PEER,
    "Residual Flow, Rademacher": replace(PEER, distribution="rademacher"),
    "PowerSeries()": iresnet.PowerSeries(),
    "PowerSeries(probes=8)": iresnet.PowerSeries(probes=8),
    "Krylov()": iresnet.Krylov(),
    "Krylov(probes=8)": iresnet.Krylov(probes=8),
    "Krylov(probes=8, tol=0.01)": iresnet.Krylov(probes=8, tol=0.01),
    "Krylov(probes=2, split=16)": iresnet.Krylov(probes=2, split=16, tol=0.01),
    **{f"PowerSeries(terms={n})": iresnet.PowerSeries(terms=n) for n in (2, 5, 10)},
    **{f"Krylov(steps={n})": iresnet.Krylov(steps=n) for n in (2, 5, 10)},
    "Exact()": iresnet.Exact(),
}
PICTURES: dict[str, LogDet] = {
    "Residual Flow": PEER,
    "Residual Flow, Rademacher": replace(PEER, distribution="rademacher"),
    "PowerSeries()": iresnet.PowerSeries(),
    "Krylov()": iresnet.Krylov(),
    "Krylov(tol=0.01)": iresnet.Krylov(tol=0.01),
    "Krylov(split=1, tol=0.01)": iresnet.Krylov(split=1, tol=0.01),
    "Krylov(split=2, tol=0.01)": iresnet.Krylov(split=2, tol=0.01),
    "Krylov(split=3, tol=0.01)": iresnet.Krylov(split=3, tol=0.01),
}


class Counted:
    """An estimator that counts its Jacobian products, for one row, over all blocks that it is asked about."""

    def __init__(self, logdet: LogDet) -> None:
        self.logdet, self.products, self.blocks = logdet, 0, 0

    def __call__(self, function: Any, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Estimate]:
        self.blocks += 1
        return self.logdet(Watched(function, self), x, noise)


class Watched:
    """A bound branch whose products with J are counted."""

    def __init__(self, function: Any, counter: Counted) -> None:
        self.function, self.counter, self.lipschitz = function, counter, function.lipschitz

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def linearize(self, x: Tensor) -> Any:
        at = linearize(self.function, x)

        def count(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            def counted(vector: Tensor) -> Tensor:
                self.counter.products += len(vector) if vector.dim() > x.dim() else 1
                return product(vector)

            return counted

        return replace(at, vjp=count(at.vjp), jvp=count(at.jvp), attach=None)


def digits_flow(seed: int, family: str, lipschitz: float = 0.97, steps: int = 600) -> tuple[iresnet.Flow, Tensor]:
    """A flow trained on the digits, in float64, and held-out rows (ROWS, 64)."""
    data = iresnet.data.load("digits", seed=seed)
    x = data.train.values + Noise(seed, data.train.rows).uniforms(data.train.values)
    torch.manual_seed(seed)
    flow = iresnet.dense_flow(64, family=family, lipschitz=lipschitz)
    iresnet.fit(flow, x.float(), steps=steps, batch_size=256, seed=seed)
    held = torch.cat([data.validation.values, data.test.values])[:ROWS]
    return flow.double().eval(), (held + Noise(seed, torch.arange(len(held))).at(1).uniforms(held)).double()


def image_flow_of(seed: int, family: str, steps: int = 200) -> tuple[iresnet.Flow, Tensor]:
    """A small convolution flow trained on MNIST, in float64, and test images (IMAGES, 1, 28, 28)."""
    data = iresnet.data.load("mnist", seed=seed)
    torch.manual_seed(seed)

    def some(values: Tensor) -> Tensor:
        return values.reshape(-1, 1, 28, 28).float() + torch.rand(len(values), 1, 28, 28)

    flow = image_flow((1, 28, 28), blocks=(4, 4), hidden=32, family=family)
    flow.initialize(some(data.train.values[:512]))
    optimizer = torch.optim.AdamW(flow.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    flow.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        (-flow.log_prob(some(data.train.values[torch.randint(len(data.train.values), (64,))])).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
    return flow.double().eval(), some(data.test.values[:IMAGES]).double()


def measure(flow: iresnet.Flow, x: Tensor, estimators: dict[str, LogDet], repeats: int) -> dict[str, dict[str, float]]:
    """Errors made and stated, products and processor milliseconds of each estimator."""
    found, rows = {}, torch.arange(len(x))
    with torch.no_grad():
        bound = flow.bind()
        truth = bound.log_prob(x, logdet=iresnet.Exact())
        for name, logdet in estimators.items():
            runs, missing, seconds = list[Estimate](), list[Tensor](), list[float]()
            for index in range(repeats):
                noise, began = Noise(index, rows), time.process_time()
                runs.append(bound.estimate(x, logdet=logdet, noise=noise))
                seconds.append(time.process_time() - began)
                whole = full(logdet)
                if whole is not None and index == 0:  # with the same probes, all that differs is the truncation
                    missing.append(runs[0].value - bound.estimate(x, logdet=whole, noise=noise).value)
            counter = Counted(logdet)
            bound.estimate(x, logdet=counter, noise=Noise(0, rows))
            products = x[0].numel() if isinstance(logdet, iresnet.Exact) else counter.products / counter.blocks
            found[name] = {
                "error": rms(torch.stack([run.value - truth for run in runs])),
                "stderr": rms(torch.stack([run.stderr for run in runs])),
                "bias stated": float(torch.stack([run.bias for run in runs]).mean()),
                "bias made": rms(missing[0]) if missing else 0.0,
                "products": products,
                "ms": 1e3 * median(seconds),
            }
    return found


def full(logdet: LogDet) -> LogDet | None:
    """The same estimator, of the same probes, that leaves nothing out."""
    if isinstance(logdet, iresnet.Krylov):
        return replace(logdet, steps=None, tol=1e-8)
    if isinstance(logdet, iresnet.PowerSeries) and logdet.roulette is None:
        return replace(logdet, terms=None, tol=1e-8)
    return None


def rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def digits() -> list[dict[str, Any]]:
    """Flows trained on the digits, both families."""
    found = []
    for family in ("sandwich", "gram"):
        for seed in SEEDS:
            flow, x = digits_flow(seed, family)
            found.append({"family": family, "seed": seed, "estimators": measure(flow, x, DIGITS, 3)})
    return found


def images() -> list[dict[str, Any]]:
    """Convolution flows trained on MNIST, 784 dimensions."""
    return [
        {"family": family, "seed": seed, "estimators": measure(*image_flow_of(seed, family), PICTURES, 3)}
        for family in ("sandwich", "gram")
        for seed in SEEDS
    ]


def lipschitz() -> list[dict[str, Any]]:
    """The digits by Lipschitz bound."""
    some = {name: DIGITS[name] for name in ("PowerSeries(probes=8)", "Krylov(probes=8)", "Exact()")}
    return [
        {"family": family, "seed": 0, "lipschitz": c, "estimators": measure(*digits_flow(0, family, c, 300), some, 1)}
        for family in ("sandwich", "gram")
        for c in (0.5, 0.7, 0.9, 0.97, 0.99)
    ]


def dimensions(batch: int = 128) -> list[dict[str, Any]]:
    """Untrained flows with large gains, by number of columns and width of the branches."""
    some = {name: DIGITS[name] for name in ("PowerSeries(probes=8)", "Krylov(probes=8)", "Exact()")}
    found = []
    for size, width in ((8, 64), (32, 64), (64, 64), (128, 64), (256, 64), (512, 64), (128, 128), (256, 256), (512, 512)):
        torch.manual_seed(0)
        flow = iresnet.dense_flow(size, hidden=(width, width), blocks=2)
        for name, parameter in flow.named_parameters():
            if name.endswith("gain"):  # a new branch is zero, and zero is too easy
                torch.nn.init.uniform_(parameter, -1.5, 1.5)
        numbers = measure(flow.float().eval(), torch.randn(batch, size), some, 3)
        found.append({"columns": size, "hidden": width, "estimators": numbers})
    return found


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "digits": digits,
    "images": images,
    "lipschitz": lipschitz,
    "dimensions": dimensions,
    "ideas": lambda: ideas(digits_flow, SEEDS),
    "roulettes": lambda: roulettes(digits_flow, SEEDS),
}


def table(name: str) -> str:
    """A file as Markdown: means over seeds, and the standard deviation over them where there are several."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["runs"]:
        groups.setdefault(tuple(v for k, v in run.items() if k not in ("seed", "estimators", "std")), []).append(run)
    if name in ("dimensions", "lipschitz"):
        return _short(groups)
    lines = []
    for key, runs in groups.items():
        lines.append(f"\n{', '.join(map(str, key))}, {len(runs)} seeds:\n")
        if "std" in runs[0]:
            lines += ["| what is done | nats |", "|---|---:|"]
            lines += [f"| {idea} | {cell([run['std'][idea] for run in runs])} |" for idea in runs[0]["std"]]
            continue
        target = TARGETS.get(name)
        columns = list(next(iter(runs[0]["estimators"].values())))
        head = columns if target is None else [*columns, f"products to {target:g}"]
        lines += [f"| estimator | {' | '.join(head)} |", "|---|" + "---:|" * len(head)]
        for estimator in runs[0]["estimators"]:
            numbers = [run["estimators"][estimator] for run in runs]
            cells = [cell([n[column] for n in numbers]) for column in columns]
            if target is not None:  # the error falls with the root of the probes; one use is the least there is
                cells.append(cell([n["products"] * max(1.0, (n["error"] / target) ** 2) for n in numbers]))
            lines.append(f"| `{estimator}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(groups: dict[tuple[Any, ...], list[dict[str, Any]]]) -> str:
    """One row for each setting: of each estimator products for one probe, error and milliseconds."""
    first = next(iter(groups.values()))[0]
    names = list(first["estimators"])
    setting = [key for key in first if key not in ("seed", "estimators")]
    lines = [
        "| "
        + " | ".join([*setting, *(f"{name.split('(')[0]} {what}" for what in ("error", "products", "ms") for name in names)])
        + " |"
    ]
    lines.append("|" + "---|" * len(setting) + "---:|" * (3 * len(names)))
    for key, runs in groups.items():
        cells = [cell([run["estimators"][name][what] for run in runs]) for what in ("error", "products", "ms") for name in names]
        lines.append("| " + " | ".join([*map(str, key), *cells]) + " |")
    return "\n".join(lines)


def cell(given: Sequence[float | None]) -> str:
    values = [value for value in given if value is not None]
    if len(values) < len(given):  # NaN: not known
        return "–"
    spread = f" ± {stdev(values):.1g}" if len(values) > 1 and stdev(values) > 0.02 * abs(mean(values)) else ""
    return f"{mean(values):.3g}{spread}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What estimates of log-determinants cost, and how far off they are.")
    parser.add_argument("parts", nargs="+", choices=sorted(PARTS))
    parser.add_argument("--table", action="store_true", help="print what the files hold")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for part in asked.parts:
        if not asked.table:
            began = time.perf_counter()
            runs = PARTS[part]()
            machine = f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}"
            minutes = (time.perf_counter() - began) / 60
            told = {"command": f"python experiments/variance.py {part}", "machine": machine, "minutes": minutes}
            write_json(RESULTS / f"{part}.json", {**told, "runs": runs})
        print(table(part))


if __name__ == "__main__":
    main()
