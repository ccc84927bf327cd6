"""The text of docs/contractions.md from results/contraction/*.json; ``python experiments/contractions.py --page``
writes it."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "page"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "contractions.md"
FOLDER = ROOT / "results" / "contraction"
Rows = list[dict[str, Any]]

HEAD = """# Which contraction

How a branch is held to its Lipschitz bound decides what a flow learns in a given time. These tables compare the ways,
at equal time where time is what counts. Each is remade by the command under it; what did not help stands beside what
did.
"""

# What each question was, and what the figures say.
QUESTIONS = {
    "activation": (
        "Activation of a sandwich layer",
        """tanh, and ELU close behind; on the digits the two are alike. The integral of exp(-x^2) and a sine cut off at its
extremes, which saturate sooner than tanh, learn more in a step and make it dearer: the former is ahead by 0.004 of the
same seeds, less than their spread, which is no reason for one more activation.
Arctan, which saturates later, follows; softplus and arsinh are clearly behind on both. ReLU and the cut-off identity
learn *nothing* on the checkerboard: they stay at the full Gaussian that a flow starts from, 1.03 nats above the truth.
Their log-determinant jumps where a unit switches, and no gradient at a point sees that part. The logistic sigmoid wastes
three quarters of the bound, since its slope is at most 1/4.""",
    ),
    "depth": (
        "Hidden layers of a branch",
        """Two. Three learn more in a step on the checkerboard, which costs 40 % more, and come to the same; on the digits
they are behind, as four are on both. One is too simple for the checkerboard. Up to two have an exact trace, which
estimators of wide data need.""",
    ),
    "shape": (
        "Many narrow blocks or few wide ones",
        """On the checkerboard many narrow ones: 16 blocks of 32 and 32 of 16 come to the same, and fewer, wider blocks are
behind. The digits, of 64 columns and a thousand rows, ask for little deformation: 4 blocks of 128 are as good as 8 of
32, and 32 blocks, of three times the cost of its reference there, get too few steps.""",
    ),
    "lipschitz": (
        "The bound c of a branch",
        """It does not matter here: differences are within the spread of seeds from 0.9 to 0.999, on both. A step costs the
same for all. 0.99 stays the default: a branch that does not need its bound does not use it.""",
    ),
    "family": (
        "Jointly bounded layers (sandwich) or normalised ones (Gram)",
        """Sandwich layers on the checkerboard, at the same cost of a step: normalised layers are behind with every
activation, most with LipSwish, that of Residual Flows, and a smaller learning rate does not help them. On the digits,
where the bound is not used (above), the families are alike.""",
    ),
    "held": (
        "Other ways to hold what a layer must hold",
        """A sandwich layer only asks for a matrix [A B] of norm at most one. Cayley's orthonormal ones stay: almost
orthogonal layers (Prach and Lampert, 2022) and division by the Gram bound save 5 to 10 % of a step and are behind, since
neither keeps all directions at full length. In place of normalised layers, almost orthogonal ones come to what these
come to (0.30, above).""",
    ),
    "residual": (
        "Residual layers of norm one inside a branch (SLL, CPL)",
        """Layers h - 2 W T^-1 s(W^T h + b) between an input and an output map: T from the sums of |W^T W| (SLL, Araujo et
al., 2023) or its norm (CPL, Meunier et al., 2022). Each passes h on beside its own units, which makes it a wide layer: a
step costs a fifth more where h is as wide as x, two thirds more at 32. All are ahead of normalised layers (0.30, above),
and behind sandwich layers, the best of them by 0.05.""",
    ),
    "concatenation": (
        "Dense concatenation (i-DenseNets), and units without an activation",
        """Each hidden layer's output beside its input, with learned weights whose squares add up to one (Perugachi-Diaz et
