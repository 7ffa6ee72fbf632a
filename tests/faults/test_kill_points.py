"""A writer killed at every point of the commit protocol, one process each."""

import numpy as np
import pytest

from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Evaluation
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.target import is_free
from ckptlab.store.write.writer import StoreWriter
from tests.faults.figures import note
from tests.faults.points import Points
from tests.forks import fork_server
from tests.store.samples import block_of, layout_of, same_bits, trajectory

processes = fork_server()
LAYOUT = layout_of(5, 6)
WEIGHTS = trajectory(15, 11)
# Whole and partly filled blocks, growth of every axis, a flush that is extended; 13 is the end.
PLAN = [(0, 4), (4, 6), (4, 8), (8, 12), (12, 13)]
EVALUATED = {0, 7, 12}


pytestmark = pytest.mark.filterwarnings("ignore::ckptlab.store.backends.lock.StaleLockWarning")


def write(storage, plan, committed, *, resume=False):
    """Carry out a plan; `committed` is told what was committed when it was."""
    if resume:
        writer = StoreWriter.resume(storage)
        writer.cut(len(writer.steps))
    else:
        writer = StoreWriter.create(storage, LAYOUT, block=4, codec="dense", attributes={})
    for start, stop in plan:
        block = block_of(WEIGHTS, start, stop, layout=LAYOUT)
        block.evaluations = [
            Evaluation(step=10 * k, loss=k, accuracy=k / 100)
            for k in range(start, stop)
            if k in EVALUATED and 10 * k not in writer.evaluations
        ]
        writer.write_block(block)
        committed.value = stop
    writer.finish("complete")


def live(path, target, committed):
    """What the doomed process does: a run, its resumption at a cut, and one more block."""
    storage = Points(path, target)
    write(storage, PLAN[:3], committed)
    writer = StoreWriter.resume(storage)
    committed.value = 7
    writer.cut(7)
    writer.write_evaluations([])
    writer.abandon()
    write(storage, [(4, 8), *PLAN[3:]], committed, resume=True)


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """The names of all points, from a life without a death."""
    storage = Points(tmp_path_factory.mktemp("points") / "run.zarr")
    committed = processes.Value("q", 0, lock=False)

    def resumed():
        return StoreWriter.resume(storage)

    write(storage, PLAN[:3], committed)
    writer = resumed()
    writer.cut(7)
    writer.write_evaluations([])
    writer.abandon()
    write(storage, [(4, 8), *PLAN[3:]], committed, resume=True)
    check_complete(storage.root)
    return storage.passed


def check_complete(path):
    stored = open_store(path)
    assert stored.state == "complete"
    assert stored.steps.tolist() == [10 * k for k in range(13)]
    for k in range(13):
        assert same_bits(stored.snapshot(10 * k), WEIGHTS[k])
    assert stored.small("eval_step").tolist() == sorted(10 * k for k in EVALUATED)
    assert stored.anchors[-1] == 120
    assert same_bits(stored.anchor(120).states["momentum"], -WEIGHTS[12])
    report = verify(path, deep=True)
    assert report.ok, str(report)


def kill_at(path, target):
    """Run a process to its death; returns how many steps it knew committed."""
    committed = processes.Value("q", 0, lock=False)
    process = processes.Process(target=live, args=(path, target, committed))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    return committed.value


def survive(path, target, name):
    """Kill at one point, look at what is left, and go on from it."""
    known = kill_at(path, target)
    storage = open_storage(path, fsync=False)
    committed = processes.Value("q", 0, lock=False)
    if not (path / "zarr.json").exists():
        assert known == 0, name
        assert is_free(storage), name
        write(storage, PLAN, committed)
        return check_complete(path)
    stored = open_store(path)
    n = len(stored.steps)
    for k in range(n):
        assert same_bits(stored.snapshot(10 * k), WEIGHTS[k]), name
    assert np.isin(stored.anchors, stored.steps).all()
    report = verify(path, deep=True)
    assert report.ok, f"{name}: {report}"
    writer = StoreWriter.resume(storage)
    # At most the block being written is missing, and nothing that was committed.
    assert known <= len(writer.steps) <= 13, name
    assert n <= len(writer.steps) <= known + 4, name
    writer.abandon()
    kept = len(writer.steps)
    rest = [(a, b) for a, b in PLAN if b > kept]
    write(storage, [(kept // 4 * 4, rest[0][1]), *rest[1:]] if rest else [], committed, resume=True)
    return check_complete(path)


def test_the_writer_survives_its_death_at_points_of_every_kind(points, tmp_path):
    chosen = np.random.default_rng(len(points)).choice(len(points), 20, replace=False)
    for target in sorted(chosen.tolist()):
        survive(tmp_path / f"{target}.zarr", target, points[target])


@pytest.mark.slow
def test_the_writer_survives_its_death_at_every_point(points, tmp_path):
    for target, name in enumerate(points):
        survive(tmp_path / f"{target}.zarr", target, name)
    note(
        "kill-points",
        "creation, commits, a cut, the end",
        points=len(points),
        opened_and_verified=len(points),
        completed=len(points),
    )
