"""What every test shares: one thread per process, fixed seeds, and the folder of real data."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported, here and in the programs that tests start: xdist's workers would otherwise each take all
# cores and wait for one another. Pictures are drawn without a display.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["MPLBACKEND"] = "Agg"

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

torch.set_num_threads(1)

# The same examples every time and no limit per example: a failure is the code's, never the machine's.
settings.register_profile("iresnet", deadline=None, derandomize=True)
settings.load_profile("iresnet")


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Every test starts from the same random state, whichever tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Decoded images and compiled kernels go to a folder of the tests' own, one for all of xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    os.environ["IRESNET_CACHE"] = str(folder)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data that IRESNET_DATA names; the test is skipped where there is none."""
    named = os.environ.get("IRESNET_DATA", "")
    if not named:
        pytest.skip("IRESNET_DATA is not set: no real data to read")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"IRESNET_DATA names {folder}, which is not a folder")
    return folder