al., 2021): behind the same normalised layers without it (0.30 with tanh, 0.38 with LipSwish, above), at 1.5 to 3.5 times
the cost. CLipSwish is no activation with one slope for each unit, so its derivatives are not in closed form, which is
most of its cost. Bounding the skips *jointly*, by units without an activation in sandwich layers, is sound as it stands,
for the identity has slope one, and learns no more in equal time than sandwich layers without.""",
    ),
}


WAYS = """Cayley's transform with one inverse stays. Constraining all 16 blocks takes a tenth of a training step at width 32
and under a third at 128, and no other way makes the step more than a tenth cheaper: a linear system or a Cholesky
factor in place of the inverse gain a few percent at some widths and lose them at others, QR gains nothing, and
iterations and exponentials cost many times more. The inverse is also the most accurate: *drift* is the largest norm
minus one that float32 leaves for weights of scale 100, before the bound divides it out. (Cholesky's is negative, since
its ridge takes some of the norm away.)

*ms* is `constrain` of 16 blocks in one call with its backward pass, *step* a whole training step in units of the
present one (43 columns, batch 512), by width."""

PRECISION = """`train.precision=bf16` has branches multiply and convolve in bfloat16 in training, and nothing else: weights,
bounds, sums of log-determinants, evaluation and inverses are as ever. On a processor with units for it (AMX) it takes
a fifth to a third off a step of convolution branches. After equal steps of a short training on MNIST bits/dim are 0.03
higher in the mean of three seeds, which is about the spread of the seeds; in equal time, they are far lower. For dense
branches it pays from some hundred units on, with the same likelihood; at the widths of the presets it costs time,
since casting, and doing without gradients in closed form, cost more than small products save. So it is off unless
asked for. None of this was measured on a GPU. *Rounded* is oneDNN's own switch, which keeps all sums in float32:
slower than float32 itself for convolutions, and so not taken. *Gradient* is the relative change of the whole gradient
at random weights."""

BOUNDS = """The largest ratio to the true norm over three kernels of each kind. The smallest of four tori is the bound in use; a
sum over taps, and almost orthogonal layers, are loose by factors where channels are many."""

CONVOLUTIONS = """Joint bounds are worth as much here as they are for dense branches, at no cost of a step; the ends of
a branch held by almost orthogonal layers gain nothing. Dense concatenation, its kernels over their bounds, learns no more
in a step than the same layers without it, and a step costs two thirds more; it was run for fewer steps, of smaller
batches, beside the two that it is to be held against. The error is that of the finite test set, which all branches
share.

