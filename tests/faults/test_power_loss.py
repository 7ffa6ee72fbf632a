"""Power lost at any point, with files reaching the disk in any order."""

import contextlib
import time

import numpy as np
import pytest

from ckptlab.errors import StoreError
from ckptlab.store.format.block import Evaluation
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read import power_loss
from ckptlab.store.read.reader import open_latest, open_store, read_root
from ckptlab.store.write.writer import IDLE_SYNC_SECONDS, PowerLossWarning, StoreWriter
from tests.faults.figures import note
from tests.faults.power import PowerLossError, PowerStorage
from tests.store.samples import block_of, layout_of, same_bits, trajectory

LAYOUT = layout_of(5, 6)
WEIGHTS = trajectory(16, 11)
# Whole and partly filled blocks, and a flush that is extended; 13 is the end.
PLAN = [(0, 4), (4, 6), (4, 8), (8, 12), (12, 13)]
EVALUATED = (0, 3, 7, 12)
ALWAYS, RARELY = 0.0, 1e9
"""Seconds between syncs: every commit its own, or only those that are asked for."""

pytestmark = pytest.mark.filterwarnings("ignore::ckptlab.store.read.power_loss.PowerLossWarning")


@pytest.fixture
def boot(monkeypatch):
    """Has the machine boot: its identity is all of it that the store sees."""

    def again(name):
        monkeypatch.setattr(power_loss, "boot_id", lambda: name)

    again("first")
    return again


def write(storage, committed, *, resume=False, sync_seconds=ALWAYS, cut=None):
    """Carry out the plan, or what is left of it; tells what a power loss must leave."""
    if resume:
        writer = StoreWriter.resume(storage)
        writer.sync_seconds = sync_seconds
        kept = len(writer.steps) if cut is None else min(cut, len(writer.steps))
        committed.append(min(kept, committed[-1]))
        writer.cut(kept)
        committed.append(kept)  # and what another process left is synced
    else:
        writer = StoreWriter.create(storage, LAYOUT, block=4, codec="fast", attributes={})
        writer.sync_seconds = sync_seconds
    for start, stop in PLAN:
        if stop <= len(writer.steps):
            continue
        block = block_of(WEIGHTS, start, stop, layout=LAYOUT)
        block.evaluations = [
            Evaluation(step=10 * k, loss=k / 3, accuracy=k / 100)
            for k in EVALUATED
            if k < stop and 10 * k not in writer.evaluations
        ]
        writer.write_block(block)
        if stop in (6, 12):
            writer.sync()
        if sync_seconds == ALWAYS or stop in (6, 12):
            committed.append(stop)
    writer.finish("complete")
    committed.append(13)


def live(storage, committed, sync_seconds):
    """A run, and its resumption at a cut that drops steps."""
    write(storage, committed, sync_seconds=sync_seconds)
    write(storage, committed, resume=True, sync_seconds=sync_seconds, cut=9)


