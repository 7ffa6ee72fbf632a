import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ckptlab.errors import DataError
from ckptlab.train.datasets.images import Images, moments

pictures = arrays(
    np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.just(3))
)


@given(images=pictures)
def test_moments_equal_numpy(images):
    mean, std = moments(images)
    values = images.reshape(-1, 3) / 255
    assert np.allclose(mean, values.mean(0), atol=1e-12)
    expected = values.std(0)
    constant = values.min(0) == values.max(0)
    assert np.allclose(std, np.where(constant, 1, expected), atol=1e-9)


def test_moments_of_more_images_than_fit_one_piece():
    images = np.random.default_rng(0).integers(0, 256, (1000, 2, 2, 1), np.uint8)
    mean, std = moments(images)
    assert np.allclose([mean[0], std[0]], [(images / 255).mean(), (images / 255).std()])


def make(**changes):
    settings = {
        "train": np.zeros((4, 2, 2, 1), np.uint8),
        "train_labels": np.zeros(4, np.int64),
        "test": np.zeros((2, 2, 2, 1), np.uint8),
        "test_labels": np.zeros(2, np.int64),
        "classes": ("a", "b"),
    }
    return Images(**{**settings, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"train": np.zeros((0, 2, 2, 1), np.uint8)},
        {"train": np.zeros((4, 2, 2, 1), np.float32)},
        {"train_labels": np.zeros(3, np.int64)},
        {"test": np.zeros((2, 3, 2, 1), np.uint8)},
    ],
)
def test_halves_must_agree(changes):
    make()
    with pytest.raises(DataError):
        make(**changes)
