"""The shell of every page: one file with its style, which a browser opens from anywhere, with no script and no request."""

from __future__ import annotations

from importlib.resources import files

from .markup import Html, tag

__all__ = ["document"]

# The browser itself refuses whatever is not in the page, should something hostile ever get past the escaping.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def document(title: str, content: object) -> str:
    """The whole page of that title, with ``content`` (markup, or a list of it) as its body."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),  # or the browser would ask a server for one
        tag("title", title),
        tag("style", Html(files("iresnet.report").joinpath("style.css").read_text(encoding="utf-8"))),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', content)), lang='en')}\n"
