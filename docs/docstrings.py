"""Docstrings are in the numpy style, which is reStructuredText; the pages are Markdown. This translates what we use."""

from __future__ import annotations

import re
from typing import Any

import griffe

MATH_BLOCK = re.compile(r"^( *)\.\. math:: ?(.*(?:\n\1 +\S.*|\n(?=\n\1 {2,}\S))*)", re.M)
TABLE = re.compile(r"^(=+(?: +=+)+\n(?:.+\n)*?)(=+(?: +=+)+)\n((?:.+\n)*?)\2$", re.M)
ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*) : (.+)$", re.M)
ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|exc|obj):`([^`]+)`")


def to_markdown(text: str) -> str:
    """Math, roles, line blocks, simple tables and the sections that only rest of the numpy style knows, as Markdown."""
    text = TABLE.sub(lambda m: f"```text\n{m[0]}\n```", text)
    text = MATH_BLOCK.sub(lambda m: f"\n\\[\n{one_line(m[2])}\n\\]\n", text)
    text = re.sub(r":math:`([^`]+)`", lambda m: f"\\({one_line(m[1])}\\)", text)
    text = ROLE.sub(lambda m: f"`{last_part(m[1])}`", text)
    text = re.sub(r"^(References|Notes|See Also)\n-{3,}\n", r"**\1**\n\n", text, flags=re.M)
    text = ENTRY.sub(r"\1\n    \2", text)  # "name : what it is": the type is in the signature already
    return re.sub(r"^\| ", "- ", text, flags=re.M)


def one_line(formula: str) -> str:
    return " ".join(formula.split())


def last_part(role: str) -> str:
    """~a.b.c is shown as c, as Sphinx does."""
    return role.rsplit(".", 1)[-1] if role.startswith("~") else role


class RestToMarkdown(griffe.Extension):
    """Rewrites every docstring before it is parsed into sections."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