Not tried: sandwich layers by Cayley's map at each frequency of the image. They are jointly bounded for images with
periodic borders, not for the zeros that pad ours, and a layer of 32 channels at 28 x 28 takes 420 factorisations of
complex matrices for each step."""


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def told(values: list[float], digits: int) -> str:
    """Mean, and range where there are several."""
    if not values:
        return "–"
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def _dense(content: dict[str, Any]) -> list[str]:
    rows: Rows = content["rows"]
    quiet = [row for row in rows if row["question"] == "reference"]
    seconds = {data: statistics.median(row["seconds"] for row in quiet if row["data"] == data) for data in content["reference"]}
    steps = " and of ".join(f"{count} steps of the reference on {data}" for data, count in content["reference_steps"].items())
    references = "; ".join(
        f"on {data} {one['blocks']} blocks of {one['hidden'][0]} x {one['hidden'][1]}, c = {one['lipschitz']:g}, "
        f"learning rate {one['lr']:g}, a {one['base']} base"
        for data, one in content["reference"].items()
    )
    about = (
        f"Equal time is that of {steps}, {' and '.join(f'{value:.0f} s' for value in seconds.values())} of one thread. "
        f"The reference: sandwich layers, tanh, {references}. Each answer changes one thing and takes as many steps "
        "as the same time allows. Checkerboard: nats above the truth on 20,000 points, lower is better. Digits: log p of "
        "held-out rows in nats, higher is better. Mean, and range over seeds; a figure without a range is one seed: there, read "
        "differences below 0.02 on the checkerboard and below two nats on the digits as none."
    )
    parts = ["## Dense branches at equal time", "", textwrap.fill(about, 128, break_on_hyphens=False), ""]

    def figures(question: str, answer: str, data: str, key: str) -> list[float]:
        return [row[key] for row in rows if (row["question"], row["answer"], row["data"]) == (question, answer, data)]

    def line(question: str, answer: str) -> list[str]:
        cost = f"{statistics.fmean(figures(question, answer, 'checkerboard', 'relative_cost')):.2f}"
        nats = told(figures(question, answer, "checkerboard", "nats_above_truth"), 3)
        return [answer, cost, nats, told(figures(question, answer, "digits", "log_prob"), 1)]

    for question, (title, text) in QUESTIONS.items():
        answers = list(dict.fromkeys(row["answer"] for row in rows if row["question"] == question))
        lines = [line("reference", "reference"), *(line(question, answer) for answer in answers)]
        parts += [f"### {title}", "", text, "", table(["answer", "cost of a step", "checkerboard", "digits"], lines)]
    return [*parts, _source(content), ""]


def _ways(content: dict[str, Any]) -> list[str]:
    rows: Rows = content["rows"]
    widths, ways = sorted({row["width"] for row in rows}), list(dict.fromkeys(row["way"] for row in rows))

    def cell(way: str, told_of: Callable[[dict[str, Any]], str]) -> list[str]:
        return [told_of(next(row for row in rows if (row["width"], row["way"]) == (width, way))) for width in widths]

    lines = [
        [
            way,
            *cell(way, lambda row: f"{row['constrain']['ms']:.1f}"),
            *cell(way, lambda row: f"{row['step']['ratio']:.2f}"),
            *cell(way, lambda row: f"{row['drift']['100']:.0e}"),
        ]
        for way in ways
    ]
    columns = ["way", *(f"ms, {width}" for width in widths), *(f"step, {width}" for width in widths)]
    return [
        "## Ways to an orthonormal matrix",
        "",
        WAYS,
        "",
        table([*columns, *(f"drift, {width}" for width in widths)], lines),
        _source(content),
        "",
    ]


def _precision(content: dict[str, Any]) -> list[str]:
    lines = [
        [row["network"], str(row["width"]), str(row["blocks"]), f"{row['step']['float32']['ms']:.0f}"]
        + [f"{row['step'][way]['ratio']:.2f}" for way in ("rounded", "bf16")]
        + [f"{row['step'][way]['gradient']:.3f}" for way in ("rounded", "bf16")]
        for row in content["rows"]
    ]
    columns = ["network", "width", "blocks", "float32, ms", "rounded", "bf16", "gradient, rounded", "gradient, bf16"]
    found = [
        [row["data"], str(row["seed"]), row["way"], str(row["steps"]), f"{row['seconds']:.0f} s"]
        + [f"{row['bits_per_dim']:.4f} bits/dim" if "bits_per_dim" in row else f"{row['log_prob']:.2f} nats"]
        for row in sorted(content["likelihood"], key=lambda row: (row["data"], row["seed"]))
    ]
    return [
        "## bfloat16 in training",
        "",
        PRECISION,
        "",
        table(columns, lines),
        table(["data", "seed", "way", "steps", "time", "reached"], found),
        _source(content),
        "",
    ]


def _convolutions(content: dict[str, Any]) -> list[str]:
    bounds: dict[str, dict[str, float]] = content["bounds"]
    names = list(next(iter(bounds.values())))
    parts = [
        "## Bounds of a convolution",
        "",
        BOUNDS,
        "",
        table(["resolution, kernel", *names], [[kind, *(f"{row[name]:.3f}" for name in names)] for kind, row in bounds.items()]),
        "## Convolution branches after equal steps",
        "",
        CONVOLUTIONS,
        "",
    ]
    for setting, found in content["families"].items():
        lines = [
            [name, f"{row['bits_per_dim']:.3f} ± {row['stderr_data']:.3f}", f"{row['seconds_per_step']:.2f} s"]
            for name, row in sorted(found.items(), key=lambda item: item[1]["bits_per_dim"])
        ]
        parts += [f"MNIST: {setting}.", "", table(["branch", "bits/dim", "a step"], lines)]
    return [*parts, f"Remade by `{content['remake']}`."]


def _source(content: dict[str, Any]) -> str:
    machine = content["machine"]
    where = f"{machine['processor']}, {machine['threads']} thread, torch {content['versions']['torch']}"
    return f"Remade by `{content['remake']}`; {where}."


def page() -> str:
    """The whole page."""
    sections = {"dense": _dense, "parametrisations": _ways, "precision": _precision, "convolutions": _convolutions}
    parts = [HEAD]
    for name, section in sections.items():
        parts += section(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    return "\n".join(parts) + "\n"
