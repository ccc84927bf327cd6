"""Many large matrices at once, in several threads. torch's own way hangs there, so each case is a process with a limit."""

import subprocess
import sys

import pytest
import torch

from iresnet.numerics.elimination import inverse, log_abs_det, solve

CASES = {
    "inverse": "found, wanted = inverse(many), torch.stack([torch.linalg.inv(one) for one in many])",
    "log_abs_det": "found, wanted = log_abs_det(many), torch.stack([torch.linalg.slogdet(one).logabsdet for one in many])",
    "solve": "found, wanted = (many @ solve(many, many[..., 0])[..., None])[..., 0], many[..., 0]",
    "gradient": """
x = many.clone().requires_grad_()
(found,) = torch.autograd.grad(log_abs_det(x).sum(), x)
wanted = torch.stack([torch.linalg.inv(one).mT for one in many])""",
    "vmap": """
parts = torch.func.vmap(log_abs_det)(many), torch.func.vmap(inverse)(many), torch.func.vmap(solve)(many, many[:, 0])
found = torch.cat([part.flatten() for part in parts])
wanted = torch.cat([part.flatten() for part in (log_abs_det(many), inverse(many), solve(many, many[:, 0]))])""",
    "export": """
class Volume(torch.nn.Module):
    def forward(self, x):
        return log_abs_det(x)

batch = {"x": {0: torch.export.Dim("batch")}}
program = torch.export.export(Volume(), (many[:2],), dynamic_shapes=batch)
assert "slogdet" not in str(program.graph)
found, wanted = program.module()(many), log_abs_det(many)""",
    "branch": """
blocks = [SandwichBranch(3, (200, 200)).double() for _ in range(3)]
found, wanted = (torch.stack([one.weights[1] for one in each]) for each in (bind_all(blocks), [one.bind() for one in blocks]))""",
    "exact": """
flow = iresnet.dense_flow(160, blocks=1, hidden=(8,)).double()
x = torch.randn(3, 160, dtype=torch.float64)
found = flow.log_prob(x, logdet=iresnet.Exact())
wanted = torch.cat([flow.log_prob(one[None], logdet=iresnet.Exact()) for one in x])""",
}
PROGRAM = """
import torch, iresnet
from iresnet.contract.base import bind_all
from iresnet.contract.sandwich import SandwichBranch
from iresnet.numerics.elimination import inverse, log_abs_det, solve
torch.set_num_threads(2)
torch.manual_seed(0)
many = torch.randn(3, 200, 200, dtype=torch.float64) + 20 * torch.eye(200, dtype=torch.float64)
{case}
torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
"""


@pytest.mark.parametrize("case", CASES)
def test_large_matrices_in_several_threads(case):
    program = [sys.executable, "-c", PROGRAM.format(case=CASES[case])]
    told = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr[-2000:]
    assert "MKL ERROR" not in told.stdout + told.stderr


@pytest.mark.parametrize("size", (1, 5, 131))
def test_any_batch(size):
    for batch in ((), (0,), (1,), (2, 3)):
        many = torch.randn(*batch, size, size, dtype=torch.float64) + 2 * size * torch.eye(size, dtype=torch.float64)
        torch.testing.assert_close(inverse(many) @ many, torch.eye(size, dtype=torch.float64).expand_as(many))
        torch.testing.assert_close(log_abs_det(many), torch.linalg.svdvals(many).log().sum(-1))
        right = torch.randn(*batch, size, dtype=torch.float64)
        torch.testing.assert_close((many @ solve(many, right)[..., None])[..., 0], right)
    assert torch.isinf(log_abs_det(torch.zeros(2, size, size))).all()
