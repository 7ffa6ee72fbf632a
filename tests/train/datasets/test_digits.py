import numpy as np
from sklearn.datasets import load_digits

from ckptlab.train.data import data_shape, load_data
from ckptlab.train.datasets.digits import load
from ckptlab.train.datasets.registry import DigitsConfig


def test_split_keeps_the_share_of_every_digit():
    images = load()
    assert images.train.shape == (1437, 8, 8, 1)
    assert images.test.shape == (360, 8, 8, 1)
    everything = np.bincount(load_digits().target)
    tested = np.bincount(images.test_labels)
    assert np.array_equal(tested + np.bincount(images.train_labels), everything)
    assert np.abs(tested - 0.2 * everything).max() <= 1


def test_no_image_is_in_both_halves_or_lost():
    source = load_digits()
    ours = load()
    pixels = np.concatenate([ours.train, ours.test]).reshape(-1, 64)
    labels = np.concatenate([ours.train_labels, ours.test_labels])
    given = np.rint(source.images.reshape(-1, 64) * 255 / 16)
    rows = sorted((*row, label) for row, label in zip(pixels.tolist(), labels, strict=True))
    expected = sorted(
        (*row, label) for row, label in zip(given.tolist(), source.target, strict=True)
    )
    assert rows == expected
    assert pixels.max() == 255


def test_always_the_same_and_never_mirrored():
    first, second = load(), load()
    assert np.array_equal(first.train, second.train)
    data = load_data(DigitsConfig())
    assert (data.flip, data.crop) == (False, 1)
    assert data.shape == data_shape(DigitsConfig())
