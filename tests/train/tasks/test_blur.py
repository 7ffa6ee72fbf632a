import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ckptlab.train.tasks.blur import blur_matrix, blurred
from tests.train.tasks.samples import training


def blur(images, factor):
    height, width = images.shape[2:]
    return blurred(images, blur_matrix(height, factor), blur_matrix(width, factor))


def shrunk(row, size):
    """Bilinear and antialiased, one pixel at a time: a triangle as wide as two new pixels."""
    scale = len(row) / size
    out = []
    for i in range(size):
        centre = (i + 0.5) * scale
        weights = [max(0.0, 1 - abs(j + 0.5 - centre) / scale) for j in range(len(row))]
        out.append(sum(w * x for w, x in zip(weights, row, strict=True)) / sum(weights))
    return out


def enlarged(row, size):
    """Bilinear between pixel centres, flat beyond the outermost."""
    out = []
    for i in range(size):
        place = min(max((i + 0.5) * len(row) / size - 0.5, 0), len(row) - 1)
        left = math.floor(place)
        right = min(left + 1, len(row) - 1)
        out.append(row[left] * (1 - (place - left)) + row[right] * (place - left))
    return out


def by_hand(image, factor):
    """Rows, then columns, of one channel."""
    height, width = image.shape
    for resize, (rows, columns) in (
        (shrunk, (height // factor, width // factor)),
        (enlarged, (height, width)),
    ):
        image = np.array([resize(row, columns) for row in image])
        image = np.array([resize(column, rows) for column in image.T]).T
    return image


@st.composite
def cases(draw):
    height, width = draw(st.integers(2, 14)), draw(st.integers(2, 14))
    factor = draw(st.integers(2, min(height, width)))
    shape = (draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])), height, width)
    return shape, factor, draw(st.integers(0, 2**32))


@given(case=cases())
def test_equals_one_pixel_at_a_time(case):
    shape, factor, seed = case
    images = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    found = blur(torch.from_numpy(images), factor).numpy()
    for image, out in zip(
        images.reshape(-1, *shape[2:]), found.reshape(-1, *shape[2:]), strict=True
    ):
        np.testing.assert_allclose(out, by_hand(image.astype(np.float64), factor), atol=1e-5)


def test_equals_pillow_but_for_its_rounding():
    images = np.random.default_rng(0).integers(0, 256, (3, 30, 22), np.uint8)
    found = blur(torch.from_numpy(images.astype(np.float32))[None], 4)[0].numpy()
    for image, out in zip(images, found, strict=True):
        small = Image.fromarray(image).resize((22 // 4, 30 // 4), Image.Resampling.BILINEAR)
        again = np.asarray(small.resize((22, 30), Image.Resampling.BILINEAR))
        # Bytes are rounded four times.
        assert np.abs(out - again).max() <= 2


@given(side=st.integers(2, 40), data=st.data())
def test_a_constant_stays_and_the_mirror_image_is_blurred_alike(side, data):
    matrix = blur_matrix(side, data.draw(st.integers(2, side)))
    assert torch.allclose(matrix.sum(1), torch.ones(side))
    assert torch.allclose(matrix, matrix.flip(0, 1), atol=1e-6)
    assert (matrix >= 0).all()
    # Antialiased: every pixel counts.
    assert (matrix.sum(0) > 0).all()


def test_only_training_images_are_blurred_and_after_augmentation():
    plain, blurring = training(), training("task.name=blur", "task.factor=2")
    for step in range(9):
        sharp, batch = plain.update.batch_at(step), blurring.update.batch_at(step)
        assert torch.equal(batch.targets, sharp.targets)
        assert torch.equal(batch.inputs, blur(sharp.inputs, 2))
    assert plain.evaluate() == blurring.evaluate()


@pytest.mark.parametrize("name", ["blur", "rotation", "blur-rotation"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_lie_in_memory_as_those_of_other_tasks(name, channels):
    colours = f"data.channels={channels}"
    run, plain = training(colours, f"task.name={name}"), training(colours)
    assert run.update.batch_at(0).inputs.stride() == plain.update.batch_at(0).inputs.stride()


def test_the_factor_is_4_unless_told_otherwise():
    sharp = training().update.batch_at(0).inputs
    for name in ("blur", "blur-rotation"):
        default, four, two = (
            training(f"task.name={name}", *factor).update.batch_at(0).inputs
            for factor in ([], ["task.factor=4"], ["task.factor=2"])
        )
        assert torch.equal(default, four)
        assert not torch.equal(default, two)
        assert not torch.equal(default, sharp)


def test_blurred_images_are_turned_as_sharp_ones_are():
    sharp, blurring = training("task.name=rotation"), training("task.name=blur")
    both = training("task.name=blur-rotation")
    for step in range(5):
        batch = both.update.batch_at(step)
        assert torch.equal(batch.targets, sharp.update.batch_at(step).targets)
        before = blurring.update.batch_at(step).inputs
        for image, turn, blurry in zip(batch.inputs, batch.targets, before, strict=True):
            assert torch.equal(torch.rot90(image, -int(turn), dims=(1, 2)), blurry)
