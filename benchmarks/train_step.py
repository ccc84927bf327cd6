"""One training step: zero the gradients, the loss and its gradient, Adam's step, and what a library needs after it.

16 blocks of D-128-128-D bounded by 0.97 a branch, batch 512, float32. Ours and normflows' estimate the same: three terms, each
further one with probability 0.5, all of them by one probe, Neumann gradient, fused Adam; peers hold their weights with 5 power
iterations. *Exact first trace* takes the first term in closed form, as our defaults do: about 30 times less variance for the
time that it adds. *Compiled* is after `iresnet.compile`, by kernels of our own in C++. In two dimensions ours is also measured
with its default, the full Jacobian, which has no noise. FrEIA's step is cheaper than it should be: its log-determinant has no
gradient. zuko's is a continuous flow of one network, with its exact trace up to 8 columns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

import iresnet
from iresnet.data import toy
from iresnet.numerics.logdet import LogDet

from .harness import Options, Row, compare, interleaved, spread
from .peers import NAMES, Architecture, build, installed

__all__ = ["EXACT_TRACE", "SAME_ESTIMATOR", "ours", "rows"]

BATCH = 512
FEATURES, FAMILIES = (2, 43), ("gram", "sandwich")
SAME_ESTIMATOR = iresnet.PowerSeries(terms=3, roulette="geometric", tail=0.5, first_trace=False)
EXACT_TRACE = replace(SAME_ESTIMATOR, first_trace=True)
# What the Gram family should gain over normflows, which cannot be compiled: its backward pass is computed in the forward pass.
TARGETS = {"gram, eager": 3.0, "gram, compiled": 5.0}


def data(features: int) -> Tensor:
    """A batch (B, features)."""
    return toy.sample("moons", BATCH, seed=0).float() if features == 2 else torch.randn(BATCH, features)


def our_flow(x: Tensor, family: str) -> iresnet.Flow:
    """Our flow of the common architecture, set up by the batch x."""
    shape = Architecture(x.shape[1])
    flow = iresnet.dense_flow(
        shape.features, blocks=shape.blocks, hidden=shape.hidden, lipschitz=shape.lipschitz, family=family, whiten=False
    )
    flow.initialize(x)
    return flow.train()


def ours(x: Tensor, family: str, logdet: LogDet | None = None, *, compiled: bool = False) -> Callable[[], None]:
    """A training step of our flow on the batch x."""
    flow = our_flow(x, family)
    if compiled:
        iresnet.compile(flow)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (-flow.log_prob(x, logdet=logdet).mean()).backward()
        optimizer.step()

    return step


def theirs(x: Tensor, name: str) -> Callable[[], None]:
    """A training step of a peer."""
    peer = build(name, Architecture(x.shape[1]))
    peer.initialize(x)
    optimizer = torch.optim.Adam(peer.parameters(), lr=3e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (-peer.log_prob(x.clone()).mean()).backward()
        optimizer.step()
        peer.settle()

    return step


def parts(x: Tensor, family: str, options: Options, *, compiled: bool = False) -> Row:
    """Where the milliseconds of our step go, beside its matrix products alone: what no implementation goes below.

    With k terms a block multiplies by its weights k + 6 times: forward, k terms, the product of the surrogate, and two gradients
    for each of the forward pass and of that product. k is 4 on average.
    """
    flow = our_flow(x, family)
    flow = iresnet.compile(flow) if compiled else flow
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-4, fused=True)
    weights = [torch.randn(pair) for pair in pairwise(Architecture(x.shape[1]).widths)]

    def loss() -> Tensor:
        return -flow.log_prob(x, logdet=SAME_ESTIMATOR).mean()

    def multiply() -> None:
        for _ in range(10 * Architecture(x.shape[1]).blocks):
            hidden = x
            for weight in weights:
                hidden = hidden @ weight

    tasks = {"bounds": flow.bind, "loss": loss, "loss_and_gradient": lambda: loss().backward(), "optimiser": optimizer.step}
    seconds = interleaved(tasks | {"matrix_products_alone": multiply}, options)
    named = {f"{name}_ms": 1e3 * spread(found).median for name, found in seconds.items()}
    return {"parts_of_our_step": f"{family}, {'compiled' if compiled else 'eager'}", "columns": x.shape[1], **named}


# Names of torch's own calls, by what they do; what is in none of these lists is views, autograd's and Python's work.
CALLS = {
    "matrix products": ("mm", "bmm", "addmm"),
    "passes": ("mul", "mul_", "add", "add_", "addcmul", "addcmul_", "sub", "div", "neg", "tanh", "sum", "linalg_vector_norm"),
    "copies": ("cat", "copy_", "clone", "fill_", "zero_"),
    "bits of signs": ("__rshift__", "__lshift__", "bitwise_xor_", "bitwise_or_", "bitwise_and_", "bitwise_right_shift_"),
    "optimiser": ("_fused_adam_",),
}


def profile(x: Tensor, family: str) -> Row:
    """Where the time of our eager step goes, by torch's profiler, in percent; and the milliseconds of a step of 8 rows."""
    step, few = ours(x, family, SAME_ESTIMATOR), ours(x[:8].clone(), family, SAME_ESTIMATOR)
    for _ in range(20):
        step()
        few()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for _ in range(20):
            step()
    spent = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in seen.key_averages()}
    whole = sum(spent.values())
    shares = {what: 100 * sum(spent.get(name, 0.0) for name in names) / whole for what, names in CALLS.items()}
    seconds = []
    for _ in range(20):
        began = time.perf_counter()
        few()
        seconds.append(time.perf_counter() - began)
    named = {f"{what}_%": share for what, share in shares.items()} | {"rest_%": 100 - sum(shares.values())}
    return {"profile_of_our_step": f"{family}, eager", "columns": x.shape[1], **named, "8_rows_ms": 1e3 * median(seconds)}


