"""What the laws of kernels share."""

from __future__ import annotations

import pytest
import torch

from iresnet import kernels


@pytest.fixture(scope="module")
def run():
    """torch's operations of the kernels, without which there is nothing to test."""
    try:
        return kernels.operations()
    except kernels.Unavailable as reason:
        pytest.skip(f"no kernels here: {reason}")


@pytest.fixture
def two_threads():
    """Rows and blocks are shared out among threads."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)
