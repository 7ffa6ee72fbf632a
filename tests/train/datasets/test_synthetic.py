import numpy as np
from scipy import stats

from ckptlab.train.data import data_shape, load_data
from ckptlab.train.datasets.registry import SyntheticConfig
from ckptlab.train.datasets.synthetic import load


def config(**settings):
    return SyntheticConfig(**{"image_size": 6, "samples": 400, **settings})


def read(config):
    return load(**config.model_dump(exclude={"name", "flip", "crop"}))


def test_sizes_are_as_asked():
    asked = config(channels=1, classes=4)
    images = read(asked)
    assert images.train.shape == (400, 6, 6, 1)
    assert images.test.shape == (100, 6, 6, 1)
    assert len(images.classes) == 4
    assert load_data(asked).shape == data_shape(asked)
    assert stats.chisquare(np.bincount(images.train_labels, minlength=4)).pvalue > 1e-3


def test_the_seed_decides_every_byte():
    first, again, other = read(config()), read(config()), read(config(seed=1))
    assert np.array_equal(first.train, again.train)
    assert not np.array_equal(first.train, other.train)
    assert not np.array_equal(first.train[:100], first.test)


def test_classes_can_be_told_apart():
    images = read(config())
    means = np.stack([images.train[images.train_labels == c].mean(0) for c in range(10)])
    distance = np.abs(images.test[:, None] - means).sum((2, 3, 4))
    assert (distance.argmin(1) == images.test_labels).mean() > 0.95