def compilation() -> Row:
    """Seconds until a new process has our kernels, which are compiled only the first time on a machine."""
    program = "import time, iresnet.kernels as k; t = time.perf_counter(); k.operations(); print(time.perf_counter() - t)"
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"IRESNET_CACHE": folder}
        told = [
            float(subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout)
            for _ in range(2)
        ]
    return {"kernels": "from C++", "seconds_the_first_time": told[0], "seconds_from_then_on": told[1]}


def rows(options: Options) -> list[Row]:
    """Milliseconds a step, ours against every installed peer; the parts of ours; seconds to compile."""
    return [compilation()] + [row for features in FEATURES for row in at(features, options)]


def at(features: int, options: Options) -> list[Row]:
    """The rows of that dimension."""
    torch.manual_seed(0)
    peers, found, x = [name for name in NAMES if installed(name)], [], data(features)
    cases = {f"{family}, eager": ours(x, family, SAME_ESTIMATOR) for family in FAMILIES}
    cases |= {f"{family}, compiled": ours(x, family, SAME_ESTIMATOR, compiled=True) for family in FAMILIES}
    cases |= {f"{family}, compiled, exact first trace": ours(x, family, EXACT_TRACE, compiled=True) for family in FAMILIES}
    cases |= {f"{family}, eager, exact first trace": ours(x, family, EXACT_TRACE) for family in FAMILIES}
    if features == 2:
        cases |= {f"{family}, eager, full Jacobian": ours(x, family) for family in FAMILIES}
    seconds = interleaved(cases | {name: theirs(x, name) for name in peers}, options)
    for case in cases:
        for name in peers:
            if name == "normflows" or case == "gram, eager":
                target = TARGETS.get(case) if name == "normflows" else None
                figures = ([1e3 * second for second in seconds[key]] for key in (case, name))
                found.append(compare(f"D = {features}, {case}", name, "ms", *figures, target=target))
    found += [parts(x, family, options, compiled=compiled) for family in FAMILIES for compiled in (False, True)]
    return found + [profile(x, family) for family in FAMILIES]
