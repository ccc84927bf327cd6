"""The page's sections on how well the flow does, and from what: likelihood, pictures, data, how to remake it."""

from __future__ import annotations

import base64
import math
import re

from .folder import Run
from .format import as_float, count, number, plus_minus, rounded, upper
from .markup import Html, join, tag
from .parts import absent, facts, figure, numeral, section, table, two_lines

__all__ = ["data", "likelihood", "pictures", "remake"]

_FOLD = 24  # more columns than this are folded away
_CAPTIONS = {
    "density": "The data, samples drawn from the flow, and the density it has learned, linear and logarithmic.",
    "pairs": "Data and samples drawn from the flow, in every pair of columns; on the diagonal each column's histogram. "
    "Axes span the middle 99 %.",
    "confusion": "Who is taken for whom: rows are true classes, columns predicted ones; mistakes are orange, on a root scale.",
    "samples": "Images from the data and images drawn from the flow.",
    "samples-by-class": "Images drawn from the flow, one row of them for each class.",
    "neighbours": "Above, images drawn from the flow; below each, the three training images nearest to it in pixels: a flow that "
    "only remembered would show the same image twice.",
    "reconstruction": "Above, held-out images; in the middle their latents, from -3 (black) to 3 (white); below, what the "
    "inverse makes of these.",
    "interpolation": "In each row the way from one held-out image to another through latent space.",
}


def likelihood(run: Run) -> Html | None:
    """The held-out figures, each with the estimator's error, the finite set's error and the bias; None without a density."""
    evaluation = run.evaluation
    if run.task == "classify":
        return None
    if evaluation is None:
        missing = absent("Not evaluated yet. Measure it with", f"iresnet evaluate {run.name}")
        return section("Held-out likelihood", missing)
    rows: list[list[object]] = []
    for key, unit in (("log_prob", "nats a row"), ("bits_per_dim", "bits per dimension")):
        found = run.measured(key)
        if found:
            errors = [found.get("stderr_data"), found.get("stderr_estimator")]
            value = rounded(found.get("value"), *errors)
            told = [number(abs(as_float(error)), 2) for error in errors]
            cells = [value, *told, upper(abs(as_float(found.get("bias"))), 2)]
            rows.append([two_lines("This flow", unit), *map(numeral, cells)])
    known = {"True density": as_float(evaluation.get("true_log_density"))} | run.baselines()
    for name, value in known.items():
        if math.isfinite(value):
            shown = rounded(value, run.measured("log_prob").get("stderr_data"))  # to the flow's own decimals
            rows.append([two_lines(name, "nats a row"), numeral(shown), *(["\u2013"] * 3)])
    above, verdict = run.measured("nats_above_truth"), None
    if above:
        shown = tag("strong", numeral(plus_minus(above.get("value"), above.get("stderr"))), " nats a row")
        verdict = tag("p", "On the same points the flow's log-likelihood is ", shown, " below the true density's.")
    where = f"On the {evaluation.get('split', 'held-out')} set"
    where += f" of {count(evaluation['rows'])} rows" if "rows" in evaluation else ""
    logdet = evaluation.get("logdet")
    estimator = [", with log-determinants by ", tag("code", logdet)] if logdet else None
    explain = (
        "\u2018± set\u2019 is the standard error of a mean over finitely many rows; \u2018± probes\u2019 that of the "
        "log-determinant's random probes, 0 if it is exact; the bias bounds what a truncated series leaves out, or estimates "
        "the rounding of an exact determinant. Nats a row are in the data's own units: higher is better. Of bits per "
        "dimension fewer are better."
    )
    header = ["Model", "Value", "± set", "± probes", "Bias"]
    listed = table("Held-out likelihood", header, rows)
    return section("Held-out likelihood", tag("p", where, estimator, "."), listed, verdict, tag("p", explain, class_="small"))


def pictures(run: Run) -> Html:
    """Samples beside data."""
    shown = []
    order = {name: place for place, name in enumerate(_CAPTIONS)}
    for picture in sorted(run.pictures, key=lambda picture: (order.get(picture.name, len(order)), picture.name)):
        told = re.sub(r"\b0+(?=\d)", "", picture.name.replace("_", " ").replace("-", " "))
        caption = _CAPTIONS.get(picture.name, told.capitalize() + ".")
        source = "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
        alt = f"{caption} Data: {run.section('data').get('name', run.name)}."
        image = tag("img", src=source, alt=alt, width=picture.width, height=picture.height)
        shown.append(figure(image, caption, css="picture"))
    if not shown:
        shown.append(absent("There are no pictures in this run's folder."))
    if run.samples:
        files = join([tag("code", name) for name in run.samples], ", ")
        shown.append(tag("p", "Samples drawn from the flow are in ", files, "."))
    return section("Pictures" if run.task == "classify" else "Samples beside data", shown)


def data(run: Run) -> Html:
    """What the data's reader warned of, and the data's columns and sizes."""
    found = run.section("data")
    items = [tag("li", warning) for warning in found.get("warnings") or []]
    notice = tag("ul", items, class_="warnings") if items else tag("p", "No warnings about the data.")
    pairs = [("kind", found.get("kind", "unknown")), *((f"{split} rows", count(n)) for split, n in run.rows().items())]
    names = [[tag("code", name), " "] for name in found.get("columns") or []]
    heading = f"{len(names)} column{'' if len(names) == 1 else 's'}"
    if len(names) > _FOLD:
        columns = tag("details", tag("summary", heading), tag("p", names))
    else:
        columns = tag("p", f"{heading}: ", names) if names else None
    return section("Data", notice, facts(pairs), columns)


def remake(run: Run) -> Html:
    """The command, seed, versions, model and configuration that give this run again."""
    command = run.run.get("command")
    machine = run.section("machine")
    pairs: list[tuple[str, object]] = [("seed", run.run.get("seed", "unknown"))]
    pairs += [(f"{name} version", version) for name, version in run.section("versions").items()]
    pairs += [("device", machine.get("device", "unknown")), ("threads", machine.get("threads", "unknown"))]
    arguments = run.section("model").get("arguments")
    pairs += [(name, str(value)) for name, value in arguments.items()] if isinstance(arguments, dict) else []
    if command:
        # Lines break between arguments, and not after the first hyphen of --steps.
        words = [tag("span", word, class_="whole") if word.startswith("-") else word for word in str(command).split(" ")]
        written = tag("pre", tag("code", join(words, " ")), tabindex="0")
    else:
        written = absent("The command was not recorded.")
    config = None
    if run.config is not None:
        content = tag("pre", tag("code", run.config), tabindex="0")
        config = tag("details", tag("summary", "Configuration (config.toml)"), content)
    return section("How to remake it", written, facts(pairs), config)
