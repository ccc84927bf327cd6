"""A table like Table 1 of the i-ResNet paper: error, guaranteed inverse and worst reconstruction, over the coefficient c.

    python experiments/table1.py digits                        seven networks, three seeds: about five minutes on one core
    python experiments/table1.py mnist --threads 4             hours: the preset of each network as `iresnet train` has it
    python experiments/table1.py mnist --only 0.9 --seeds 0    one cell

One JSON file a data set, results/images/table1-NAME.json, written after every cell; cells that it holds for the same command are
not run again, and a cell that was interrupted goes on from its last checkpoint in --runs. "free" is the network without a
constraint (the paper's "vanilla"), "resnet" an ordinary pre-activation ResNet of the same depth and widths. --per says whether c
bounds each branch (the default) or each layer (as in the paper's public code; a branch of three layers then has c^3).

Reconstruction is measured on every test row, in the network's input units: standardised columns of a table, grey levels of
images. A free network is inverted by the same iteration, a hundred steps of it: nothing says that it ends, and a worst error of
null says that some row ran away to infinity.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from iresnet import UserError
from iresnet.config import build_config
from iresnet.files import write_json
from iresnet.reproduce.table1 import CELLS, measured, options_of, summary
from iresnet.runs import RunFolder, train_run

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "results" / "images", ROOT / "docs" / "classification.md"


def trained(options: dict[str, Any], sets: list[str], preset: str | None, folder: Path, threads: int) -> RunFolder:
    """The run in ``folder``, begun, gone on with, or found finished."""
    torch.set_num_threads(threads)
    config = build_config(options=options | {"train.threads": threads}, sets=sets, preset=preset)
    begun = (folder / "run.json").exists()
    outcome = train_run(config, folder, resume=begun)
    if not outcome.complete:
        raise SystemExit(f"{folder} was interrupted; run the same command again")
    return outcome.folder


def markdown(content: dict[str, Any]) -> str:
    """The table of a data set's file as it stands in docs/classification.md."""
    head = f"c of each {content['per']} | test error, % | inverse guaranteed | worst reconstruction | rows lost"
    lines = [f"| {head} |", "|---|---|---|---|---|"]
    for cell in CELLS:
        if cell in content["cells"]:
            found = content["cells"][cell]["summary"]
            wrong, spread, lost = found["error"]["mean"], found["error"]["spread"], found["lost"]
            spread = content["cells"][cell]["runs"][0]["error"]["stderr"] if spread is None else spread
            error = f"{100 * wrong:.2f} ± {100 * spread:.2f}"
            off = found["worst_reconstruction"]
            worst = "–" if lost is None else "infinite" if off is None else f"{off:.1e}"
            name = {"free": "none (free)", "resnet": "ordinary ResNet"}.get(cell, cell)
            shown = "–" if lost is None else f"{lost} of {found['rows']}"
            lines.append(f"| {name} | {error} | {'yes' if found['guaranteed'] else 'no'} | {worst} | {shown} |")
    seeds = max(content["cells"][cell]["summary"]["seeds"] for cell in content["cells"])
    over = "One seed, with the test set's binomial error" if seeds == 1 else f"Mean and standard deviation over {seeds} seeds"
    told = f"{over}; `{content['remake']}` makes it again."
    return "\n".join([*lines, "", told])


def write_page(path: Path, *, check: bool = False) -> None:
    """Put the file's table into the page, between its marks; or exit with 1 if it is not there as the file says."""
    begin, end = f"<!-- {path.stem} -->", f"<!-- end of {path.stem} -->"
    text = PAGE.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{PAGE} has no place for it: put {begin} and {end} where it shall stand")
    made = f"{before}{begin}\n\n{markdown(json.loads(path.read_text()))}\n\n{end}{rest.partition(end)[2]}"
    if check and made != text:
        raise SystemExit(f"{PAGE} is not what {path} says: run python experiments/table1.py {path.stem.split('-')[1]} --page")
    if not check:
        PAGE.write_text(made, encoding="utf-8")


def line(cell: str, found: dict[str, Any]) -> str:
    worst, lost = found["worst_reconstruction"], found["lost"]
    back = "–" if lost is None else f"{'infinite' if worst is None else f'{worst:.1e}'} ({lost} of {found['rows']} rows lost)"
    spread = found["error"]["spread"]
    wrong = f"{100 * found['error']['mean']:.2f}{'' if spread is None else f' ± {100 * spread:.2f}'} %"
    return f"{cell:>7}  error {wrong}  inverse {'guaranteed' if found['guaranteed'] else 'not guaranteed'}  reconstruction {back}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--per", choices=("branch", "layer"), default="branch")
    parser.add_argument("--preset")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="key=value of every network")
    parser.add_argument("--rows", type=int, help="test rows to reconstruct; all by default")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/table1"), help="where runs lie, to go on with")
    parser.add_argument("--page", action="store_true", help="train nothing: put the table into docs/classification.md")
    parser.add_argument("--check", action="store_true", help="train nothing: exit with 1 if the page is not what the file says")
    given = parser.parse_args()
    suffix = "" if given.per == "branch" else "-per-layer"
    path = RESULTS / f"table1-{given.data}{suffix}.json"
    if given.page or given.check:
        write_page(path, check=given.check)
        return
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), "threads": given.threads}
    remake = f"python experiments/table1.py {given.data}{f' --per {given.per}' if suffix else ''}"
    for cell in given.only:
        for seed in given.seeds:
            options, sets = options_of(cell, given.data, seed, given.per, given.sets)
            words = [given.data, "--task classify", *([f"--preset {given.preset}"] if given.preset else [])]
            command = " ".join(["iresnet train", *words, *(f"--set {text}" for text in sets), f"--seed {seed}"])
            runs = known["cells"].setdefault(cell, {"runs": []})["runs"]
            if any(run["command"] == command for run in runs):
                continue
            folder = given.runs / f"{given.data}{suffix}" / f"{cell}-{seed}"
            try:
                found = measured(trained(options, sets, given.preset, folder, given.threads), given.rows)
            except UserError as error:
                raise SystemExit(f"{cell}, seed {seed}: {error}") from error
            runs = [run for run in runs if run["seed"] != seed] + [{"seed": seed, "command": command, **found}]
            known["cells"][cell]["runs"] = sorted(runs, key=lambda run: run["seed"])
            known["cells"][cell]["summary"] = summary(known["cells"][cell]["runs"])
            write_json(path, known | {"data": given.data, "per": given.per, "remake": remake, "machine": machine})
            print(f"seed {seed} {line(cell, summary([{'seed': seed, **found}]))}", flush=True)
    for cell, content in known["cells"].items():
        print(line(cell, content["summary"]))


if __name__ == "__main__":
    main()
