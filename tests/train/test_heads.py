"""What a classifier of images reads of its latents."""

from __future__ import annotations

import pytest
import torch

from iresnet.heads import Convolutions, Pool
from iresnet.models import image_classifier


def test_pooling_reads_the_channels_of_the_last_stage() -> None:
    x = torch.randn(2, 4, 8, 8)
    inner = torch.nn.functional.pixel_unshuffle(x, 2)
    expected = torch.cat((inner.clamp(min=0).mean((2, 3)), (-inner).clamp(min=0).mean((2, 3))), 1)
    assert torch.equal(Pool(1)(x), expected) and expected.shape == (2, 32)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 7, 5), (2, 1, 1)])
def test_a_head_of_convolutions_knows_its_width(shape: tuple[int, int, int]) -> None:
    head = Convolutions(shape)
    assert head(torch.randn(2, *shape)).shape == (2, head.width)


def test_heads_change_the_classes_and_not_the_density() -> None:
    made, x = [], 256 * torch.rand(2, 1, 8, 8)
    for head in ("linear", "pool", "convolution"):
        torch.manual_seed(0)
        made.append(image_classifier((1, 8, 8), 3, (1,), (4, 4), 0.9, head=head))
        assert made[-1](x).shape == (2, 3)
        assert torch.equal(made[-1].flow.log_prob(x), made[0].flow.log_prob(x))
    with pytest.raises(ValueError, match="unknown head 'mlp'; there are linear, pool, convolution"):
        image_classifier((1, 8, 8), 3, head="mlp")
