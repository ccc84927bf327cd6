"""HTML by construction: whatever is not already markup is escaped, so no column name or path can become a tag.

A section is a tree of :func:`tag` calls. Only this module makes :class:`Html`; a plain string given as a child or as an
attribute always comes out as text.
"""

from __future__ import annotations

import html
import re

__all__ = ["Html", "join", "tag", "text"]

_VOID = frozenset({"br", "circle", "img", "line", "link", "meta", "path", "polygon", "polyline", "rect"})
_SVG_SHAPES = frozenset({"circle", "line", "path", "polygon", "polyline", "rect"})
# Control characters are not allowed in HTML, and lone surrogates (legal in JSON) cannot be written as UTF-8 at all.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Html(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    """``value`` as escaped text; characters that cannot be shown become U+FFFD."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", str(value)), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """``<name attributes>children</name>``, without the children that are None and the attributes None or False.

    Attribute names are Python names: ``class_`` is ``class``, ``stroke_width`` is ``stroke-width``. Shapes of an SVG
    may hold a ``title``, which browsers show on hover.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if not (value is None or value is False))
    inner = join(children)
    if name in _VOID and not inner:
        return Html(f"<{name}{written}/>" if name in _SVG_SHAPES else f"<{name}{written}>")
    return Html(f"<{name}{written}>{inner}</{name}>")


def join(children: object, separator: str = "") -> Html:
    """The children (an iterable, nested or not, of markup, text and None) one after another."""
    return Html(separator.join(_flat(children)))


def _attribute(key: str, value: object) -> str:
    key = key.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{text(value)}"'


def _flat(children: object) -> list[str]:
    if children is None:
        return []
    if isinstance(children, str) or not hasattr(children, "__iter__"):
        return [text(children)]
    return [part for child in children for part in _flat(child)]  # type: ignore[attr-defined]
