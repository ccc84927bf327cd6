"""The page of a reproduction, of one structure: Markdown for the documentation, HTML for the folder, lines for a terminal."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from ..files import write_atomic
from ..report.document import document
from ..report.format import duration
from ..report.markup import Html, tag
from ..report.parts import figure, numeral, section, table
from .base import Paper, Picture, Record, Reproduction
from .telling import text_table

__all__ = ["lines", "markdown", "write_page"]


def markdown(found: Reproduction, record: Record, pictures: Sequence[Picture], folder: str = "", level: int = 1) -> str:
    """The page as Markdown, its pictures in ``folder``, its heading of the given level."""
    told, parts = found.findings(record), [f"{'#' * level} {found.title}", found.about]
    parts.append("\n".join(f"- {sentence}" for sentence in told) if len(told) > 1 else told[0])
    for made in found.tables(record):
        head = [f"| {' | '.join(row)} |" for row in (made.header, ["---"] * len(made.header))]
        parts.append("\n".join([f"*{made.caption}*", "", *head, *(f"| {' | '.join(row)} |" for row in made.rows)]))
    parts += [f"![{_plain(picture.caption)}]({folder}{picture.file})\n\n*{picture.caption}*" for picture in pictures]
    parts.append("What differs from the paper:\n\n" + "\n".join(f"- {sentence}" for sentence in found.differs))
    links = [
        f"{paper.title}, [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}), {_where(paper)}" for paper in found.papers
    ]
    parts.append(f"From {'; '.join(links)}. Made by `{_command(record)}` in {_took(record)}.")
    return "\n\n".join(parts) + "\n"


def lines(found: Reproduction, record: Record) -> str:
    """Findings and tables for a terminal."""
    parts = [found.title, *found.findings(record)]
    parts += [f"{made.caption}\n\n{text_table(made.header, made.rows)}" for made in found.tables(record)]
    parts.append("What differs from the paper:\n" + "\n".join(f"- {sentence}" for sentence in found.differs))
    parts.append("\n".join(f"From {paper.title}, arXiv {paper.arxiv}, {_where(paper)}." for paper in found.papers))
    return "\n\n".join(parts)


def write_page(found: Reproduction, record: Record, pictures: Sequence[Picture]) -> Path:
    """``reproduction.html`` in the record's folder: one file, pictures and all."""
    parts: list[object] = [tag("h1", found.title), tag("p", found.about)]
    parts.append(section("What was found", [tag("p", sentence) for sentence in found.findings(record)]))
    for made in found.tables(record):
        rows = [[tag("span", row[0], class_="whole"), *(numeral(cell) for cell in row[1:])] for row in made.rows]
        parts.append(section(made.caption, table(made.caption, made.header, rows)))
    if pictures:
        parts.append(section("Pictures", [_shown(record.path / picture.file, picture.caption) for picture in pictures]))
    parts.append(section("What differs from the paper", tag("ul", [tag("li", sentence) for sentence in found.differs])))
    told = [tag("li", f"{paper.title}, arXiv {paper.arxiv}, {_where(paper)}") for paper in found.papers]
    made_by = tag("pre", tag("code", _command(record)), tabindex="0")
    parts.append(
        section("Where it comes from, and how to make it again", tag("ul", told), made_by, tag("p", f"Took {_took(record)}."))
    )
    return write_atomic(record.path / "reproduction.html", document(found.title, parts))


def _plain(caption: str) -> str:
    """Without brackets, which end the text of an image in Markdown."""
    return caption.replace("[", "(").replace("]", ")")


def _shown(path: Path, caption: str) -> Html:
    source = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
    return figure(tag("img", src=source, alt=caption, width=800), caption, css="picture")


def _where(paper: Paper) -> str:
    return paper.where + ("" if paper.checked else " (its figures as quoted here are not checked against a second source)")


def _command(record: Record) -> str:
    seeds = record.arguments.get("seeds")
    return record.about.get("command") or f"iresnet reproduce {record.name} --setting {record.setting} --seeds {seeds}"


def _took(record: Record) -> str:
    known = (("seconds", "by the clock"), ("processor_seconds", "of processor time"))
    return " and ".join(f"{duration(record.about[key])} {told}" for key, told in known if key in record.about)
