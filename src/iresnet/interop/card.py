"""The card of a model: what a reader who finds it on the hub has to know, in Markdown with the hub's header."""

from __future__ import annotations

import json
import math
from typing import Any

from ..checkpoint import Network
from ..flow import Flow
from ..report.format import bound
from ..rounding import at_most

__all__ = ["card_of"]

_MOST = 24  # blocks and columns that are listed


def card_of(network: Network, extra: dict[str, Any], about: dict[str, Any], header: dict[str, Any]) -> str:
    """The text of a README.md.

    Parameters
    ----------
    extra : of the checkpoint, with the schema of its data if there is one.
    about : "evaluation" and "certificate" as a run writes them, "data" and "steps" of its training; each may be missing.
    header : the hub's metadata, name to value; figures are added as its ``model-index``.
    """
    name = str(about.get("data", {}).get("name", "data"))
    metadata = header | _index(name, about)
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in metadata.items()), "---", ""]
    kind = "flow" if isinstance(network, Flow) else "classifier"
    count = sum(parameter.numel() for parameter in network.parameters())
    lines += [f"# An invertible residual {kind} of {name}" if "data" in about else f"# An invertible residual {kind}", ""]
    recipe = getattr(network, "recipe", None)
    made = f"`{recipe['name']}`" if recipe else "built by hand"
    steps = f", trained for {about['steps']:,} steps" if about.get("steps") else ""
    lines += [f"{made}, {count:,} parameters{steps}. Weights are safetensors; nothing is pickled.", ""]
    lines += _usage(network, extra)
    lines += _columns(extra)
    lines += _figures(about.get("evaluation"))
    lines += _certificate(about.get("certificate"))
    return "\n".join(lines).rstrip() + "\n"


def _index(name: str, about: dict[str, Any]) -> dict[str, Any]:
    """The hub's table of figures."""
    evaluation = about.get("evaluation") or {}
    known = {"log_prob": "log-likelihood (nats per row)", "bits_per_dim": "bits/dim", "error": "error rate"}
    metrics = [
        {"type": key, "name": title, "value": round(evaluation[key]["value"], 6)}
        for key, title in known.items()
        if evaluation.get(key) is not None
    ]
    if not metrics:
        return {}
    task = {"type": "tabular-classification" if "error" in evaluation else "density-estimation"}
    dataset = {"name": name, "type": name, "split": evaluation.get("split", "test")}
    return {"model-index": [{"name": f"iresnet of {name}", "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]}


def _usage(network: Network, extra: dict[str, Any]) -> list[str]:
    loaded = ["from iresnet.interop.hub import HubModel", "", 'model = HubModel.from_pretrained("owner/name")  # or a folder']
    if isinstance(network, Flow):
        given = f", context of width {network.context}" if network.context else ""
        shape = ", ".join(["n", *map(str, network.shape)])
        second = ", context" if network.context else ""
        loaded += [
            "flow = model.network",
            f"log_prob = flow.log_prob(x{second})  # x ({shape}){given}, in nats",
            f"x = flow.sample(16{second})  # each row inverted with an error bound",
        ]
    else:
        loaded += ["logits = model.network(x)"]
    lines = ["## Usage", "", "```python", *loaded, "```", ""]
    if extra.get("schema") and "columns" in extra["schema"]:
        schema = "`iresnet.data.read_schema(model.extra['schema'])`"
        lines += [f"The flow's numbers are standardised columns: {schema} encodes and decodes.", ""]
    return lines


def _columns(extra: dict[str, Any]) -> list[str]:
    columns = (extra.get("schema") or {}).get("columns", [])
    if not columns:
        return []
    shown = ", ".join(f"`{column['name']}`" for column in columns[:_MOST])
    more = f" and {len(columns) - _MOST} more" if len(columns) > _MOST else ""
    return ["## Columns", "", f"{shown}{more}.", ""]


def _figures(evaluation: dict[str, Any] | None) -> list[str]:
    """Each held-out figure with the errors that it has."""
    if not evaluation:
        return []
    lines = [f"## Figures on {evaluation['rows']:,} held-out rows ({evaluation['split']})", ""]
    lines += ["| figure | value | estimator's error | finite set's error | bias, at most |", "|---|---|---|---|---|"]
    for key, title in (("log_prob", "log p, nats per row"), ("bits_per_dim", "bits/dim")):
        if (figure := evaluation.get(key)) is not None:
            errors = f"{_number(figure['stderr_estimator'])} | {_number(figure['stderr_data'])}"
            lines.append(f"| {title} | {figure['value']:.4f} | {errors} | {at_most(figure['bias'], 1):.1g} |")
    for key, title in (("error", "error rate"), ("cross_entropy", "cross-entropy, nats")):
        if (figure := evaluation.get(key)) is not None:
            lines.append(f"| {title} | {figure['value']:.4f} | | {_number(figure['stderr'])} | |")
    for title, value in (evaluation.get("baselines") or {}).items():
        lines.append(f"| log p of the {title}, same rows | {value:.4f} | | | |")
    return [*lines, ""]


def _certificate(certificate: dict[str, Any] | None) -> list[str]:
    """What is guaranteed of each block, and what was measured."""
    if not certificate:
        return []
    blocks = certificate.get("blocks", [])
    word = "Every block is certified invertible" if certificate.get("holds") else "**Not certainly invertible**"
    lines = ["## Certificate", "", f"{word}: a bound below 1 of a branch's Lipschitz constant makes x + g(x) a bijection.", ""]
    if not blocks:
        return lines
    lines += ["Blocks are called by their place in the flow, as by `iresnet certify` and where an inverse is not found.", ""]
    lines += ["| block | family | guarantee | bound | largest measured |", "|---|---|---|---|---|"]
    for block in blocks[:_MOST]:
        numbers = f"{bound(block['bound'])} | {bound(block['measured'], below=True)}"
        lines.append(f"| {block['name']} | {block['family']} | {block['guarantee']} | {numbers} |")
    return [*lines, *([f"and {len(blocks) - _MOST} more."] if len(blocks) > _MOST else []), ""]


def _number(value: float | None) -> str:
    return "unknown" if value is None or not math.isfinite(value) else f"{value:.3g}"
