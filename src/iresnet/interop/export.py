"""A flow as programs for other runtimes: encode, log p, decode, each a file of ONNX or ``torch.export``, checked after writing.

Weights are constrained once and stand in the file as constants, the batch may have any size, and a table's programs take and give
the user's own units. What the file computes is compared with the model before anyone relies on it.

>>> from iresnet.interop.export import export_flow                      # doctest: +SKIP
>>> for one in export_flow(flow, "flow.onnx", x):                       # doctest: +SKIP
...     print(one)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data import ImageSchema, Schema
from ..errors import UserError
from ..flow import Flow
from ..numerics.elimination import log_abs_det
from ..numerics.fixed_point import Picard, Solver
from ..numerics.krylov import Krylov
from ..numerics.logdet import Exact, LogDet
from ..numerics.series import PowerSeries
from .frozen import FixedNoise, FrozenBranch, freeze
from .graphs import ENDINGS, needed, run_file, write_program
from .programs import Decode, Determinant, Encode, LogProb, Looped, Program, Units, eliminate

__all__ = ["PROGRAMS", "Exported", "export_flow", "fixed_estimator"]

PROGRAMS = ("encode", "log_prob", "decode")
_TERMS = (4, 6, 8, 12, 16, 24, 32, 48, 64)
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how far it is from the model.

    ``difference`` is the largest over the checked rows of ``|file - model| / max(1, |model|)``, 2-norms of the first output;
    ``tol`` is what is allowed of it.
    """

    program: str
    path: Path
    rows: int
    difference: float
    tol: float

    @property
    def holds(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tol

    def __str__(self) -> str:
        word = "within" if self.holds else "ABOVE"
        told = f"differs by {self.difference:.1e} from the model at {self.rows} rows, {word} {self.tol:g}"
        return f"{self.program:<9} {self.path}: {told}"


def export_flow(
    flow: Flow,
    path: str | Path,
    x: Tensor,
    context: Tensor | None = None,
    *,
    kind: str = "onnx",
    programs: Sequence[str] = PROGRAMS,
    schema: Schema | ImageSchema | None = None,
    precision: str | None = None,
    logdet: LogDet | None = None,
    solver: Solver | None = None,
    tol: float = 1e-5,
    about: dict[str, Any] | None = None,
    begin: Callable[[Path], None] | None = None,
) -> list[Exported]:
    """Write the programs of ``flow`` and check each against it at x (B, *shape), B >= 2, in the flow's units.

    Parameters
    ----------
    path : of the file, if it is one program; else each has its name put before the ending: flow.encode.onnx.
    context : (B, C) of a conditional flow; the programs then take it as their second input.
    kind : "onnx" or "torch".
    programs : which of "encode", "log_prob" and "decode".
    schema : of the flow's data. With a table's, programs speak its own units; columns of levels are to be spread by noise before.
    precision : "float32" or "float64"; None for float64, or float32 for images, whose convolutions runtimes have in no other.
    logdet : an estimator with a fixed number of terms, or ``Exact()``; None for the flow's, whose number of terms is then fixed
        to what x needs. Probes are fixed and the same for all rows, as in ``flow.log_prob``.
    solver : ``Picard(tol=...)`` with the tolerance of a block; None for 1e-6 in float32 and 1e-10 in float64.
    tol : largest difference from the model, see :class:`Exported`.
    about : JSON values that are put into the files besides.
    begin : called with each file before it is made, which takes from seconds to minutes.

    Raises
    ------
    UserError
        If a package is missing, the flow cannot be exported, or a file cannot be written. A difference above ``tol`` does not
        raise: the result says so.
    """
    needed(kind)
    unknown = [name for name in programs if name not in PROGRAMS]
    if unknown or not programs:
        raise UserError(f"what can be exported is {', '.join(PROGRAMS)}, not {', '.join(map(repr, unknown)) or 'nothing'}")
    if precision is not None and precision not in _DTYPES:
        raise UserError(f"the precision is float32 or float64, got {precision!r}")
    if len(x) < 2:
        raise UserError(f"an export is checked at two rows or more, got {len(x)}")
    dtype = _DTYPES[precision or ("float64" if len(flow.shape) == 1 else "float32")]
    model, frozen = copy.deepcopy(flow).to("cpu", dtype).eval(), freeze(flow, dtype)
    decoding = _solver(solver, dtype)
    _check_constants(frozen, programs)
    context = None if context is None else context.to(dtype)
    given, rows, volume = _in_units(x, schema, dtype)
    with torch.no_grad():
        estimator = fixed_estimator(logdet or flow.eval_logdet, model, rows, context) if "log_prob" in programs else Exact()
        latents = model.encode(rows, context)
        noise, graph = FixedNoise(), _in_graph(estimator, kind)
        units = _units(schema, dtype)
        made: dict[str, Program] = {
            "encode": Encode(frozen, units),
            "log_prob": LogProb(frozen, units, graph, noise),
            "decode": Decode(frozen, units, decoding),
        }
        # An ordinary call draws the probes, and looks at all that is looked at once.
        frozen.estimate(rows, context, logdet=graph, noise=noise)
    metadata = _metadata(flow, schema, dtype, estimator, decoding, frozen) | (about or {})
    found = []
    for name in programs:
        program, first = made[name], latents if name == "decode" else given
        inputs = [first] if context is None else [first, context]
        told = {"program": name, "inputs": list(program.inputs[: len(inputs)]), "outputs": list(program.outputs)}
        place = _place(Path(path), name, kind, alone=len(programs) == 1)
        if begin is not None:
            begin(place)
        write_program(program, inputs, place, kind, metadata | told)
        with torch.no_grad():
            wanted = {
                "encode": lambda: latents,
                "log_prob": lambda: model.log_prob(rows, context, logdet=estimator) + volume,
                "decode": lambda: _out_of_units(model.decode(latents, context), schema),
            }[name]()
        found.append(Exported(name, place, len(x), _difference(run_file(place, inputs)[0], wanted), tol))
    return found


def fixed_estimator(logdet: LogDet, flow: Flow, x: Tensor, context: Tensor | None = None, tol: float = 1e-3) -> LogDet:
    """``logdet``, or as many terms of the power series as leave out at most ``tol`` nats of log p at any row of x (B, *).

    Raises
    ------
    UserError
        For a roulette, which no program of fixed length can play.
    """
    if isinstance(logdet, Exact) or (isinstance(logdet, PowerSeries) and logdet.terms is not None and logdet.roulette is None):
        return logdet
    if not isinstance(logdet, (PowerSeries, Krylov)) or (isinstance(logdet, PowerSeries) and logdet.roulette is not None):
        raise UserError(
            f"{logdet} cannot be exported; give Exact() or PowerSeries(terms=8, probes=4), with a fixed number of terms"
        )
    found = PowerSeries(terms=_TERMS[0], probes=logdet.probes)
    for terms in _TERMS:
        found = PowerSeries(terms=terms, probes=logdet.probes)
        if float(flow.estimate(x, context, logdet=found).bias.max()) <= tol:
            break
    return found


def _in_graph(logdet: LogDet, kind: str) -> LogDet:
    """The estimator as a tracer can follow it."""
    if isinstance(logdet, Exact):
        return Determinant(eliminate if kind == "onnx" else log_abs_det)
    return logdet


def _solver(solver: Solver | None, dtype: torch.dtype) -> Looped:
    if solver is not None and not isinstance(solver, Picard):
        raise UserError(f"{solver} cannot be exported: a file decodes by Picard's iteration, so give Picard(tol=...)")
    usual = 1e-6 if dtype == torch.float32 else 1e-10
    return Looped(usual) if solver is None else Looped(solver.tol or usual, solver.max_steps)


def _check_constants(frozen: Flow, programs: Sequence[str]) -> None:
    worst = max((part.constant for part in frozen.modules() if isinstance(part, FrozenBranch)), default=0.0)
    if "decode" in programs and not worst < 1:
        told = "nothing bounds a block" if math.isinf(worst) else f"a block's Lipschitz bound is {worst:.3g}"
        raise UserError(f"this flow is not certainly invertible ({told}): leave decode out, as in --only encode,log_prob")


def _units(schema: Schema | ImageSchema | None, dtype: torch.dtype) -> Units | None:
    if not isinstance(schema, Schema):
        return None
    numbers = {key: torch.tensor([float(getattr(one, key)) for one in schema.columns]) for key in ("low", "high")}
    numbers |= {key: torch.tensor([getattr(one, key) for one in schema.columns], dtype=dtype) for key in ("center", "scale")}
    places = {kind: torch.tensor([one.support == kind for one in schema.columns]) for kind in ("positive", "bounded")}
    return Units(**{key: value.to(dtype) for key, value in numbers.items()}, **places)


def _in_units(x: Tensor, schema: Schema | ImageSchema | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """What the program is given for the rows x, what the flow is, and the log-Jacobian between the two."""
    if not isinstance(schema, Schema):
        return x.to(dtype), x.to(dtype), x.new_zeros(len(x), dtype=dtype)
    given = schema.decode(x, continuous=True).to(dtype)
    rows, volume = schema.encode(given, continuous=True)
    return given, rows.to(dtype), volume.to(dtype)


def _out_of_units(x: Tensor, schema: Schema | ImageSchema | None) -> Tensor:
    return schema.decode(x, continuous=True).to(x.dtype) if isinstance(schema, Schema) else x


def _place(path: Path, name: str, kind: str, *, alone: bool) -> Path:
    """Where a program goes. Raises UserError for the ending of the other format."""
    ending = ENDINGS[kind]
    if path.suffix in set(ENDINGS.values()) - {ending}:
        raise UserError(f"{path} ends in {path.suffix}, but files of the format {kind} end in {ending}")
    stem = path.with_suffix("") if path.suffix == ending else path
    return stem.with_name(stem.name + ("" if alone else f".{name}") + ending)


def _difference(found: Tensor, wanted: Tensor) -> float:
    rows, truth = (part.double().reshape(len(part), -1) for part in (found, wanted))
    relative = (rows - truth).norm(dim=1) / truth.norm(dim=1).clamp(min=1.0)
    return float(relative.nan_to_num(nan=math.inf).max())


def _metadata(
    flow: Flow, schema: Schema | ImageSchema | None, dtype: torch.dtype, logdet: LogDet, solver: Looped, frozen: Flow
) -> dict[str, Any]:
    from .. import __version__

    bounds = [part.constant for part in frozen.modules() if isinstance(part, FrozenBranch)]
    return {
        "version": __version__,
        "shape": list(flow.shape),
        "context": flow.context,
        "dtype": str(dtype).removeprefix("torch."),
        "units": "the columns'" if isinstance(schema, Schema) else "the flow's",
        "names": list(schema.names) if schema is not None else [],
        "schema": None if schema is None else schema.to_dict(),
        "recipe": getattr(flow, "recipe", None),
        "logdet": repr(logdet),
        "block_tol": solver.tol,
        "lipschitz": [bound if math.isfinite(bound) else None for bound in bounds],
        "certified": all(part.guarantee == "sound" for part in frozen.modules() if isinstance(part, FrozenBranch)),
    }
