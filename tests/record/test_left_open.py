"""Notebooks: no `with` block, cells that run twice, and leaving Python."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from ckptlab.errors import LockedError, RecordingError
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import assert_same_run, record, run, small, vector


def test_open_and_close_record_what_a_with_block_does(tmp_path):
    for name in "ab":
        model, optimizer = small()
        recorder = record(tmp_path / name, model, optimizer)
        if name == "a":
            assert recorder.open() is recorder
            run(recorder, model, optimizer, 6)
            recorder.close()
            recorder.close()
            with pytest.raises(RecordingError, match=r"inside its `with` block, or after open\(\)"):
                recorder.step()
        else:
            with recorder:
                run(recorder, model, optimizer, 6)
    assert open_store(tmp_path / "a").state == "complete"
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_cell_that_runs_again_takes_over_from_the_recorder_it_left(tmp_path):
    model, optimizer = small()
    first = record(tmp_path, model, optimizer).open()
    seen = run(first, model, optimizer, 5)
    again, restored = small()
    second = record(tmp_path, again, restored, resume=True).open()
    assert second.step_number == 5
    assert np.array_equal(vector(again), seen[5])
    with pytest.raises(RecordingError):
        first.step()
    with record(tmp_path, *small(), overwrite=True):
        pass
    with pytest.raises(RecordingError):
        second.step()
    assert open_store(tmp_path).steps.tolist() == [0]


def test_one_that_another_with_block_holds_stays_locked(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer), pytest.raises(LockedError):
        record(tmp_path, model, optimizer, overwrite=True).open()


def test_an_open_recorder_leaves_signals_to_the_notebook(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    model, optimizer = small()
    recorder = record(tmp_path, model, optimizer).open()
    assert signal.getsignal(signal.SIGINT) is before
    recorder.close()


LEFT = """
import sys
from tests.record.loops import record, run, small
model, optimizer = small()
recorder = record(sys.argv[1], model, optimizer).open()
run(recorder, model, optimizer, 6)
"""


def test_leaving_python_commits_what_was_recorded(tmp_path):
    subprocess.run([sys.executable, "-c", LEFT, tmp_path / "run"], check=True, timeout=120)
    stored = open_store(tmp_path / "run")
    assert stored.state == "interrupted"
    assert stored.steps.tolist() == list(range(7))
    assert verify(tmp_path / "run", deep=True).ok
