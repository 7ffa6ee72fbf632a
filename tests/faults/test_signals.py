"""`ckptlab record` told to stop: by Ctrl-C, by SIGTERM, and at once resumed."""

import os
import signal

import pytest

from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.faults.kills import processes, train_command
from tests.record.loops import assert_same_run

SETTINGS = ("model.name=mlp", "train.threads=1", "train.device=cpu", "record.memory=5MB")
STEPS = 120


def start(path, *, resume=False):
    progress = processes.Value("q", -1, lock=False)
    arguments = (*SETTINGS, f"train.steps={STEPS}", "eval.steps=0::20")
    process = processes.Process(target=train_command, args=(str(path), resume, progress, arguments))
    process.start()
    return process, progress


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("signals") / "run.zarr"
    process, _ = start(path)
    process.join()
    assert process.exitcode == 0
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_command_commits_the_last_state_and_goes_on_from_it(tmp_path, reference, number, code):
    path = tmp_path / "run.zarr"
    process, progress = start(path)
    while progress.value < 11 and process.is_alive():
        process.join(0.001)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == code
    stored = open_store(path)
    last = int(stored.steps[-1])
    assert stored.state == "interrupted"
    assert progress.value <= last < STEPS
    assert stored.anchors[-1] == last
    assert_same_run(path, reference, upto=11)
    process, _ = start(path, resume=True)
    process.join()
    assert process.exitcode == 0
    assert_same_run(path, reference)
    assert verify(path, deep=True).ok
