"""Preemptible jobs go on where they were; a trainer's checkpoint says where that is."""

import numpy as np
import pytest

from ckptlab.errors import ConfigError, StoreError
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import (
    Oops,
    assert_same_run,
    record,
    run,
    small,
    train_alone,
    train_and_raise,
)


def job(path, stop, **options):
    """What a scheduler starts again and again, with the same lines."""
    model, optimizer = small()
    with record(path, model, optimizer, resume="auto", **options) as recorder:
        run(recorder, model, optimizer, stop)
        if stop < 10:
            raise Oops


def test_auto_begins_a_run_or_goes_on_with_it(tmp_path):
    for stop in (3, 7):
        with pytest.raises(Oops):
            job(tmp_path / "a", stop)
    job(tmp_path / "a", 10)
    job(tmp_path / "b", 10)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    job(tmp_path / "a", 10)  # complete already: nothing is left to do
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert open_store(tmp_path / "a").state == "complete"


def test_auto_begins_where_a_killed_job_left_an_empty_store(tmp_path):
    model, optimizer = small()
    with record(tmp_path / "a", model, optimizer, steps="5:"):
        files = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file() and path not in files:
            path.unlink()
    for path, data in files.items():
        path.write_bytes(data)
    job(tmp_path / "a", 10, steps="5:")
    assert open_store(tmp_path / "a").steps.tolist() == [5, 6, 7, 8, 9, 10]


def test_auto_leaves_what_is_no_run_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="is no ckptlab run"):
        job(tmp_path, 10)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("at", [0, 2, 4, 6])
@pytest.mark.parametrize("steps", ["0:", "0:20:2"])
def test_a_run_is_cut_to_where_a_checkpoint_is(tmp_path, at, steps):
    """The model is brought there by other means; the recording goes on as if nothing had been."""
    model, optimizer = small()
    with record(tmp_path / "a", model, optimizer, steps=steps) as recorder:
        seen = run(recorder, model, optimizer, 9)
    model, optimizer = small()
    with pytest.raises(Oops):
        train_and_raise(tmp_path / "b", model, optimizer, 7, steps=steps)
    model, optimizer = small()
    train_alone(model, optimizer, at)
    options = {"resume": True, "at": at, "steps": steps}
    with record(tmp_path / "b", model, optimizer, **options) as recorder:
        assert recorder.step_number == at
        run(recorder, model, optimizer, 9)
    assert np.array_equal(open_store(tmp_path / "b").snapshot(9), seen[9])
    assert_same_run(tmp_path / "b", tmp_path / "a", upto=5)
    assert open_store(tmp_path / "b").steps.tolist() == open_store(tmp_path / "a").steps.tolist()
    assert verify(tmp_path / "b", deep=True).ok


@pytest.mark.parametrize(
    ("at", "trained", "problem"),
    [
        (6, 6, "at=6: the run begins at step 0 and ends at step 4, so that steps would be missing"),
        (3, 2, "at=3: parameter '0.weight' is not what the run recorded at that step"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_lost(tmp_path, at, trained, problem):
    model, optimizer = small()
    with pytest.raises(Oops):
        train_and_raise(tmp_path, model, optimizer, 4)
    model, optimizer = small()
    train_alone(model, optimizer, trained)
    with (
        pytest.raises(ConfigError, match=problem),
        record(tmp_path, model, optimizer, resume=True, at=at),
    ):
        pass
    assert open_store(tmp_path).steps.tolist() == [0, 1, 2, 3, 4]


def test_flush_commits_what_a_block_still_holds(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer, block=32) as recorder:
        run(recorder, model, optimizer, 3)
        recorder.flush()
        stored = open_store(tmp_path)
        assert stored.steps.tolist() == [0, 1, 2, 3]
        assert stored.anchors.tolist() == [3]
        run(recorder, model, optimizer, 5)
        recorder.flush()
        recorder.flush()
    assert open_store(tmp_path).steps.tolist() == list(range(6))
    assert verify(tmp_path, deep=True).ok
