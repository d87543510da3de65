"""Images that are moved and mirrored, batch by batch."""

import pytest
import torch
from toy_problem import blobs

from l0bayes.inference import TensorBatches
from l0bayes.inference.data.augment import shifted


@pytest.mark.parametrize("shape", [(200, 1, 5, 6), (200, 3, 5, 6), (200, 5, 6)])
def test_every_shift_and_nothing_else(shape):
    torch.manual_seed(0)
    image = torch.rand(shape[1:]) + 0.1
    padded = torch.nn.functional.pad(image, [1] * 4)
    possible = {(dy, dx): padded[..., dy : dy + 5, dx : dx + 6] for dy in range(3) for dx in range(3)}
    found = {
        shift
        for moved in shifted(image.expand(shape), 1)
        for shift, expected in possible.items()
        if torch.equal(moved, expected)
    }
    assert found == set(possible)  # each is missing from 200 images with a probability below 1e-9


def test_half_of_the_images_are_mirrored():
    torch.manual_seed(0)
    image = torch.rand(3, 4, 5)
    moved = shifted(image.expand(400, 3, 4, 5), 0, flip=True)
    mirrored = [torch.equal(one, image.flip(-1)) for one in moved]
    assert all(is_mirrored or torch.equal(one, image) for is_mirrored, one in zip(mirrored, moved, strict=True))
    assert 140 < sum(mirrored) < 260  # beyond six standard deviations


def test_batches_are_augmented_and_the_data_are_not():
    x, y = blobs()
    before = x.clone()
    batches = list(TensorBatches(x, y, 20, augment=lambda part: part + 1))
    assert torch.equal(torch.cat([part for part, _ in batches]), x + 1)
    assert torch.equal(x, before)
