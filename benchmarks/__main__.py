"""Run benchmarks, each in a process of its own, print their ratios and write results/benchmarks/NAME.json.

python -m benchmarks                      the quick set, minutes
python -m benchmarks train_step inverse   some of it
python -m benchmarks --all                time_to_quality too, which takes an hour if its peers' curves are not yet recorded
python -m benchmarks --resume             only what has not been measured on this machine with these versions
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

from .harness import Options, machine, measured_here, print_table, write

QUICK = ("train_step", "inverse", "kernels", "logdet", "memory", "soundness", "costs")
LONG = ("time_to_quality",)


def one(name: str, options: Options) -> None:
    """Measure, print and write one benchmark in this process."""
    options.apply()
    warnings.filterwarnings("ignore", module=r"(FrEIA|normflows|torchflows|zuko)\b")
    began = machine(options)
    rows = importlib.import_module(f"benchmarks.{name}").rows(options)
    print_table(name, rows)
    print(write(name, rows, options, began), flush=True)


def main() -> None:
    parser = Options.parser(__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(QUICK + LONG)}; the quick set by default")
    parser.add_argument("--all", action="store_true", help="the long ones too")
    parser.add_argument("--resume", action="store_true", help="skip what this machine has measured with these versions")
    given = parser.parse_args()
    unknown = set(given.names) - {*QUICK, *LONG}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(QUICK + LONG)}")
    if given.repeats < 5:
        parser.error("medians need --repeats 5 or more")
    options = Options(given.threads, given.repeats, given.seconds)
    names = given.names or (QUICK + LONG if given.all else QUICK)
    if given.resume:
        names = [name for name in names if not measured_here(name, options)]
    if len(given.names) == 1 and names:
        return one(names[0], options)
    settings = ["--threads", str(given.threads), "--repeats", str(given.repeats), "--seconds", str(given.seconds)]
    failed = [name for name in names if subprocess.run([sys.executable, "-m", "benchmarks", name, *settings]).returncode]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
