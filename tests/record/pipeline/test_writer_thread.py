import errno
import os
import shutil
import threading
import time

import numpy as np
import pytest

from ckptlab.errors import NoSpaceError, WriteError
from ckptlab.record.pipeline.buffers import BlockBuffer
from ckptlab.record.pipeline.writer_thread import WriterThread
from ckptlab.record.recorder import Recorder
from ckptlab.record.state.model_tensors import capture
from ckptlab.store.backends.local import LocalStorage
from ckptlab.store.format.shards import encode_shard
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from tests.record.loops import assert_same_run, memory_for, record, run, small, update
from tests.record.storages import BrokenStorage, CountingStorage, FailingStorage, SlowStorage


def test_the_trainer_waits_rather_than_queueing_a_third_block_and_says_how_long(tmp_path):
    model, optimizer = small()
    with record(SlowStorage(tmp_path, 0.2), model, optimizer, block=2) as recorder:
        for step in range(11):
            recorder.step(loss=update(model, optimizer, step))
            # Recorded are at most the committed, those being written and those being filled.
            assert recorder.stats.recorded - recorder.stats.committed <= 4
    stored = open_store(tmp_path)
    assert stored.steps.tolist() == list(range(12))
    stalls = stored.small("stall_time")
    assert stalls.sum() == pytest.approx(recorder.stats.stall_seconds)
    # Six blocks of 0.2 s; two of them can be hidden by the buffers.
    assert stalls.sum() > 0.5
    assert np.count_nonzero(stalls > 0.01) <= 5


def test_a_fast_disk_stalls_nothing(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer, block=32) as recorder:
        run(recorder, model, optimizer, 20)
    assert recorder.stats.stall_seconds < 0.05


@pytest.mark.parametrize(
    ("codec", "cores", "waits"), [("dense", 1, 1), ("dense", 2, 0), ("raw", 1, 0)]
)
def test_training_that_takes_all_cores_waits_while_they_compress(
    tmp_path, monkeypatch, codec, cores, waits
):
    done = threading.Event()

    def slow(*args):
        done.wait(0.5)  # for the end of the training's step, unless that waits for this
        return encode_shard(*args)

    monkeypatch.setattr("ckptlab.store.write.block_writer.encode_shard", slow)
    monkeypatch.setattr("ckptlab.record.pipeline.step_capture.count_cores", lambda: cores)
    model, optimizer = small()
    with record(tmp_path, model, optimizer, block=2, codec=codec) as recorder:
        recorder.step(loss=update(model, optimizer, 0))  # the second of the block
        assert (recorder.stats.stall_seconds > 0.4) == waits
        done.set()
        recorder.step(loss=update(model, optimizer, 1))
    stored = open_store(tmp_path)
    assert stored.steps.tolist() == [0, 1, 2]
    assert stored.small("stall_time").sum() == pytest.approx(recorder.stats.stall_seconds)


@pytest.fixture(scope="module")
def puts(tmp_path_factory):
    """What a run of 17 steps in blocks of 4 puts, in order."""
    storage = CountingStorage(tmp_path_factory.mktemp("counting"))
    model, optimizer = small()
    train(storage, model, optimizer, 16)
    return storage.keys


# Where in the run the disk is full: within its creation, its first block, the last, its end.
@pytest.mark.parametrize("part", [0.05, 0.3, 0.5, 0.8, 0.97])
def test_a_full_disk_stops_the_run_and_resuming_completes_it(tmp_path, puts, part):
    model, optimizer = small()
    path = tmp_path / "run.zarr"
    with pytest.raises(NoSpaceError, match=rf"{path}/.*bytes needed.*make space and resume"):
        train(FailingStorage(path, int(part * len(puts))), model, optimizer, 16)
    model, optimizer = small()
    begun = (path / "zarr.json").exists()
    assert begun is (part > 0.1)
    if begun:
        assert verify(path, deep=True).ok
    with record(path, model, optimizer, resume=begun) as recorder:
        run(recorder, model, optimizer, 16)
    model, optimizer = small()
    train(tmp_path / "reference", model, optimizer, 16)
    assert_same_run(path, tmp_path / "reference")


def train(path, model, optimizer, steps):
    with record(path, model, optimizer) as recorder:
        run(recorder, model, optimizer, steps)


def test_any_error_of_the_thread_reaches_the_next_step_and_the_lock_is_let_go(tmp_path):
    model, optimizer = small()
    recorder = record(BrokenStorage(tmp_path, 70), model, optimizer)
    raised = []
    with pytest.raises(WriteError, match="recording failed: ZeroDivisionError: a bug"):
        watch(recorder, model, optimizer, raised)
    assert len(raised) == 1  # by a step, not only on leaving
    assert verify(tmp_path, deep=True).ok
    StoreWriter.resume(LocalStorage(tmp_path)).abandon()


def watch(recorder, model, optimizer, raised):
    with recorder:
        try:
            for step in range(10_000):
                recorder.step(loss=update(model, optimizer, step))
        except WriteError as error:
            raised.append(error)
            raise


