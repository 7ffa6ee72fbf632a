"""Power lost at any point, with files reaching the disk in any order."""

import numpy as np
import pytest

from ckptlab.errors import StoreError
from ckptlab.store.block import Evaluation
from ckptlab.store.reader import open_latest, read_root
from ckptlab.store.verify import verify
from ckptlab.store.writer import StoreWriter
from tests.faults.power import PowerLossError, PowerStorage
from tests.store.samples import block_of, layout_of, same_bits, trajectory

LAYOUT = layout_of(5, 6)
WEIGHTS = trajectory(16, 11)
PLAN = [(0, 4), (4, 6), (4, 8), (8, 12), (12, 13)]


def write(storage, plan, committed, *, resume=False, sync_seconds=0.0):
    if resume:
        writer = StoreWriter.resume(storage)
        writer.cut(len(writer.steps))
        plan = [(start, stop) for start, stop in plan if stop > len(writer.steps)]
    else:
        writer = StoreWriter.create(storage, LAYOUT, block=4, codec="fast", attributes={})
    writer.sync_seconds = sync_seconds
    committed.append(len(writer.steps))
    for start, stop in plan:
        block = block_of(WEIGHTS, start, stop, layout=LAYOUT)
        if stop == 8:
            block.evaluations = [Evaluation(step=60, loss=1.0, accuracy=0.5)]
        writer.write_block(block)
        committed.append(stop)
    writer.finish("complete")


def snapshots_are_right(stored):
    for step in stored.steps:
        assert same_bits(stored.snapshot(int(step)), WEIGHTS[int(step) // 10])


def total_steps(sync_seconds):
    storage = PowerStorage({})
    write(storage, PLAN, [], sync_seconds=sync_seconds)
    return storage.steps


def lose_power(left, rng, sync_seconds=0.0, files=None):
    """Write until the power goes; returns the disk and what was known committed."""
    storage, committed = PowerStorage(files or {}, left), [0]
    with pytest.raises(PowerLossError):
        write(storage, PLAN, committed, resume=files is not None, sync_seconds=sync_seconds)
    return storage.after_power_loss(rng), committed[-1]


@pytest.mark.parametrize("seed", [0, 1])
def test_what_was_committed_survives_at_every_point(seed):
    rng = np.random.default_rng(seed)
    for left in range(total_steps(0.0)):
        files, known = lose_power(left, rng)
        storage = PowerStorage(files)
        if not known and not readable(storage):
            continue  # within its creation: nothing was recorded
        snapshots_are_right(open_latest(storage))
        report = verify(storage, deep=True)
        assert report.ok, f"step {left}: {report}"
        latest = open_latest(storage)
        assert len(latest.steps) >= known
        again, _ = lose_power_or_finish(files, rng)
        storage = PowerStorage(again)
        if len(open_latest(storage).steps) < 13:
            write(storage, PLAN, [], resume=True)
        assert verify(storage, deep=True).ok
        assert len(open_latest(storage).steps) == 13


def readable(storage):
    try:
        read_root(storage)
    except StoreError:
        return False
    return True


def lose_power_or_finish(files, rng):
    """Resume, and lose the power a second time somewhere, or not at all."""
    storage, committed = PowerStorage(files, int(rng.integers(10, 150))), [0]
    try:
        write(storage, PLAN, committed, resume=True)
    except PowerLossError:
        return storage.after_power_loss(rng), committed[-1]
    return storage.after_power_loss(rng), committed[-1]


def test_blocks_that_wait_for_a_sync_are_right_or_found_damaged():
    """With `sync_seconds` a power loss may cost the last blocks; it never makes numbers wrong."""
    rng = np.random.default_rng(0)
    outcomes = {"right": 0, "found": 0}
    for left in range(60, total_steps(1e9)):
        files, _ = lose_power(left, rng, sync_seconds=1e9)
        storage = PowerStorage(files)
        if not readable(storage):
            continue
        try:
            snapshots_are_right(open_latest(storage))
        except StoreError:
            assert not verify(storage, deep=True).ok
            outcomes["found"] += 1
        else:
            outcomes["right"] += 1
    assert min(outcomes.values()) > 5
