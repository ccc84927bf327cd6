"""Write docs/results.md from results/quality/*.json: the page holds no number that a file does not.

python experiments/table.py            write the page
python experiments/table.py --check    exit with 1 if the page is not what the files say
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
HEAD = """# Results

Held-out figures of the density task, each the mean over seeds with its standard deviation. Every row is remade by the command
in its file under `results/quality/`; `python experiments/quality.py NAME` runs all its seeds. Log-likelihoods are in nats per row
and in the data's own units; *Gaussian* is the full-covariance Gaussian and *mixture* scikit-learn's `GaussianMixture` with its
default `reg_covar` and the number of components chosen on validation, both on the same rows, dequantised alike.
"""


NOTES = """## Notes

- The flow is above both baselines on every seed. In `power-raw` its base is a mixture too, of as many components as validation
  chose for the plain one; EM takes some minutes more than the training time in the table. Over a normal, with 7,000 steps, the
  flow was 0.70 nats *below* the mixture (-6.56 against -5.85).
- Read the gain on `power-raw` as that of a finer ruler, not of a better description. All five columns hold levels (steps of
  0.002, 0.002, 0.01, 0.2 and 1), on which a density has no upper limit: narrower is higher. On the validation rows of seed 0 the
  plain mixture stands at -5.80; the flow at -5.55 before its first step, since its EM sees whitened latents and so may be
  narrower in the data's units; and at -5.48 at the end. The blocks hardly move, as the error of their round trip shows. Training
  the base alone at a learning rate of 0.01 reached -3.82 in 800 steps and was still rising. `power` is the honest figure.
- What did not help, by validation of seed 0: a mixture fitted to the latents of a flow trained before (-5.86 on `power-raw`), and
  a mixture of 2 or 5 components on `digits` and `miniboone-head`, where full covariances overfit a thousand rows.
- The settings of `power` were chosen with held-out figures in view. A first setting (16 blocks, bound 0.99, 20,000 steps) was run
  on all three seeds and was 0.08 nats *below* the mixture (-7.12 against -7.03); depth and bound were then raised by trials of
  seed 0, and all seeds run again. The presets were likewise chosen with figures of seed 0 in view. The mixture's figures on
  `power` are those of the first run: they depend on rows and seed alone.
- On `power` the mixture's best number of components on validation is 400, the largest tried; 600 gave the same on the test set
  to 0.01 nats on seed 0. On `power-raw` it is 400 too, and more would be better: with 800 the plain mixture reaches -5.51 on
  the validation rows of seed 0, just below the flow with 400 (-5.48) and a flow with 800 before its first step (-5.47).
- `miniboone-head` is the first 1,523 rows of the benchmark's array, and not the benchmark; its column f04 is exactly 0 in 9.6 %
  of them. `digits` are 1,797 images of 8 x 8 with 17 levels, dequantised; uniform noise would measure 4.09 bits/dim.
"""


def told(figure: dict[str, float] | None, digits: int) -> str:
    """Mean and spread."""
    if figure is None:
        return "–"
    spread = figure["spread"]
    known = spread is not None and not math.isnan(spread)
    return f"{figure['mean']:.{digits}f}" + (f" ± {spread:.{digits}f}" if known else "")


def section(title: str, columns: list[str], rows: list[list[str]]) -> str:
    """A heading and a table."""
    lines = [f"## {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


CONDITIONAL = {"moons-by-moon": "moons", "swiss-roll-by-angle": "swiss-roll", "digits-by-label": "digits"}


def gains(files: dict[str, Any]) -> list[list[str]]:
    """What a context is worth: log p(x | c) - log p(x) on the same test rows, over the seeds that both have."""
    rows = []
    for name, plain in CONDITIONAL.items():
        if name in files and plain in files:
            given, without = ({run["seed"]: run["log_prob"]["value"] for run in files[key]["runs"]} for key in (name, plain))
            found = [given[seed] - without[seed] for seed in sorted(given.keys() & without.keys())]
            spread = statistics.stdev(found) if len(found) > 1 else math.nan
            rows.append([f"`{name}`", f"{len(found)}", told({"mean": statistics.fmean(found), "spread": spread}, 3)])
    return rows


def page() -> str:
    """The whole page."""
    files = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "results" / "quality").glob("*.json"))}
    toys, tables = [], []
    for name, content in files.items():
        summary, runs = content["summary"], content["runs"]
        seconds = f"{sum(run['seconds'] for run in runs) / len(runs):.0f} s"
        common = [f"`{name}`", f"{len(runs)}", seconds, f"{runs[0]['parameters']:,}"]
        roundtrip = f"{max(run['roundtrip']['max_error'] for run in runs):.0e}"
        if "nats_above_truth" in summary:
            toys.append([*common, told(summary["nats_above_truth"], 4), told(summary["log_prob"], 3), roundtrip])
        else:
            figures = [told(summary["log_prob"], 2), told(summary["gaussian"], 2), told(summary.get("mixture"), 2)]
            tables.append([*common, *figures, told(summary.get("bits_per_dim"), 3), roundtrip])
    first = ["experiment", "seeds", "training", "parameters"]
    parts = [
        HEAD,
        section("Toy sets: nats above the truth", [*first, "nats above the true log p", "log p", "round trip"], toys),
        section("Tables", [*first, "log p", "Gaussian", "mixture", "bits/dim", "round trip"], tables),
        section("Conditional against unconditional", ["experiment", "seeds", "log p(x given c) - log p(x)"], gains(files)),
        "The gain is an estimate of the mutual information, at most the entropy of a label: log 2 = 0.693 for the two moons,",
        "log 10 = 2.303 for the digits.",
        "",
        "*Nats above the truth* is the mean of the true log-density minus the flow's, on the same 20,000 test points. *Round",
        "trip* is the largest 2-norm distance of a test row from decode(encode(row)), in standardised units, over all seeds.",
        "",
        NOTES,
        "## Commands and machines",
        "",
    ]
    for name, content in files.items():
        machine: dict[str, Any] = content["machine"]
        where = f"{machine['processor']}, {machine['threads']} thread(s) a run, {machine['at_once']} run(s) at once"
        parts.append(f"- `{name}`: `{content['command']}`; {where}")
    return "\n".join(parts) + "\n"


def main() -> None:
    if "--check" in sys.argv[1:]:
        fresh = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        sys.exit(0 if fresh else "docs/results.md is stale: run python experiments/table.py")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
