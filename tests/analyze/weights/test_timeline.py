"""Speeds of phases that were recorded at different intervals, against what was put in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ckptlab


def walk(path: Path, schedule: str, updates: np.ndarray, evaluated: tuple[int, ...] = ()):
    """Record a linear layer whose weights move by the rows of `updates`."""
    model = torch.nn.Linear(updates.shape[1], 1, bias=False)
    with ckptlab.Recorder(path, model, steps=schedule) as recorder:
        for step, update in enumerate(updates, 1):
            with torch.no_grad():
                model.weight += torch.from_numpy(update).float()
            recorder.step()
            if step in evaluated:
                recorder.evaluate(loss=1.0, accuracy=step / 1000)
    return ckptlab.open_run(path)


@pytest.fixture
def wandering(tmp_path):
    """A random walk whose updates triple at step 500, from where every 50th step is recorded."""
    rng = np.random.default_rng(0)
    updates = rng.standard_normal((1000, 4000)) * np.where(np.arange(1000) < 500, 1, 3)[:, None]
    return walk(tmp_path / "walk.zarr", "0:501,501::50", updates / 100, (300, 950))


def test_speeds_are_compared_over_the_same_interval(wandering):
    for recording in (wandering, wandering.dataset.ckpt):
        found = recording.analyze("timeline").sel(phase="slowing")
        assert found["change_ratio"].item() == pytest.approx(3, rel=0.1)
        assert found["agrees"].item() == "no"


@pytest.mark.parametrize("pieces", ["2GiB", "512MiB"])
def test_constant_speed_is_not_slowing(tmp_path, pieces):
    rng = np.random.default_rng(1)
    direction = rng.standard_normal(2000) / 100
    noise = 1 + 0.01 * rng.standard_normal(700)
    run = walk(tmp_path / "straight.zarr", "0:", noise[:, None] * direction)
    found = run.analyze("timeline", memory=pieces)
    assert found["change_ratio"].values[1:] == pytest.approx([1, 1], rel=0.02)
    assert found["agrees"].sel(phase="slowing").item() == "no"
    assert found["agrees"].sel(phase="fast motion").item() == "no"


def test_an_accuracy_far_from_the_end_of_a_phase_is_none(tmp_path):
    rng = np.random.default_rng(2)
    fall = np.where(np.arange(2100) < 2000, 1, 0.1)[:, None]
    fall[500:2000] = 0.5
    updates = rng.standard_normal((2100, 50)) * fall
    run = walk(tmp_path / "early.zarr", "0:", updates, (1, 11, 600, 2090))
    found = run.analyze("timeline")
    assert np.isnan(found["accuracy"].sel(phase="slowing"))
    assert found["agrees"].sel(phase="slowing").item() == "yes"
    assert found["agrees"].sel(phase="saturation").item() == "not evaluated"
