"""Numbers that a loop logs become arrays of their own."""

import numpy as np
import pytest
import torch
import xarray as xr

import ckptlab
from ckptlab.errors import ConfigError
from ckptlab.store.maintain.repack import repack
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import Oops, assert_same_run, record, small, update


def scalars_at(step):
    """What the loops below log: a number from the start, a tensor, one that comes and goes."""
    found = {"perplexity": 1.5 * step, "grad.norm": torch.tensor(0.1 * step)}
    if 6 <= step < 9:
        found["late"] = 2**40 + step
    return found


def log_to(path, stop, **options):
    model, optimizer = small()
    with record(path, model, optimizer, **options) as recorder:
        while recorder.step_number < stop:
            step = recorder.step_number
            update(model, optimizer, step)
            found = scalars_at(step + 1)
            recorder.log(perplexity=found.pop("perplexity"))
            recorder.step(**found)
        if stop < 12:
            raise Oops


def test_scalars_are_stored_exactly_whenever_they_come(tmp_path):
    log_to(tmp_path, 12)
    stored = open_store(tmp_path)
    steps = range(1, 13)
    assert stored.small("perplexity")[1:].tolist() == [1.5 * step for step in steps]
    expected = [float(torch.tensor(0.1 * step)) for step in steps]
    assert stored.small("grad.norm")[1:].tolist() == expected
    late = stored.small("late")
    assert late[6:9].tolist() == [2**40 + step for step in (6, 7, 8)]
    assert np.isnan(late[[*range(6), *range(9, 13)]]).all()
    assert np.isnan(stored.small("perplexity")[0])
    assert verify(tmp_path, deep=True).ok
    with xr.open_zarr(tmp_path) as dataset:
        assert dataset["late"].dims == ("step",)
        assert np.array_equal(dataset["late"].values, late, equal_nan=True)
    dataset = ckptlab.open_run(tmp_path).dataset
    assert np.array_equal(dataset["perplexity"].values, stored.small("perplexity"), equal_nan=True)


@pytest.mark.parametrize("stop", [2, 5, 7, 10])
def test_scalars_survive_an_interruption_and_a_change_of_codec(tmp_path, stop):
    log_to(tmp_path / "a", 12)
    with pytest.raises(Oops):
        log_to(tmp_path / "b", stop)
    log_to(tmp_path / "b", 12, resume=True)
    assert_same_run(tmp_path / "b", tmp_path / "a")
    repack(tmp_path / "b", codec="fast")
    assert_same_run(tmp_path / "b", tmp_path / "a")
    assert verify(tmp_path / "b", deep=True).ok


@pytest.mark.parametrize(
    ("scalars", "problem"),
    [
        ({"perplexity": "high"}, "perplexity is of type str; one number is needed"),
        ({"both": torch.zeros(2)}, r"both has shape \(2,\); one number is needed"),
        ({"train/loss": 1.0}, "'train/loss' is not accepted as the name of a number to log"),
        ({"weights": 1.0}, "'weights' is not accepted"),
        ({"Buffers": 1.0}, "'Buffers' is not accepted"),
        ({"step": 1.0}, "'step' is not accepted"),
        ({"..": 1.0}, "is not accepted"),
    ],
)
def test_a_scalar_that_is_no_number_or_has_no_name_is_refused(tmp_path, scalars, problem):
    model, optimizer = small()
    with record(tmp_path, model, optimizer) as recorder:
        update(model, optimizer, 0)
        with pytest.raises(ConfigError, match=problem):
            recorder.step(**scalars) if "step" not in scalars else recorder.log(**scalars)
        recorder.step(loss=1.0, perplexity=None)
    stored = open_store(tmp_path)
    assert stored.steps.tolist() == [0, 1]
    assert "perplexity" not in stored.arrays


def test_every_group_has_its_learning_rate(tmp_path):
    model, _ = small()
    parts = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}]
    optimizer = torch.optim.SGD(parts, lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with record(tmp_path, model, optimizer) as recorder:
        for step in range(3):
            update(model, optimizer, step)
            schedule.step()  # before the recorder is told
            recorder.step()
    stored = open_store(tmp_path)
    assert stored.small("lr")[1:].tolist() == [0.1, 0.05, 0.025]
    assert stored.small("lr_1")[1:].tolist() == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("slow", [True, False])
def test_auto_takes_the_densest_codec_that_keeps_up(tmp_path, monkeypatch, slow):
    """Whatever it takes, the run is the same; which one is decided by times, here pretended."""
    from ckptlab.record.pipeline import step_capture

    asked = []

    def choose(parameters, seconds, *, threads):
        asked.append((parameters, seconds > 0, threads >= 0))
        return "dense" if slow else "raw"

    monkeypatch.setattr(step_capture, "choose_codec", choose)
    for name, codec in (("auto", "auto"), ("fixed", "dense" if slow else "raw")):
        model, optimizer = small()
        with record(tmp_path / name, model, optimizer, codec=codec, arrays="gradients") as recorder:
            assert open_store(tmp_path / name).attributes["codec"] in ("dense", "raw")
            for step in range(10):
                update(model, optimizer, step)
                recorder.step()
    assert asked == [(13, True, True)]
    assert_same_run(tmp_path / "auto", tmp_path / "fixed")
    stored = [open_store(tmp_path / name) for name in ("auto", "fixed")]
    assert stored[0].metadata == stored[1].metadata
    assert verify(tmp_path / "auto", deep=True).ok
