import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.train.augment import Augmentation, Normalisation, augment
from ckptlab.train.counter_rng import derived_seed, integers


def by_hand(image, sample, step, augmentation):
    """One image at a time: pad with black, cut out, mirror."""
    height, width, _ = image.shape
    crop, seed = augmentation.crop, augmentation.seed

    def draw(stream, high):
        return int(integers(derived_seed(seed, stream, step), torch.tensor([sample]), high))

    padded = np.pad(image, ((crop, crop), (crop, crop), (0, 0)))
    top = draw("crop row", 2 * crop + 1) if crop else 0
    left = draw("crop column", 2 * crop + 1) if crop else 0
    cut = padded[top : top + height, left : left + width]
    return cut[:, ::-1] if augmentation.flip and draw("flip", 2) else cut


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(
        st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])
    ),
    flip=st.booleans(),
    crop=st.integers(0, 3),
    step=st.integers(0, 10**6),
    seed=st.integers(0, 2**40),
)
def test_equals_one_image_at_a_time(size, flip, crop, step, seed):
    generator = np.random.default_rng(0)
    images = generator.integers(1, 256, size, np.uint8)
    index = generator.permutation(1000)[: size[0]]
    augmentation = Augmentation(flip=flip, crop=crop, seed=seed)
    batch = augment(torch.from_numpy(images), torch.from_numpy(index), step, augmentation)
    expected = [
        by_hand(image, sample, step, augmentation)
        for image, sample in zip(images, index, strict=True)
    ]
    assert np.array_equal(batch.numpy(), np.stack(expected))


def test_draws_belong_to_the_sample_not_to_its_place():
    images = torch.arange(4 * 8 * 8, dtype=torch.uint8).view(4, 8, 8, 1)
    index = torch.tensor([5, 9, 2, 7])
    augmentation = Augmentation(flip=True, crop=2, seed=0)
    there = augment(images, index, 3, augmentation)
    back = augment(images.flip(0), index.flip(0), 3, augmentation)
    assert torch.equal(there, back.flip(0))


def test_all_crops_and_both_sides_come_up():
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 5, 5, 1).expand(4000, 5, 5, 1)
    batch = augment(image, torch.arange(4000), 0, Augmentation(flip=True, crop=1, seed=0))
    assert len({bytes(picture.numpy().tobytes()) for picture in batch}) == 3 * 3 * 2


def test_nothing_to_do_leaves_images_alone():
    images = torch.zeros(2, 3, 3, 1, dtype=torch.uint8)
    assert augment(images, torch.arange(2), 0, Augmentation(flip=False, crop=0, seed=0)) is images


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_images_keep_channels_fastest(channels):
    images = torch.randint(0, 256, (5, 4, 6, channels), dtype=torch.uint8)
    scale, shift = torch.rand(2, channels)
    out = Normalisation(scale=scale, shift=shift)(images)
    assert out.shape == (5, channels, 4, 6)
    assert out.is_contiguous(memory_format=torch.channels_last)
    for c in range(channels):
        assert torch.equal(out[:, c], images[..., c].float() * scale[c] + shift[c])
