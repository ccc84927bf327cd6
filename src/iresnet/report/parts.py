"""The page's building blocks: sections, tables, tiles, figures; all accessible and readable on a telephone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .markup import Html, join, tag, text

__all__ = ["absent", "facts", "figure", "numeral", "section", "table", "tile", "two_lines"]


def section(title: str, *content: object) -> Html:
    """A titled section, named for screen readers by its title."""
    name = re.sub("[^a-z]+", "-", title.lower())
    return tag("section", tag("h2", title, id=name), content, aria_labelledby=name)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table whose first column heads its rows; it scrolls by itself should it ever be wider than the page."""
    heads = [tag("th", name, scope="col") if name else tag("td") for name in header]
    body = [tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]]) for row in rows]
    whole = tag("table", tag("caption", caption, class_="unseen"), tag("thead", tag("tr", heads)), tag("tbody", body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def tile(title: str, value: str, note: object, *, main: bool = False) -> Html:
    """A figure worth seeing first, with its name above and what it means below."""
    parts = [tag("p", title, class_="name"), tag("p", numeral(value), class_="value"), tag("p", note, class_="small")]
    return tag("div", parts, class_="tile main" if main else "tile")


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Names and values in as many columns as there is room for."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs])


def figure(content: Html, caption: str, *, css: str = "") -> Html:
    """A chart or picture with its caption."""
    return tag("figure", content, tag("figcaption", caption), class_=css or None)


def absent(sentence: str, command: str | None = None) -> Html:
    """What stands where a part of the run folder is missing, with the command that would make it."""
    return tag("p", sentence, [" ", tag("code", command), "."] if command else None, class_="absent")


def numeral(value: str) -> Html:
    """A formatted number with a true minus sign, the parts on either side of ``±`` kept whole when the line breaks."""
    pieces = value.replace("-", "\u2212").split(" ")
    return Html(str(join([tag("span", piece, class_="whole") for piece in _glued(pieces)], " ")))


def two_lines(first: object, second: object) -> Html:
    """``first`` with ``second`` small below it."""
    return Html(text(first) + tag("span", second, class_="under"))


def _glued(pieces: Sequence[str]) -> list[str]:
    """``["1", "±", "2"]`` as ``["1", "± 2"]``: a line must not end in ±."""
    glued: list[str] = []
    for piece in pieces:
        if glued and glued[-1] == "±":
            glued[-1] = f"±\u00a0{piece}"
        else:
            glued.append(piece)
    return glued
