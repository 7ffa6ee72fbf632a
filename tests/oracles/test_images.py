"""What tasks make of images and labels, against Pillow and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ckptlab.train.assemble import build
from ckptlab.train.config import load_config
from ckptlab.train.tasks.task import Batch
from tests.oracles import images as oracles

COUNT = 600


def seen(*settings: str, step: int = 0, part: str = "train"):
    """Return images and labels before and after a task."""
    config = load_config(overrides=["model.name=mlp", "model.width=4", *settings])
    task = build(config).problem.train.task
    data = task.data
    index = torch.arange(COUNT if part == "train" else 300)
    raw, labels = (
        (data.train, data.train_labels) if part == "train" else (data.test, data.test_labels)
    )
    batch = Batch(data.normalise(raw[index]), labels[index], index)
    after = task.train(batch, step) if part == "train" else task.test(batch)
    return (*(t.numpy() for t in (batch.images, batch.labels, after.images, after.labels)),)


def test_supervised() -> None:
    before, labels, after, answers = seen()
    for i in range(COUNT):
        image, label = oracles.supervised(before[i], labels[i])
        assert np.array_equal(after[i], image)
        assert answers[i] == label


def test_random_labels() -> None:
    before, labels, after, answers = seen("task.name=random-labels")
    image, chances = oracles.random_labels(before, 10)
    assert np.array_equal(after, image)
    counts = np.bincount(answers, minlength=10)
    assert chisquare(counts, chances * COUNT).pvalue > 1e-3
    # Nothing of the truth is in them, and they are fixed.
    assert abs((answers == labels).mean() - 0.1) < 0.05
    assert np.array_equal(seen("task.name=random-labels", step=7)[3], answers)
    _, truth, _, tested = seen("task.name=random-labels", part="test")
    assert np.array_equal(truth, tested)


@pytest.mark.parametrize("part", ["train", "test"])
def test_rotation(part: str) -> None:
    before, _, after, turns = seen("task.name=rotation", part=part)
    for image, found, turn in zip(before, after, turns, strict=True):
        assert np.array_equal(found, oracles.rotation(image, turn))
    assert chisquare(np.bincount(turns, minlength=4)).pvalue > 1e-3
    if part == "train":
        assert (seen("task.name=rotation", step=1)[3] != turns).mean() > 0.6


@pytest.mark.parametrize("factor", [2, 4])
def test_blur(factor: int) -> None:
    before, labels, after, answers = seen("task.name=blur", f"task.factor={factor}")
    assert np.array_equal(labels, answers)
    wanted = np.stack([oracles.blur(image, factor) for image in before])
    np.testing.assert_allclose(after, wanted, atol=1e-5)
    sharp, _, tested, _ = seen("task.name=blur", f"task.factor={factor}", part="test")
    assert np.array_equal(sharp, tested)


def test_blur_and_rotation() -> None:
    before, _, after, turns = seen("task.name=blur-rotation", "task.factor=2")
    wanted = [oracles.blur_rotation(image, 2, t) for image, t in zip(before, turns, strict=True)]
    np.testing.assert_allclose(after, np.stack(wanted), atol=1e-5)
