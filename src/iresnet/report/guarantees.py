"""The page's sections on trust: the certificate, block by block, and the round trip as it was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .charts import bar
from .folder import Run
from .format import as_float, bound, count, lower, number, upper
from .markup import Html, join, tag
from .parts import absent, facts, numeral, section, table, two_lines

__all__ = ["certificate", "guaranteed", "roundtrip"]

_FOLD = 16  # more blocks than this are folded away below the sentence that sums them up


def guaranteed(found: Mapping[str, Any]) -> bool:
    """Whether a certificate proves every residual block invertible."""
    return bool(found.get("holds")) and all(map(_contracts, _blocks(found)))


def certificate(run: Run) -> Html:
    """What is guaranteed, as a sentence, and bound against measured expansion for every block."""
    found = run.certificate
    if found is None:
        return section("Certificate", absent("Not certified yet. Do it with", f"iresnet certify {run.name}"))
    blocks = _blocks(found)
    most = max([1.0, *(v for b in blocks for k in ("bound", "measured") if math.isfinite(v := as_float(b.get(k))))])
    header = ["Block", "Measured", "Bound", "Holds"]
    listed = table("Certificate of every residual block", header, [_row(block, most) for block in blocks])
    if len(blocks) > _FOLD:
        listed = tag("details", tag("summary", f"All {len(blocks)} blocks"), listed)
    notes = [
        f"Bars run from 0 to {number(most, 3)}; the tick is the bound. \u2018Measured\u2019 is the largest expansion "
        "that a search found, a lower limit of the true constant."
    ]
    if not all(str(block.get("guarantee")) == "sound" for block in blocks):
        notes.append(
            "The word below \u2018yes\u2019 or \u2018no\u2019 says what the family's constraint promises always; "
            "only \u2018sound\u2019 cannot be broken by training on. The bounds are of the weights as they are now."
        )
    if math.isfinite(as_float(found.get("amplification"))):
        notes.append(
            f"Near typical points a small error in the latent grows about {number(found['amplification'], 2)} times on "
            "its way back through the inverse: an estimate, not a bound."
        )
    if math.isfinite(as_float(found.get("lipschitz"))):
        notes.append(
            f"The product over all parts bounds the flow's Lipschitz constant by {upper(found['lipschitz'], 2)} and "
            f"its inverse's by {upper(found.get('inverse_lipschitz'), 2)}: true, but for a deep flow far too large to "
            "tell anything. The single blocks' bounds and the measured round trip below are what to rely on."
        )
    below = [listed, [tag("p", note, class_="small") for note in notes]] if blocks else None
    return section("Certificate", _sentence(bool(found.get("holds")), blocks), below)


def _sentence(holds: bool, blocks: Sequence[Mapping[str, Any]]) -> Html:
    if not blocks and not holds:
        words = "Not guaranteed: this is an ordinary ResNet, and nothing says that it has an inverse."
        return tag("p", words, class_="verdict bad")
    if not blocks:
        return tag("p", "The flow has no residual blocks, so there is nothing to certify.")
    broken = [block for block in blocks if not _contracts(block)]
    if broken or not holds:
        words = (
            f"Not guaranteed: {_names(broken or blocks)}. There the bound is not below 1, or more was measured than it "
            "allows, or the weights' precision voids it, so the inverse may not exist."
        )
        return tag("p", words, class_="verdict bad")
    largest = max(as_float(block.get("bound")) for block in blocks)
    words = (
        f"Guaranteed for every input: each residual branch has a Lipschitz constant of at most {bound(largest)}, so "
        f"each of the {count(len(blocks))} blocks is invertible, changes distances by a factor between "
        f"{lower(round(1 - largest, 12))} and {upper(round(1 + largest, 12))}, and its inverse comes with an error bound."
    )
    return tag("p", words, class_="verdict good")


def _row(block: Mapping[str, Any], most: float) -> list[object]:
    measured, limit = as_float(block.get("measured")), as_float(block.get("bound"))
    holds = _contracts(block)
    verdict = tag("span", "✓ yes" if holds else "✗ no", class_="good" if holds else "bad")
    return [
        [
            _breakable(_name(block)),
            " ",
            tag("span", block.get("family"), class_="beside"),
            bar(measured, limit, most),
        ],
        numeral(bound(measured, below=True)),
        numeral(bound(limit)),
        two_lines(verdict, block.get("guarantee", "unknown")),
    ]


def _blocks(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [block for block in found.get("blocks") or [] if isinstance(block, Mapping)]


def _contracts(block: Mapping[str, Any]) -> bool:
    """Whether the block holds, its bound is below 1 and nothing measured contradicts it (beyond rounding)."""
    limit, measured = as_float(block.get("bound")), as_float(block.get("measured"))
    return bool(block.get("holds")) and limit < 1 and not measured > limit * (1 + 1e-6)


def _name(block: Mapping[str, Any]) -> str:
    """The block's place in the flow; a bare number, the part's index in its chain, reads better as ``block 2``."""
    name = str(block.get("name", "unnamed"))
    return f"block {name}" if name[:1].isdigit() else name


def _breakable(name: str) -> Html:
    """A dotted name that a line breaks after its dots, if there is room for the parts."""
    return join(name.split("."), Html(".<wbr>"))


def _names(blocks: Sequence[Mapping[str, Any]]) -> str:
    names = [_name(block) for block in blocks]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def roundtrip(run: Run) -> Html | None:
    """How far decode(encode(x)) is from x, and encode(decode(z)) from z; None for a network that has no inverse."""
    if run.certificate is not None and not _blocks(run.certificate) and not run.certificate.get("holds"):
        return None
    found = (run.evaluation or {}).get("roundtrip")
    if not isinstance(found, Mapping):
        return section("Round trip", absent("Not measured yet. Measure it with", f"iresnet reconstruct {run.name}"))
    rows = count(found.get("rows"))
    sentence = f"{rows} held-out rows were encoded, decoded and compared with what they were."
    pairs = [
        ("largest |decode(encode(x)) \u2212 x|", numeral(number(found.get("max_error"), 2))),
        ("root mean square of it", numeral(number(found.get("rms_error"), 2))),
        ("worst error bound of a block", numeral(upper(found.get("worst_block_bound"), 2))),
        ("|encode(x) \u2212 z| of the x found", numeral(number(found.get("latent_backward_error"), 2))),
        ("branch evaluations a row, mean", numeral(number(found.get("steps_mean"), 3))),
        ("solver", tag("code", found.get("solver", "unknown"))),
    ]
    return section("Round trip", tag("p", sentence), facts(pairs))
