"""Augmentation of images: against a naive loop, and a function of (seed, row) alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iresnet.data import Augmentation
from iresnet.data.images import ImageSchema
from iresnet.numerics.noise import Noise
from iresnet.tasks.rows import Rows


def pictures(count: int, shape: tuple[int, int, int] = (2, 5, 4)) -> Tensor:
    return torch.randint(1, 256, (count, *shape), dtype=torch.uint8)


def naive(image: Tensor, down: int, right: int, mirrored: bool) -> Tensor:
    """One image moved up and left by numbers of pixels after a border of zeros was put around it, then mirrored."""
    channels, height, width = image.shape
    found = torch.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                k = width - 1 - j if mirrored else j
                if 0 <= i + down < height and 0 <= k + right < width:
                    found[c, i, j] = image[c, i + down, k + right]
    return found


@pytest.mark.parametrize("crop", (0, 1, 3))
@pytest.mark.parametrize("flip", (False, True))
def test_each_image_is_one_of_the_naive_ones_and_all_of_them_come_up(crop: int, flip: bool) -> None:
    images = pictures(1).repeat(600, 1, 1, 1)
    found = Augmentation(crop, flip)(images, Noise(0, torch.arange(600)))
    moves = [
        (i, j, m) for i in range(-crop, crop + 1) for j in range(-crop, crop + 1) for m in ((False, True) if flip else (False,))
    ]
    known = torch.stack([naive(images[0], *move) for move in moves])
    same = (found[:, None] == known).flatten(2).all(2)
    assert same.any(1).all() and same.any(0).all()
    share = same.float().mean(0)
    assert (share < 3 / len(moves) + 0.05).all()  # none much more often than the others


def test_a_row_is_treated_the_same_alone_and_in_any_batch() -> None:
    images, augment = pictures(20), Augmentation(2, True)
    whole = augment(images, Noise(5, torch.arange(20)))
    some = torch.tensor([7, 3, 11])
    assert torch.equal(augment(images[some], Noise(5, some)), whole[some])
    assert not torch.equal(augment(images, Noise(6, torch.arange(20))), whole)


def test_batches_of_rows_are_augmented_anew_each_step_and_dequantised_within_a_level() -> None:
    images, like = pictures(20), torch.zeros(())
    plain = Rows(images, schema=ImageSchema((2, 5, 4)))
    augmented = Rows(images, schema=ImageSchema((2, 5, 4)), augment=Augmentation(1, True))
    places = torch.tensor([4, 2, 9])
    x = plain.batch(places, Noise(0).at(1), like).x
    assert x.dtype == like.dtype and torch.equal(x.floor(), images[places].float()) and float((x - x.floor()).std()) > 0.2
    first, second = (augmented.batch(places, Noise(0).at(step), like).x.floor() for step in (1, 2))
    assert not torch.equal(first, second)
    assert torch.equal(first, augmented.batch(places, Noise(0).at(1), like).x.floor())
    settled = Rows(images, schema=ImageSchema((2, 5, 4)), settled=True).batch(places, Noise(0), like).x
    assert torch.equal(settled, images[places] + 0.5)
