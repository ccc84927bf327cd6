"""Passes through compiled kernels, training with less memory or in fewer bits: switches on a network.

None of them changes what a network is worth: densities and certificates are the same, inverses the same to rounding.
"""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import Any, Literal, TypeVar

from torch import nn

from . import kernels
from .contract.base import Branch
from .flow import Flow
from .numerics.series import PowerSeries

__all__ = ["bfloat16", "compile", "recompute"]

_Network = TypeVar("_Network", bound=nn.Module)


def compile(network: _Network, backend: Literal["auto", "kernels", "inductor"] = "auto") -> _Network:
    """Have the dense branches of ``network`` train, and be inverted, by compiled kernels; return ``network``.

    Numbers agree with those of the plain network to rounding, and certificates are made as before. Densities in evaluation, names
    of parameters and checkpoints do not change at all. Where nothing can be compiled, for want of a C++ compiler, it says so and
    leaves the network as it is.

    Parameters
    ----------
    network : any module with dense branches.
    backend : "kernels" are those of :mod:`iresnet.kernels`, for a CPU: one call for all blocks of a chain, compiled in some
        seconds the first time on a machine. They serve branches with Tanh, ELU, ReLU or Sigmoid: in training, estimates by power
        series with Neumann gradients; inverses, the plain iteration without a context. All else goes the plain way. "inductor"
        is ``torch.compile``, of a block forward and backward, which equal blocks reuse: some seconds at the first step, and again
        for another batch size. "auto" takes kernels for a network that is on a CPU, and inductor elsewhere.

    Raises
    ------
    ValueError
        For another backend.
    """
    if backend not in ("auto", "kernels", "inductor"):
        raise ValueError(f"compile: backend is 'auto', 'kernels' or 'inductor', got {backend!r}")
    if backend == "auto":
        backend = "kernels" if all(parameter.device.type == "cpu" for parameter in network.parameters()) else "inductor"
    reason = _no_kernels() if backend == "kernels" else _no_inductor()
    if reason is None:
        for branch in (part for part in network.modules() if isinstance(part, Branch)):
            branch.compiled = backend
    else:
        warnings.warn(f"training goes on without compiled kernels: {reason}", UserWarning, stacklevel=2)
    return network


def _no_kernels() -> str | None:
    """Why there are no kernels of our own here, or None."""
    try:
        kernels.operations()
    except kernels.Unavailable as error:
        return str(error)
    return None


def _no_inductor() -> str | None:
    """Why torch cannot compile here, or None."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler
    except ImportError as error:
        return f"this release of torch has no compiler for this machine ({error})"
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "torch.compile found no C++ compiler; install g++, or name one in the environment variable CXX"
    return None


def recompute(network: _Network) -> _Network:
    """Have the flows in ``network`` keep only what enters their blocks in training, and compute the rest again; return it.

    A switch of ``train_logdet``: the backward pass costs about one forward pass more, and gradients are the same. It acts on
    branches with a gradient in closed form: of any family, with Tanh, ELU, ReLU, Sigmoid, Softplus or Sine.

    Raises
    ------
    ValueError
        If an estimator of a flow has no such switch.
    """
    for flow in (part for part in network.modules() if isinstance(part, Flow)):
        estimator: Any = flow.train_logdet
        if "recompute" not in (field.name for field in fields(estimator)):
            raise ValueError(f"{type(estimator).__name__} cannot recompute: train with another estimator, or do without")
        flow.train_logdet = replace(estimator, recompute=True)
    return network


def bfloat16(network: _Network) -> _Network:
    """Have the branches of ``network`` multiply and convolve in bfloat16 in training, by ``torch.autocast``; return ``network``.

    Weights, their bounds, the sums of log-determinants and everything between the blocks stay as they are. It pays for
    convolutions, and for dense branches some hundred units wide, where the hardware has units for it (docs/contractions.md).

    Raises
    ------
    ValueError
        If a flow trains with an estimator other than ``PowerSeries`` (determinants and Arnoldi's basis need more digits), with
        compiled kernels, or with recomputation, both of which go with gradients in closed form, in float32.
    """
    branches = [part for part in network.modules() if isinstance(part, Branch)]
    for flow in (part for part in network.modules() if isinstance(part, Flow)):
        if not isinstance(flow.train_logdet, PowerSeries):
            name = type(flow.train_logdet).__name__
            raise ValueError(f"{name} needs more digits than bfloat16 has: train with PowerSeries, or in float32")
        if flow.train_logdet.recompute or any(branch.compiled for branch in branches):
            raise ValueError("bfloat16 goes without compiled kernels and without recomputation: leave out one or the other")
    for branch in branches:
        branch.bf16 = True
    return network
