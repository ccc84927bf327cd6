"""docs/reproductions.md, and a page for each name in docs/reproductions/, from results/reproduce/*.json.

iresnet reproduce NAME --out FOLDER                      measure
python experiments/reproductions.py --record FOLDER ...  keep its record in results/, its pictures in docs/assets/reproduce/
python experiments/reproductions.py --page               write the page
python experiments/reproductions.py --check              exit with 1 if the page is not what the files say
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from iresnet.files import write_json
from iresnet.reproduce import NAMES
from iresnet.reproduce.base import Picture, Record
from iresnet.reproduce.catalogue import find
from iresnet.reproduce.page import markdown

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PICTURES = ROOT / "results" / "reproduce", ROOT / "docs" / "assets" / "reproduce"
DOCS = ROOT / "docs"

HEAD = """# Figures and tables of the papers, made again

```sh
iresnet reproduce                                    # what there is
iresnet reproduce figure1                            # minutes on a CPU: the tiny setting
iresnet reproduce table1 --setting paper --seeds 3   # the papers' sizes: hours, or days without a GPU
```

A folder then holds `reproduction.html`, a page to open; `reproduction.json`, every number that was measured; and the pictures.
Ctrl-C loses only what was being measured: the same command goes on. `figure2`, `table2`, `complexity` and `vae` train other
libraries' flows: `pip install 'iresnet[compare]'`.

The pages below are of the tiny settings as they were run, on one thread of a shared machine. They show whether a claim holds at a
size that anyone can check in minutes, and not what the papers' sizes reach."""


def record(folder: Path) -> None:
    """Keep a folder's record and pictures."""
    found = Record.read(folder)
    found.about["command"] = None  # which names a folder of this machine; the page has the command without it
    write_json(RESULTS / f"{found.name}.json", found.to_dict())
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in found.about["pictures"]:
        keep_picture(folder / picture["file"], PICTURES / picture["file"])


def keep_picture(source: Path, place: Path) -> None:
    """A PNG in 128 colours, which are enough for what is drawn here, and a fifth of the bytes."""
    with Image.open(source) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(place, optimize=True)


def pages() -> dict[str, str]:
    """The text of each page by its path in docs/: that of every recorded reproduction, in the order of the list, and the list."""
    found, told = {}, []
    for name in NAMES:
        if (RESULTS / f"{name}.json").exists():
            kept, made = Record.read(RESULTS / f"{name}.json"), find(name)
            pictures = [Picture(**picture) for picture in kept.about["pictures"]]
            found[f"reproductions/{name}.md"] = markdown(made, kept, pictures, "../assets/reproduce/")
            told.append(f"- **[{made.title}](reproductions/{name}.md)**: {made.findings(kept)[0]}")
    return {"reproductions.md": "\n\n".join([HEAD, "\n".join(told)]) + "\n"} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    for folder in given.record:
        record(folder)
    if given.check:
        stale = [name for name, text in pages().items() if not _is(DOCS / name, text)]
        sys.exit(f"docs/{', docs/'.join(stale)}: run python experiments/reproductions.py --page" if stale else 0)
    if given.page:
        for name, text in pages().items():
            (DOCS / name).parent.mkdir(exist_ok=True)
            (DOCS / name).write_text(text, encoding="utf-8")


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
