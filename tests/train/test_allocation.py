"""After a step, a process keeps the memory that the next one takes."""

import platform
import subprocess
import sys

import pytest

STEPS = 10
PROGRAM = """
import resource, sys
import torch, iresnet
from iresnet.allocation import keep_freed_memory

torch.set_num_threads(1)
keep_freed_memory()
x = torch.randn(512, 2)
flow = iresnet.dense_flow(2, blocks=16, hidden=(128, 128), family="gram")
flow.initialize(x)

def steps():
    for _ in range(int(sys.argv[1])):
        (-flow.log_prob(x, logdet=iresnet.PowerSeries(3)).mean()).backward()
        flow.zero_grad()

steps(), steps()  # until there is as much as they take
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
steps()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_is_kept():
    program = [sys.executable, "-c", PROGRAM, str(STEPS)]
    faults = int(subprocess.run(program, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert faults < 1000 * STEPS  # there are 3,000 to 10,000 a step where the memory goes back
