"""Anomaly detection on tables of ADBench: the detector with its defaults beside four of scikit-learn with theirs.

python experiments/adbench.py [--data FOLDER] [--seeds 0 1 2] [--tables NAME ...]   run what results/adbench.json lacks
python experiments/adbench.py --write      put the table into docs/scikit-learn.md
python experiments/adbench.py --check      exit with 1 if the page does not hold the table of the file

FOLDER holds the .npz files of ADBench's datasets/Classical (X, y), as in $IRESNET_DATA/adbench. Of a table at most 6,000 rows
are used, drawn by the seed; half of them train, without labels, and the other half is scored. All methods see the same rows,
standardised by mean and standard deviation of the training half. One setting for all tables: the defaults.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FILE, PAGE = ROOT / "results" / "adbench.json", ROOT / "docs" / "scikit-learn.md"
BEGIN, END = "<!-- adbench: written by experiments/adbench.py -->", "<!-- end of adbench -->"
MOST = 6_000
METHODS = ("ResidualFlowOutlierDetector", "IsolationForest", "LocalOutlierFactor", "OneClassSVM", "GaussianMixture")


def build(name: str, seed: int) -> Any:
    """A detector with its defaults; larger ``score_samples`` are more ordinary for all of them."""
    from sklearn.ensemble import IsolationForest
    from sklearn.mixture import GaussianMixture
    from sklearn.neighbors import LocalOutlierFactor
    from sklearn.svm import OneClassSVM

    from iresnet.estimators import ResidualFlowOutlierDetector

    if name == "ResidualFlowOutlierDetector":
        return ResidualFlowOutlierDetector(random_state=seed)
    if name == "IsolationForest":
        return IsolationForest(random_state=seed)
    if name == "LocalOutlierFactor":
        return LocalOutlierFactor(novelty=True)
    return OneClassSVM() if name == "OneClassSVM" else GaussianMixture(random_state=seed)


def halves(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows, rows to score, and the labels of these, 1 for an anomaly."""
    from sklearn.preprocessing import StandardScaler

    with np.load(path, allow_pickle=False) as content:
        x, y = content["X"].astype(np.float64), content["y"].astype(int)
    order = np.random.default_rng(seed).permutation(len(x))[:MOST]
    train, test = np.array_split(order, 2)
    scaler = StandardScaler().fit(x[train])
    return scaler.transform(x[train]), scaler.transform(x[test]), y[test]


def run(path: Path, seed: int) -> dict[str, dict[str, float]]:
    """AUROC, average precision and processor time of every method."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    train, test, y = halves(path, seed)
    found = {}
    for name in METHODS:
        began = time.process_time()
        score = -build(name, seed).fit(train).score_samples(test)
        seconds = round(time.process_time() - began, 2)
        found[name] = {
            "auroc": float(roc_auc_score(y, score)),
            "average_precision": float(average_precision_score(y, score)),
            "seconds": seconds,
        }
    return found


def collect(folder: Path, seeds: list[int], tables: list[str]) -> None:
    """Run what is missing and write after every run, so that an interrupted one goes on."""
    import torch

    from iresnet.estimators import ResidualFlowOutlierDetector
    from iresnet.files import write_json

    torch.set_num_threads(1)
    setting = {key: value for key, value in ResidualFlowOutlierDetector().get_params().items() if key != "random_state"}
    content: dict[str, Any] = {
        "command": "python experiments/adbench.py",
        "rows_at_most": MOST,
        "setting": json.loads(json.dumps(setting)),
        "tables": {},
    }
    if FILE.exists():
        content = json.loads(FILE.read_text(encoding="utf-8"))
        if content["setting"] != json.loads(json.dumps(setting)):
            sys.exit(f"{FILE} was made with another setting: one setting for all tables; remove the file to start again")
    paths = sorted(folder.glob("*.npz"), key=lambda path: int(path.name.split("_")[0]))
    if not paths:
        sys.exit(f"{folder} holds no .npz files: give the folder of ADBench's tables with --data")
    for seed in seeds:
        for path in paths:
            name = path.stem.split("_", 1)[1]
            if tables and name not in tables:
                continue
            with np.load(path, allow_pickle=False) as data:
                about = {"rows": len(data["X"]), "columns": data["X"].shape[1], "anomalies": float(data["y"].mean())}
            table = content["tables"].setdefault(name, {**about, "runs": {}})
            if str(seed) not in table["runs"]:
                table["runs"][str(seed)] = run(path, seed)
                write_json(FILE, content)
                told = {method: round(figures["auroc"], 3) for method, figures in table["runs"][str(seed)].items()}
                print(name, seed, told, flush=True)


def section() -> str:
    """The table of the page, and what it is a table of."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    tables = content["tables"]
    seeds = sorted({seed for table in tables.values() for seed in table["runs"]})
    lines = [
        "| table | rows | columns | anomalies | " + " | ".join(METHODS) + " |",
        "|---|---|---|---|" + "---|" * len(METHODS),
    ]
    for name, table in tables.items():
        cells = []
        for method in METHODS:
            values = [run[method]["auroc"] for run in table["runs"].values()]
            cells.append(f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}")
        about = f"{table['rows']:,} | {table['columns']} | {100 * table['anomalies']:.1f} %"
        lines.append(f"| {name} | {about} | " + " | ".join(cells) + " |")
    for title, key in (("**mean AUROC**", "auroc"), ("mean average precision", "average_precision")):
        cells = []
        for method in METHODS:
            # The spread is that over seeds of the mean over tables.
            means = [statistics.fmean(table["runs"][seed][method][key] for table in tables.values()) for seed in seeds]
            cells.append(f"{statistics.fmean(means):.3f} ± {statistics.stdev(means):.3f}")
        lines.append(f"| {title} | | | | " + " | ".join(cells) + " |")
    cells = []
    for method in METHODS:
        cells.append(f"{statistics.fmean(run[method]['seconds'] for t in tables.values() for run in t['runs'].values()):.1f}")
    lines.append("| processor seconds | | | | " + " | ".join(cells) + " |")
    note = f"Mean and standard deviation over {len(seeds)} seeds; {len(tables)} tables; `{content['command']}`."
    return "\n".join([BEGIN, "", *lines, "", note, "", END])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("IRESNET_DATA", ".")) / "adbench")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", nargs="*", default=[])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    asked = parser.parse_args()
    if not asked.write and not asked.check:
        collect(asked.data, asked.seeds, asked.tables)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    fresh = before + section() + after
    if asked.write:
        from iresnet.files import write_atomic

        write_atomic(PAGE, fresh)
    elif fresh != page:
        sys.exit(f"{PAGE} does not hold what {FILE} says: run python experiments/adbench.py --write")


if __name__ == "__main__":
    main()
