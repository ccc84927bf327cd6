"""A batch taken in parts has the gradient of the whole, images with their augmentation and noise included."""

from __future__ import annotations

import pytest
import torch

from iresnet import Exact, image_flow
from iresnet.data import Augmentation, ImageSchema
from iresnet.settings import Settings
from iresnet.tasks.density import Density
from iresnet.tasks.rows import Rows
from iresnet.train import Trainer


def trained(accumulate: int) -> tuple[dict, list[dict]]:
    torch.manual_seed(0)
    flow = image_flow((1, 4, 4), blocks=(1,), hidden=4, levels=17).double()
    flow.train_logdet = Exact()
    images = torch.randint(0, 17, (50, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = Rows(images, schema=ImageSchema((1, 4, 4), 17), augment=Augmentation(1, True))
    flow.initialize(rows.all(torch.zeros((), dtype=torch.float64)).x)
    records: list[dict] = []
    settings = Settings(steps=4, batch_size=11, lr=1e-2, log_every=1, penalty=1e-3, accumulate=accumulate)
    Trainer(Density(flow), rows, None, settings, [records.append]).run()
    return flow.state_dict(), records


@pytest.mark.parametrize("accumulate", (2, 3, 40))
def test_parts_add_up_to_the_whole(accumulate: int) -> None:
    (whole, once), (parts, often) = trained(1), trained(accumulate)
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-9, atol=1e-9)
    for one, other in zip(once, often, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-9)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-9)


def test_no_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="accumulate >= 1"):
        Settings(accumulate=0)
