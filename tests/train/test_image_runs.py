"""The tiny preset on real MNIST, briefly trained: its figure against the exact log-determinant, and images there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from iresnet import Exact, load
from iresnet.config import build_config
from iresnet.numerics.noise import Noise
from iresnet.runs import RunFolder, reconstruct_run, train_run
from iresnet.runs.folder import rows_of
from iresnet.tasks.density import evaluate

pytestmark = [pytest.mark.slow, pytest.mark.data]


@pytest.fixture(scope="module")
def run(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    sets = ["train.validation_rows=64", "train.validate_every=40", "train.threads=1"]
    config = build_config(preset="tiny", options={"data.name": "mnist", "train.steps": 40}, sets=sets)
    return train_run(config, tmp_path_factory.mktemp("runs") / "mnist").folder


def test_bits_per_dim_agree_with_the_exact_log_determinant(run: RunFolder) -> None:
    flow, schema = run.flow()
    rows = rows_of(run.dataset(), "test").spread(16)
    found, each = evaluate(flow, rows, batch_size=16)
    true, exact = evaluate(flow, rows, logdet=Exact(), batch_size=4)
    error = found.stderr_estimator
    assert error > 0 and found.bias < 0.1
    assert abs(found.value - true.value) <= 3 * error + found.bias + true.bias
    assert float((each - exact).abs().max()) < 16**0.5 * 5 * error
    assert 2 < float(schema.bits_per_dim(torch.tensor(true.value))) < 4


def test_images_come_back(run: RunFolder, tmp_path: Path) -> None:
    told = reconstruct_run(run, rows=64)
    assert told["max_error_user"] < 0.5 and told["latent_backward_error"] < 1e-5
    flow, again = run.flow()[0], load(run.path)
    batch = rows_of(run.dataset(), "test").spread(8).all(torch.zeros(()), Noise(0))
    z = flow.encode(batch.x)
    assert torch.equal(z, again.encode(batch.x))
    assert torch.equal(flow.invert(z).value, again.invert(z).value)