def test_an_error_on_the_way_out_reaches_whoever_leaves(tmp_path, puts):
    model, optimizer = small()
    with pytest.raises(NoSpaceError):
        train(FailingStorage(tmp_path, puts.index("weights/c/0/0")), model, optimizer, 2)
    assert open_store(tmp_path).steps.tolist() == []
    assert open_store(tmp_path).state == "recording"


def test_other_errors_of_the_disk_are_told_by_their_names(tmp_path):
    model, optimizer = small()
    with pytest.raises(WriteError, match=os.strerror(errno.EIO)):
        train(FailingStorage(tmp_path, 80, errno.EIO), model, optimizer, 40)


def test_a_store_removed_beneath_the_writer_stops_it_and_is_not_brought_back(tmp_path):
    model, optimizer = small()
    path = tmp_path / "run.zarr"

    def until_noticed():
        with record(path, model, optimizer) as recorder:
            run(recorder, model, optimizer, 5)
            path.rename(tmp_path / "gone")  # at once, as no removal file by file is
            shutil.rmtree(tmp_path / "gone")
            run(recorder, model, optimizer, 10_000)

    with pytest.raises(WriteError, match=r"run\.zarr was removed or replaced"):
        until_noticed()
    assert not path.exists()


def test_a_store_removed_file_by_file_stops_it_too(tmp_path):
    """As `rm -rf` does, while the writer adds files."""
    model, optimizer = small()
    path = tmp_path / "run.zarr"
    done = threading.Event()

    def remove():
        while path.exists():
            shutil.rmtree(path, ignore_errors=True)
        done.set()

    def until_noticed():
        with record(path, model, optimizer) as recorder:
            run(recorder, model, optimizer, 20)
            threading.Thread(target=remove).start()
            run(recorder, model, optimizer, 100_000)

    with pytest.raises(WriteError, match=r"was removed|cannot be written"):
        until_noticed()
    assert done.wait(60)
    assert not path.exists()


def test_a_thread_that_is_gone_is_noticed_by_who_waits_for_it(tmp_path):
    """As after a fork, where threads are not copied."""
    model, _ = small()
    captured = capture(model)
    writer = StoreWriter.create(
        LocalStorage(tmp_path, fsync=False), captured.layout, block=4, codec="dense", attributes={}
    )
    thread = WriterThread(
        writer, [BlockBuffer(captured, 4, gradients=False)], threads=1, shared=True, nice=0
    )
    thread.take()
    thread.close()
    with pytest.raises(WriteError, match="writer thread died"):
        thread.take()
    writer.abandon()


def test_what_was_committed_is_synced_when_nothing_waits(tmp_path):
    model, optimizer = small()
    with record(tmp_path, model, optimizer, fsync=True, sync_seconds=1000) as recorder:
        run(recorder, model, optimizer, 11)
        began = time.monotonic()
        while synced_steps(tmp_path) < 12:
            assert time.monotonic() - began < 60
            time.sleep(0.02)
        assert open_store(tmp_path).state == "recording"
    assert "synced" not in open_store(tmp_path).attributes
    assert verify(tmp_path, deep=True).ok


def synced_steps(path):
    return open_store(path).attributes.get("synced", {"step": 0})["step"]


def test_commits_share_syncs_while_blocks_wait(tmp_path, monkeypatch):
    # On a busy machine the loop may leave the writer idle.
    monkeypatch.setattr("ckptlab.store.write.writer.IDLE_SYNC_SECONDS", 1000.0)
    syncs = {}
    for seconds in (0, 1000):
        model, optimizer = small()
        storage = SlowStorage(tmp_path / str(seconds), 0.05, fsync=True)
        with record(storage, model, optimizer, sync_seconds=seconds) as recorder:
            run(recorder, model, optimizer, 60)
        syncs[seconds] = storage.syncs_done
        assert open_store(storage.path).steps.tolist() == list(range(61))
    # Fifteen commits: two each, or almost none but those of the first and the last.
    assert syncs[0] > 30
    assert syncs[1000] < syncs[0] / 2


def test_a_lock_that_is_taken_away_stops_the_training(tmp_path):
    model, optimizer = small()

    def until_noticed():
        with record(tmp_path, model, optimizer) as recorder:
            run(recorder, model, optimizer, 9)
            (tmp_path / "writer.lock").unlink()
            run(recorder, model, optimizer, 10_000)

    with pytest.raises(WriteError, match="another writer may be at"):
        until_noticed()
    assert verify(tmp_path, deep=True).ok


def test_no_thread_outlives_its_recorder(tmp_path):
    before = set(threading.enumerate())
    model, optimizer = small()
    with Recorder(tmp_path, model, optimizer, memory=memory_for(model, 4), fsync=False) as recorder:
        run(recorder, model, optimizer, 9)
    assert set(threading.enumerate()) <= before
