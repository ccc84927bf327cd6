"""The page of a comparison: one self-contained file in its folder, in the style of a run's report."""

from __future__ import annotations

import base64
from pathlib import Path

from ..files import write_atomic
from ..report.document import document
from ..report.markup import Html, tag
from ..report.parts import facts, figure, numeral, section, table
from .display import caption
from .running import Comparison
from .table import table_of

__all__ = ["write_page"]

_CAPTIONS = {
    "densities": "The densities of all systems on one scale, best first.",
    "samples": "Samples of each system that can draw any, best first, beside held-out data.",
    "marginals": "The first four columns: held-out data filled, samples of each system that can draw any as a line, best first.",
}
_COLUMNS = (
    ("test log p, bits/dim", "of the same rows for all, unseen in training, in your units; its error is of finitely many rows"),
    ("over seeds", "the standard deviation between fits with other weights and batches"),
    ("nats above the truth", "the mean of log p(x) - log q(x), x drawn from the true density p: 0 is perfect"),
    ("parameters", "numbers that training may change, without those that a mask sets to zero"),
    ("1,000 samples, densities", "by the processor; of images 100 are timed, and told tenfold"),
    ("round trip", "the largest distance of a row, in standardised units and float32, from what its latent decodes to"),
    ("density", "whether what the library returns for log p is exact or an estimate"),
    ("inverse", "certified: every branch is bounded below 1, each inverse carries its error; by formula: exact up to rounding"),
)


def write_page(comparison: Comparison) -> Path:
    """Write ``compare.html`` and return its path."""
    content = comparison.content
    found = table_of(content)
    title = f"{content['data']['name']}: which flow is right for these data?"
    side_by_side = table("Side by side", found.header, [_row(cells) for cells in found.rows])
    notes = [tag("li", note, value=str(place)) for place, note in enumerate(found.notes, 1)]
    shown = [_shown(path) for path in sorted(comparison.folder.glob("pictures/*.png"))]
    warnings = content["data"]["warnings"]
    versions = [(name, value) for name, value in content["versions"].items()]
    parts: list[object] = [
        tag("p", "iresnet compare", class_="eyebrow"),
        tag("h1", title),
        tag("p", caption(content), class_="lead"),
        section("Side by side", side_by_side, tag("ol", notes) if notes else None),
        section("Pictures", shown) if shown else None,
        section("Of the data", tag("ul", [tag("li", told) for told in warnings])) if warnings else None,
        section("What the columns mean", facts(_COLUMNS)),
        section("Again", tag("pre", tag("code", content["command"]), tabindex="0"), facts(versions)),
    ]
    return write_atomic(comparison.folder / "compare.html", document(title, parts))


def _row(cells: list[str]) -> list[object]:
    """Names and numbers that stay in one line; what is said of densities and inverses may take several."""
    numbers = [numeral(cell) if cell[:1].isdigit() or cell[1:2].isdigit() else cell for cell in cells[1:-2]]
    return [tag("span", cells[0], class_="whole"), *numbers, *cells[-2:]]


def _shown(path: Path) -> Html:
    told = _CAPTIONS.get(path.stem, path.stem)
    source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    return figure(tag("img", src=source, alt=told), told, css="picture")
