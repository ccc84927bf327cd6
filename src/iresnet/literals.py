"""One parser of ``Name(key=value)``, with literal values only, for the command line, TOML and JSON alike.

Names are looked up among the estimators and solvers that the library exports: there is no registry to keep, and nothing is
evaluated.
"""

from __future__ import annotations

import ast
from dataclasses import MISSING, fields, is_dataclass
from types import ModuleType
from typing import Any

from .errors import UserError
from .numerics import anderson, fixed_point, krylov, logdet, newton, series

__all__ = ["as_typed", "parse_call", "parse_logdet", "parse_solver", "parse_value"]


def _questions(*modules: ModuleType) -> dict[str, Any]:
    """The dataclasses in the modules' ``__all__`` that are called with a function: estimators, or solvers."""
    found = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {name: part for name, part in found.items() if is_dataclass(part) and "__call__" in vars(part)}


_LOGDETS = _questions(krylov, logdet, series)
_SOLVERS = _questions(anderson, fixed_point, newton)


def parse_call(text: str, known: dict[str, Any]) -> Any:
    """The object of ``Name`` or ``Name(key=literal, ...)`` with Name among ``known``.

    Raises
    ------
    UserError
        For another name, something that is not a literal, or arguments that the class refuses.
    """
    example = f"{sorted(known)[0]}() or {sorted(known)[-1]}(key=value)"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise UserError(f"cannot read {text!r}: write {example}") from error
    call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
    if not isinstance(call.func, ast.Name) or call.args or any(keyword.arg is None for keyword in call.keywords):
        raise UserError(f"cannot read {text!r}: write {example}, with named literal arguments")
    if call.func.id not in known:
        raise UserError(f"unknown name {call.func.id!r} in {text!r}; known are {', '.join(sorted(known))}")
    try:
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        return known[call.func.id](**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"cannot build {text!r}: {error}") from error


def parse_logdet(text: str) -> logdet.LogDet:
    """An estimator of log-determinants, such as ``PowerSeries(probes=8)``. Raises UserError."""
    return parse_call(text, _LOGDETS)


def parse_solver(text: str) -> fixed_point.Solver:
    """A solver, such as ``Picard(tol=1e-8)``. Raises UserError."""
    return parse_call(text, _SOLVERS)


def as_typed(text: str) -> str:
    """The shortest text that reads as the same estimator or solver: arguments at their defaults are left out."""
    part = parse_call(text, _LOGDETS | _SOLVERS)
    default = [(field.name, MISSING if field.default is MISSING else field.default) for field in fields(part)]
    given = [f"{name}={getattr(part, name)!r}" for name, value in default if getattr(part, name) != value]
    return f"{type(part).__name__}({', '.join(given)})"


def parse_value(text: str) -> Any:
    """The value in ``--set key=value``: a number, true or false, none, a list, or else the text itself."""
    lowered = {"true": True, "false": False, "none": None, "null": None}
    if text.strip().lower() in lowered:
        return lowered[text.strip().lower()]
    try:
        value = ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        return text
    return list(value) if isinstance(value, tuple) else value