def check_right(stored):
    """Everything that is shown is what was written."""
    n = len(stored.steps)
    assert stored.steps.tolist() == [10 * k for k in range(n)]
    for k in range(n):
        assert same_bits(stored.snapshot(10 * k), WEIGHTS[k])
    assert np.array_equal(stored.small("loss"), np.arange(n, dtype=np.float32) * 10 / 7)
    assert np.array_equal(stored.small("lr"), np.full(n, 0.1))
    evaluated = stored.small("eval_step") // 10
    assert set(evaluated.tolist()) == {k for k in EVALUATED if k < n}
    assert np.array_equal(stored.small("eval_loss"), evaluated / 3)
    assert np.array_equal(stored.small("eval_accuracy"), evaluated / 100)
    for anchor in stored.anchors.tolist():
        assert same_bits(stored.anchor(anchor).states["momentum"], -WEIGHTS[anchor // 10])


def total_steps(sync_seconds):
    storage = PowerStorage({})
    live(storage, [], sync_seconds)
    return storage.steps


def until_it_goes(storage, work):
    """Work until the power or the process goes, if it does; returns what had to survive."""
    committed = [0]
    with contextlib.suppress(PowerLossError):
        work(storage, committed)
    return committed[-1]


def lose_power_at(points, sync_seconds, boot, rng):
    """Returns of how many points a run was there afterwards."""
    runs = 0
    for left in points:
        boot("first")
        storage = PowerStorage({}, left)
        known = until_it_goes(storage, lambda s, c: live(s, c, sync_seconds))
        storage = PowerStorage(storage.after_power_loss(rng))
        boot("second")
        if not known and not is_run(storage):
            continue  # within its creation: nothing was recorded
        runs += 1
        check_survived(storage, known, f"step {left}")
        fates = take_up_again(storage, boot, rng, f"step {left}")
        storage = fates[-1]
        assert verify(storage, deep=True).ok
        check_right(open_store(storage))
        assert len(open_store(storage).steps) == 13
    return runs


def take_up_again(storage, boot, rng, where):
    """Kill it and cut the power, in any order, until it is complete; returns the storages."""
    storages = [storage]
    for number in range(4):
        if open_store(storage).state == "complete":
            break
        again = [ALWAYS, RARELY][int(rng.integers(2))]
        storage.after_kill(None if number == 3 else int(rng.integers(1, 120)))
        known = until_it_goes(
            storage, lambda s, c, a=again: write(s, c, resume=True, sync_seconds=a)
        )
        storage.left = None
        if rng.random() < 0.5:
            check_right(open_latest(storage))  # a process that dies loses nothing
            where = f"{where}, killed at {storage.steps}"
        else:
            where = f"{where}, off at {storage.steps}"
            storage = PowerStorage(storage.after_power_loss(rng))
            boot(f"boot {number}")
            check_survived(storage, known, where)
        storages.append(storage)
    return storages


@pytest.mark.parametrize("sync_seconds", [ALWAYS, RARELY])
def test_what_was_synced_survives(boot, sync_seconds):
    points = range(0, total_steps(sync_seconds), 9)
    assert lose_power_at(points, sync_seconds, boot, np.random.default_rng(0)) > len(points) / 2


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_what_was_synced_survives_at_every_point(boot):
    rng = np.random.default_rng(1)
    for sync_seconds, name in ((ALWAYS, "every commit synced"), (RARELY, "commits share syncs")):
        points = total_steps(sync_seconds)
        runs = lose_power_at(range(points), sync_seconds, boot, rng)
        note(
            "power",
            name,
            points=points,
            a_run_was_there=runs,
            right_and_as_far_as_synced=runs,
            completed=runs,
        )


def check_survived(storage, known, where):
    report = verify(storage, deep=True)
    assert report.ok, f"{where}: {report}"
    check_right(open_store(storage))
    latest = open_latest(storage)
    check_right(latest)
    assert len(latest.steps) >= known, where


def is_run(storage):
    try:
        read_root(storage)
    except StoreError:
        return False
    return True


def test_what_was_not_synced_counts_as_long_as_the_machine_runs(boot):
    """A process that dies takes nothing with it; the next one syncs what it left."""
    storage = PowerStorage({})
    writer = StoreWriter.create(storage, LAYOUT, block=4, codec="fast", attributes={})
    writer.sync_seconds = RARELY
    for start in (0, 4, 8):
        writer.write_block(block_of(WEIGHTS, start, start + 4, layout=LAYOUT))
    writer.abandon()
    assert len(open_store(storage).steps) == 12
    resumed = StoreWriter.resume(storage)
    assert len(resumed.steps) == 12
    resumed.abandon()
    boot("second")
    assert len(open_store(storage).steps) == 0
    report = verify(storage, deep=True)
    assert report.ok
    assert "12 steps were not synced" in str(report)
    with pytest.warns(PowerLossWarning, match="has booted since"):
        StoreWriter.resume(storage).abandon()


def test_what_waits_can_be_synced(boot):
    storage = PowerStorage({})
    writer = StoreWriter.create(storage, LAYOUT, block=4, codec="fast", attributes={})
    writer.sync_seconds = RARELY
    assert not writer.unsynced
    writer.write_block(block_of(WEIGHTS, 0, 4, layout=LAYOUT))
    writer.write_block(block_of(WEIGHTS, 4, 8, layout=LAYOUT))
    assert writer.unsynced
    writer.sync()
    assert not writer.unsynced
    assert 1 < writer.sync_in() <= RARELY
    assert writer.sync_in(hurry=False) <= IDLE_SYNC_SECONDS
    writer.write_block(block_of(WEIGHTS, 8, 12, layout=LAYOUT))
    assert writer.unsynced
    while writer.sync_in(hurry=False) > 0:
        time.sleep(writer.sync_in(hurry=False))
    writer.write_block(block_of(WEIGHTS, 12, 16, layout=LAYOUT), hurry=False)
    assert not writer.unsynced
    files = storage.after_power_loss(np.random.default_rng(0))
    boot("second")
    assert len(open_store(PowerStorage(files)).steps) == 16


def test_where_a_power_loss_could_not_be_told_every_commit_is_synced(boot, monkeypatch):
    monkeypatch.setattr("ckptlab.store.write.writer.boot_id", lambda: None)
    rng = np.random.default_rng(0)
    for left in range(60, total_steps(RARELY), 7):
        storage, committed = PowerStorage({}, left), [0]
        with pytest.raises(PowerLossError):
            live(storage, committed, RARELY)
        latest = open_latest(PowerStorage(storage.after_power_loss(rng)))
        check_right(latest)
