"""How much memory training takes: an estimate before it begins, held to what a process takes, and the refusal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from iresnet import UserError, dense_flow, image_flow
from iresnet.memory import _container, available, check_images, check_step, step_bytes

CPU = torch.device("cpu")


def test_activations_grow_with_the_batch_and_bounds_with_the_resolution() -> None:
    small, large = (image_flow((3, side, side), blocks=(1, 1), hidden=8) for side in (16, 32))
    (one, fixed), (two, same) = step_bytes(small, 10), step_bytes(small, 20)
    assert two - one == one - fixed and fixed == same
    wide, more = step_bytes(large, 10)
    assert wide - more == 4 * (one - fixed) and more > fixed
    assert step_bytes(dense_flow(2, blocks=1), 10) == (0, 0)


def test_what_is_free_is_known_here_and_a_container_has_less(tmp_path: Path) -> None:
    free = available(CPU)
    assert free is None or 2**20 < free < 2**50
    for name, text in (("memory.max", "1000\n"), ("memory.current", "700\n"), ("memory.stat", "anon 500\ninactive_file 50\n")):
        (tmp_path / name).write_text(text)
    assert _container(tmp_path) == 350
    (tmp_path / "memory.max").write_text("max\n")
    assert _container(tmp_path) is None and _container(tmp_path / "none") is None


def test_a_step_that_does_not_fit_is_refused_with_what_to_set() -> None:
    if available(CPU) is None:
        pytest.skip("this system does not tell how much memory is free")
    flow = image_flow((1, 8, 8), blocks=(1,), hidden=8)
    assert check_step(flow, 64, CPU) is None
    with pytest.raises(
        UserError, match=r"would take about .* GiB of memory, and .* are free: take it in parts, .*accumulate=\d+"
    ):
        check_step(flow, 10**10, CPU)
    with torch.device("meta"):
        huge = image_flow((3, 8192, 8192), blocks=(1,), hidden=[1000, 1000])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="whatever the batch, for images of this size: make them smaller"):
        check_step(huge, 1, CPU)
    with pytest.raises(UserError, match="decoding the 1,000,000,000 images of here would take"):
        check_images(10**9, 10**6, "here")


SCRIPT = """
import pathlib, sys, torch
from iresnet import fit, image_flow
torch.set_num_threads(1)
def peak():  # of this program; getrusage has that of the process it was forked from
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
shape, blocks, rows = (3, int(sys.argv[1]), int(sys.argv[1])), (2, 2, 2), int(sys.argv[2])
flow, x = image_flow(shape, blocks=blocks, hidden=48), 256 * torch.rand(rows, *shape)
fit(image_flow((1, 8, 8), blocks=(1,), hidden=4), 256 * torch.rand(8, 1, 8, 8), steps=1)  # what any first step takes
before = peak()
fit(flow, x, steps=2, batch_size=rows)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("side", "rows"), [(32, 128), (128, 4)])
def test_the_estimate_is_near_what_a_process_takes(side: int, rows: int) -> None:
    if sys.platform != "linux":
        pytest.skip("other systems count memory in other ways")
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(side), str(rows)], capture_output=True, text=True, check=True)
    told, _ = step_bytes(image_flow((3, side, side), blocks=(2, 2, 2), hidden=48), rows)
    assert 0.5 < int(done.stdout) / told < 1.5, (int(done.stdout) / 2**20, told / 2**20)
