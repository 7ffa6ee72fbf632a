import json
import shutil

import numpy as np
import pytest

from ckptlab.errors import CorruptError, LockedError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.maintain.repair import repair
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from tests.store.samples import block_of, layout_of, same_bits, trajectory, write_run

LAYOUT = layout_of(30, 12)
WEIGHTS = trajectory(29, LAYOUT.parameters)


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "run.zarr"
    write_run(path, WEIGHTS, LAYOUT, evaluations=(3, 26))
    return path


def mend(path, **options):
    """Repair without waiting for the disk."""
    return repair(open_storage(path, fsync=False), **options)


def snapshot_of(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_sound_run_is_left_alone(run):
    before = snapshot_of(run)
    outcome = mend(run, deep=True)
    assert (outcome.saved, outcome.steps, outcome.left) == (None, 0, 29)
    assert "nothing to repair" in str(outcome)
    assert snapshot_of(run) == before


@pytest.mark.parametrize(
    ("file", "how"),
    [
        ("weights/c/0/3", "flipped"),
        ("buffers_int64/c/0/3", "missing"),
        ("optimizer_momentum/c/0/3", "torn"),
    ],
)
def test_a_broken_tail_is_saved_dropped_and_can_be_extended(run, file, how):
    before = snapshot_of(run)
    data = (run / file).read_bytes()
    if how == "missing":
        (run / file).unlink()
    else:
        (run / file).write_bytes(data[:20] if how == "torn" else b"!" + data[1:])
    damaged = snapshot_of(run)
    outcome = mend(run)
    assert json.loads(json.dumps(outcome.to_dict()))["steps"] == 5
    assert (outcome.first_step, outcome.last_step, outcome.left) == (240, 280, 24)
    assert (outcome.anchors, outcome.evaluations) == (1, 1)
    assert "dropped 5 steps (240..280)" in str(outcome)
    report = verify(run, deep=True)
    assert report.ok
    assert (report.state, report.steps) == ("interrupted", 24)
    # With what was saved the run is, byte for byte, what it was before.
    together = snapshot_of(run) | snapshot_of(run.with_name("run.zarr.damaged-1"))
    assert {p: c for p, c in together.items() if p.name != "writer.lock"} == {
        p: c for p, c in damaged.items() if p.name != "writer.lock"
    }
    writer = StoreWriter.resume(open_storage(run))
    writer.cut(24)
    block = block_of(WEIGHTS, 24, 29, layout=LAYOUT)
    writer.write_block(block)
    writer.finish("complete")
    assert verify(run, deep=True).ok
    assert same_bits(open_store(run).snapshot(280), WEIGHTS[28])
    assert (run / "weights/c/0/3").read_bytes() == before[(run / "weights/c/0/3").relative_to(run)]


def test_several_broken_blocks_at_the_end_go_together(run):
    for file in ("weights/c/0/2", "buffers/c/0/3"):
        (run / file).write_bytes(b"")
    assert mend(run).left == 16
    (run / "weights/c/0/1").write_bytes(b"")
    assert mend(run).left == 8
    assert verify(run, deep=True).ok
    assert {p.name for p in run.parent.iterdir()} == {
        "run.zarr",
        "run.zarr.damaged-1",
        "run.zarr.damaged-2",
    }


def test_damage_before_the_tail_is_refused_and_nothing_changed(run):
    for file in ("weights/c/0/1", "buffers/c/0/0", "step/c/0", "anchor/c/0", "eval_step/c/0"):
        data = (run / file).read_bytes()
        (run / file).write_bytes(b"torn")
        before = snapshot_of(run)
        with pytest.raises(CorruptError, match=file):
            mend(run)
        after = snapshot_of(run)
        assert {p: c for p, c in after.items() if p.name != "writer.lock"} == {
            p: c for p, c in before.items() if p.name != "writer.lock"
        }
        (run / file).write_bytes(data)
    assert verify(run).ok
    assert not run.with_name("run.zarr.damaged-1").exists()


def test_a_damaged_root_is_refused(run):
    text = (run / "zarr.json").read_text()
    (run / "zarr.json").write_text(text.replace("dense", "dence"))
    with pytest.raises(CorruptError, match="stands nowhere else"):
        mend(run)


def test_what_only_repeats_is_rebuilt_without_loss(run):
    for file in ("weights/zarr.json", "tensor/c/0"):
        (run / file).unlink()
    (run / "tensor_index/c/0").write_bytes(b"torn")
    (run / "loss/zarr.json").write_text("{}")
    outcome = mend(run)
    assert (outcome.steps, outcome.left) == (0, 29)
    assert set(outcome.rebuilt) == {
        *("weights/zarr.json", "tensor/c/0", "tensor_index/c/0", "loss/zarr.json")
    }
    report = verify(run, deep=True)
    assert report.ok
    assert report.state == "complete"


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_digests_are_rebuilt_from_the_weights(tmp_path, how):
    layout, weights = layout_of(2, buffers=False), trajectory(1100, 2)
    path = tmp_path / "run.zarr"
    write_run(path, weights, layout, block=32, evaluations=(5,))
    before = snapshot_of(path)
    for chunk in (0, 1):
        file = path / f"digest/c/0/{chunk}"
        file.write_bytes(b"!" + file.read_bytes()[1:]) if how == "flipped" else file.unlink()
    outcome = mend(path)
    assert (outcome.steps, outcome.left) == (0, 1100)
    assert set(outcome.rebuilt) == {"digest/c/0/0", "digest/c/0/1"}
    after = snapshot_of(path)
    assert {p: c for p, c in after.items() if p.name != "writer.lock"} == {
        p: c for p, c in before.items() if p.name != "writer.lock"
    }


def test_observations_that_are_lost_are_emptied_and_the_run_goes_on(run):
    """Without this, one byte of a file of losses would keep a run from being resumed."""
    damaged = ("loss/c/0", "gradient_norm/c/0/0", "wall_time/c/0", "skipped/c/0", "eval_loss/c/0")
    for file in damaged:
        (run / file).write_bytes(b"torn")
    writer = StoreWriter.resume(open_storage(run))
    with pytest.raises(CorruptError, match=r"/c/0.* is damaged"):
        writer.cut(29)
    writer.abandon()
    outcome = mend(run)
    assert (outcome.steps, outcome.left) == (0, 29)
    assert set(outcome.emptied) == {
        *(f"{name}, steps 0..280" for name in ("loss", "gradient_norm", "wall_time", "skipped")),
        "eval_loss, steps 30..260",
    }
    assert "emptied loss, steps 0..280; " in str(outcome)
    aside = run.with_name("run.zarr.damaged-1")
    assert all((aside / file).read_bytes() == b"torn" for file in damaged)
    report = verify(run, deep=True)
    assert (report.ok, report.state, report.steps) == (True, "complete", 29)
    stored = open_store(run)
    for name in ("loss", "gradient_norm", "wall_time", "eval_loss"):
        assert np.isnan(stored.small(name)).all()
    assert stored.small("eval_accuracy").tolist() == [0.03, 0.26]
    assert same_bits(stored.snapshot(280), WEIGHTS[28])
    writer = StoreWriter.resume(open_storage(run))
    writer.cut(29)
    writer.finish("complete")


def test_a_broken_tail_and_what_can_be_mended_go_together(run):
    for file in ("weights/c/0/3", "loss/c/0", "digest/c/0/0", "lr/zarr.json"):
        (run / file).write_bytes(b"torn")
    outcome = mend(run)
    assert (outcome.steps, outcome.left) == (5, 24)
    assert set(outcome.rebuilt) == {"digest/c/0/0", "lr/zarr.json"}
    assert len(outcome.emptied) == 1
    assert verify(run, deep=True).ok
    assert same_bits(open_store(run).snapshot(230), WEIGHTS[23])


def test_damage_that_only_digests_show_is_found_when_asked_for(run):
    from ckptlab.store.format.shards import encode_shard

    wrong = WEIGHTS[24:] + 1
    grid = open_store(run).weights.grid
    (run / "weights/c/0/3").write_bytes(bytes(encode_shard(wrong, grid, 0)))
    assert mend(run).steps == 0
    assert mend(run, deep=True).steps == 5
    assert verify(run, deep=True).ok


def test_a_run_that_is_being_written_is_not_touched(run):
    writer = StoreWriter.resume(open_storage(run))
    (run / "weights/c/0/3").write_bytes(b"")
    with pytest.raises(LockedError):
        mend(run)
    writer.abandon()


def test_an_only_block_can_go_too(tmp_path):
    path = tmp_path / "run.zarr"
    write_run(path, WEIGHTS[:5], LAYOUT)
    (path / "weights/c/0/0").write_bytes(b"")
    assert mend(path).left == 0
    assert verify(path, deep=True).ok
    shutil.rmtree(path)


def test_in_an_object_store(tmp_path):
    path = f"memory://{tmp_path}"
    write_run(path, WEIGHTS, LAYOUT)
    open_storage(path).delete("weights/c/0/3")
    outcome = mend(path)
    assert outcome.left == 24
    assert verify(path, deep=True).ok
    assert "weights/zarr.json" in open_storage(f"{path}.damaged-1").list()
