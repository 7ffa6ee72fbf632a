import json
import os
import shutil
import warnings

import numpy as np
import pytest
import xarray as xr
import xxhash
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.errors import (
    ConfigError,
    LockedError,
    NoSpaceError,
    RunExistsError,
    StoreError,
    WriteError,
)
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Evaluation
from ckptlab.store.format.schema import SERIES
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from tests.record.storages import FailingStorage
from tests.store.samples import (
    anchor_of,
    block_of,
    layout_of,
    same_bits,
    trajectory,
    write_run,
)

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")


def create(path, layout, *, block=8, **options):
    return StoreWriter.create(
        open_storage(path, fsync=False),
        layout,
        block=block,
        codec="dense",
        attributes={"config": {}},
        **options,
    )


@pytest.mark.parametrize("codec", ["dense", "fast", "raw"])
@pytest.mark.parametrize("sizes", [(3, 1), (16384,), (20_000, 25_001)])
@pytest.mark.parametrize("steps", [1, 8, 21])
def test_xarray_alone_reads_every_bit_that_was_written(tmp_path, codec, sizes, steps):
    layout = layout_of(*sizes)
    weights = trajectory(steps, sum(sizes))
    write_run(tmp_path, weights, layout, codec=codec, evaluations=(0, steps - 1))
    with xr.open_zarr(tmp_path) as dataset:
        assert dataset["weights"].dims == ("param", "step")
        assert dataset["buffers"].dims == ("buffer", "step")
        assert same_bits(dataset["weights"].values.T, weights)
        assert dataset["step"].values.tolist() == [10 * k for k in range(steps)]
        assert dataset["tensor"].values.tolist() == list(layout.names)
        assert set(dataset.coords) == {"step", "tensor", "tensor_index", "anchor", "eval_step"}
        assert dataset["tensor_index"].dims == ("param",)
        assert np.array_equal(dataset["tensor_index"].values, layout.tensor_index())
        assert dataset["buffers_int64"].dtype == np.int64
        assert dataset["buffers_int64"].values[0].tolist() == [2**40 + 10 * k for k in range(steps)]
        assert dataset["anchor"].values[-1] == 10 * (steps - 1)
        assert same_bits(dataset["optimizer_momentum"].values[:, -1], -weights[-1])
        assert set(dataset["eval_step"].values.tolist()) == {0, 10 * (steps - 1)}
        assert dataset["skipped"].dtype == bool
        assert np.isnan(dataset["batch_accuracy"].values).all()
        digests = [xxhash.xxh3_64_intdigest(row.tobytes()) for row in weights]
        assert dataset["digest"].dims == ("segment", "step")
        assert dataset["digest"].values.tolist() == [digests]
        assert dataset.attrs["state"] == "complete"
        assert "param" not in dataset.indexes


def test_nothing_uncommitted_is_seen(tmp_path):
    layout, weights = layout_of(5, 6), trajectory(24, 11)
    writer = create(tmp_path, layout, capacity=1000)
    with xr.open_zarr(tmp_path) as dataset:
        assert dict(dataset.sizes)["step"] == 0
    writer.write_block(block_of(weights, 0, 8, layout=layout))
    before = xr.open_zarr(tmp_path).load()
    # All of the next block but its marker and the view, as a kill would leave it.
    files = {name: (tmp_path / name).read_bytes() for name in ("zarr.json", "step/c/0")}
    writer.write_block(block_of(weights, 8, 16, layout=layout))
    writer.abandon()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    xr.testing.assert_identical(xr.open_zarr(tmp_path).load(), before)
    assert open_store(tmp_path).steps.tolist() == before["step"].values.tolist()
    assert verify(tmp_path, deep=True).ok
    # The marker alone is the commit: resuming finds it.
    resumed = StoreWriter.resume(open_storage(tmp_path))
    assert resumed.steps == [10 * k for k in range(8)]
    assert resumed.anchors == [70]
    resumed.abandon()


def test_a_marker_without_its_view_counts(tmp_path):
    layout, weights = layout_of(5, 6), trajectory(16, 11)
    writer = create(tmp_path, layout)
    writer.write_block(block_of(weights, 0, 8, layout=layout))
    view = (tmp_path / "zarr.json").read_bytes()
    writer.write_block(block_of(weights, 8, 16, layout=layout))
    writer.abandon()
    (tmp_path / "zarr.json").write_bytes(view)
    assert len(open_store(tmp_path).steps) == 8
    assert "8 steps were committed after the view" in str(verify(tmp_path))
    writer = StoreWriter.resume(open_storage(tmp_path))
    assert len(writer.steps) == 16
    writer.cut(16)
    writer.finish("interrupted")
    assert same_bits(open_store(tmp_path).snapshot(150), weights[15])


actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 4)),
        st.tuples(st.just("partial"), st.integers(1, 3)),
        st.tuples(st.just("evaluate"), st.just(0)),
        st.tuples(st.just("finish"), st.just(0)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("cut"), st.integers(0, 20)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=15, deadline=None)
@given(actions)
def test_any_sequence_of_blocks_partials_kills_and_cuts_equals_a_model(tmp_path_factory, actions):
    path = tmp_path_factory.mktemp("run")
    layout, weights = layout_of(5, 6), trajectory(64, 11)
    writer = create(path, layout, block=4)
    steps, anchors, evaluations = 0, [], []
    for action, amount in actions:
        if action in ("add", "partial"):
            # What is in a partly filled block is written again with what comes.
            start = steps // 4 * 4
            stop = start + 4 if action == "add" else min(steps + amount, start + 4)
            stop = max(stop, steps + 1)
            writer.write_block(block_of(weights, start, stop, layout=layout))
            steps = stop
            anchors.append(10 * (steps - 1))
        elif action == "evaluate" and steps and 10 * (steps - 1) not in evaluations:
            evaluations.append(10 * (steps - 1))
            writer.write_evaluations([Evaluation(step=evaluations[-1], loss=steps, accuracy=0.5)])
        elif action in ("finish", "kill"):
            writer.finish("interrupted") if action == "finish" else writer.abandon()
            writer = StoreWriter.resume(open_storage(path, fsync=False))
            writer.cut(steps)
        elif action == "cut":
            steps = min(steps, amount)
            last = 10 * (steps - 1)
            anchors = [a for a in anchors if a <= last]
            evaluations = [e for e in evaluations if e <= last]
            writer.cut(steps)
        check(path, weights, steps, anchors, evaluations)
    writer.finish("complete")
    check(path, weights, steps, anchors, evaluations)
    own = zarr.open_group(path, mode="r", use_consolidated=False)
    assert own["weights"].shape == (11, steps)


def check(path, weights, steps, anchors, evaluations):
    """The run holds exactly what the model says."""
    stored = open_store(path)
    assert stored.steps.tolist() == [10 * k for k in range(steps)]
    assert stored.anchors.tolist() == anchors
    assert stored.small("eval_step").tolist() == evaluations
    assert stored.small("loss").tolist() == [
        np.float32(10 * k) / np.float32(7) for k in range(steps)
    ]
    for k in range(steps):
        assert same_bits(stored.snapshot(10 * k), weights[k])
    for anchor in anchors:
        found = stored.anchor(anchor)
        assert found is not None
        assert same_bits(found.states["momentum"], -weights[anchor // 10])
    report = verify(path, deep=True)
    assert report.ok, str(report)
    span = (0, 10 * (steps - 1)) if steps else (None, None)
    assert (stored.attributes.get("start"), stored.attributes.get("end")) == span


def test_growing_past_the_first_chunks_and_capacity(tmp_path):
    layout, weights = layout_of(2, buffers=False), trajectory(1100, 2)
    writer = create(tmp_path, layout, block=32, capacity=1)
    for start in range(0, 1100, 32):
        writer.write_block(block_of(weights, start, min(start + 32, 1100), layout=layout))
    writer.finish("complete")
    stored = open_store(tmp_path)
    assert len(stored.steps) == 1100
    assert same_bits(stored.weights.read_block(32), weights[1024:1056])
    with xr.open_zarr(tmp_path) as dataset:
        assert same_bits(dataset["weights"].values.T, weights)


def test_arrays_that_a_kill_left_uneven_are_mended_on_resume(tmp_path):
    layout, weights = layout_of(5, 6), trajectory(16, 11)
    write_run(tmp_path, weights[:8], layout, state=None)
    # As if growing had been cut short: `step` is longer than what follows it.
    own = json.loads((tmp_path / "step/zarr.json").read_text())
    own["shape"] = [1000]
    (tmp_path / "step/zarr.json").write_text(json.dumps(own))
    (tmp_path / "loss/zarr.json").write_text("{")
    (tmp_path / "lr/zarr.json").unlink()
    # And an optimizer state whose first anchor was not committed.
    shutil.copytree(tmp_path / "optimizer_momentum", tmp_path / "optimizer_other")
    writer = StoreWriter.resume(open_storage(tmp_path))
    writer.cut(8)
    writer.write_block(block_of(weights, 8, 16, layout=layout))
    writer.abandon()
    assert verify(tmp_path, deep=True).ok
    assert not [p for p in (tmp_path / "optimizer_other").rglob("*") if p.is_file()]
    group = zarr.open_group(tmp_path, mode="r", use_consolidated=False)
    assert group["loss"].shape == group["lr"].shape == group["weights"].shape[1:] == (1000,)


def test_orphans_past_the_end_are_deleted_even_damaged_ones(tmp_path):
    layout, weights = layout_of(5, 6), trajectory(16, 11)
    write_run(tmp_path, weights[:8], layout, state=None)
    for orphan in ("weights/c/0/1", "buffers/c/0/1", "optimizer_momentum/c/0/1", "loss/c/1"):
        (tmp_path / orphan).write_bytes(b"torn")
    (tmp_path / "weights/c/0/1.00aa.partial").write_bytes(b"torn")
    assert verify(tmp_path).ok
    writer = StoreWriter.resume(open_storage(tmp_path))
    writer.cut(8)
    assert not (tmp_path / "weights/c/0/1").exists()
    assert not list(tmp_path.rglob("*.partial"))
    writer.write_block(block_of(weights, 8, 16, layout=layout))
    writer.finish("complete")
    with xr.open_zarr(tmp_path) as dataset:
        assert same_bits(dataset["weights"].values.T, weights)


def test_a_byte_row_that_grows_leaves_earlier_anchors_readable(tmp_path):
    layout, weights = layout_of(5, 6), trajectory(12, 11)
    writer = create(tmp_path, layout, block=4)
    rows = []
    for number, width in enumerate((10, 70_000, 200_000)):
        block = block_of(weights, 4 * number, 4 * number + 4, layout=layout, anchor=False)
        block.anchor = anchor_of(weights, 4 * number + 3)
        block.anchor.row += b" " * width  # safetensors' own padding
        rows.append(block.anchor.row)
        writer.write_block(block)
    writer.finish("complete")
    stored = open_store(tmp_path)
    assert [stored.anchor(s).row for s in (30, 70, 110)] == rows
    assert verify(tmp_path).ok
    with xr.open_zarr(tmp_path) as dataset:
        assert dataset["optimizer_state"].shape == (262_144, 3)
        assert dataset["optimizer_state"].values[8 : 8 + len(rows[0]), 0].tobytes() == rows[0]


def test_a_state_that_appears_later_is_absent_before(tmp_path):
    layout, weights = layout_of(5, 6), trajectory(8, 11)
    writer = create(tmp_path, layout, block=4)
    first = block_of(weights, 0, 4, layout=layout, anchor=False)
    first.anchor = anchor_of(weights, 3)
    first.anchor.states = {}
    first.anchor.row = b""
    writer.write_block(first)
    writer.write_block(block_of(weights, 4, 8, layout=layout))
    writer.finish("complete")
    stored = open_store(tmp_path)
    assert stored.anchor(30).states == {}
    assert list(stored.anchor(70).states) == ["momentum"]
    assert verify(tmp_path).ok
    with xr.open_zarr(tmp_path) as dataset:
        assert np.isnan(dataset["optimizer_momentum"].values[:, 0]).all()


def test_taken_paths_are_refused_and_say_what_lies_there(tmp_path):
    layout, weights = layout_of(5), trajectory(4, 5)
    run = tmp_path / "run.zarr"
    write_run(run, weights, layout, state="interrupted")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    with pytest.raises(RunExistsError, match=r"\(interrupted\).*resume.*overwrite"):
        create(run, layout)
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(RunExistsError, match="no run"):
        create(file, layout)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(RunExistsError, match="no run"):
            create(folder, layout, overwrite=overwrite)
    group = tmp_path / "other.zarr"
    zarr.open_group(group, mode="w").create_array("data", shape=(3,), dtype="f4")
    for overwrite in (False, True):
        with pytest.raises(RunExistsError, match="no run"):
            create(group, layout, overwrite=overwrite)
    assert (folder / "thesis.tex").read_text() == "mine"
    assert (group / "data/zarr.json").exists()
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_overwriting_replaces_a_run_damaged_or_not(tmp_path):
    layout, weights = layout_of(5), trajectory(4, 5)
    write_run(tmp_path, trajectory(16, 5), layout)
    root = (tmp_path / "zarr.json").read_bytes()
    (tmp_path / "zarr.json").write_bytes(root[:-50])
    with pytest.raises(RunExistsError, match="cannot be read"):
        create(tmp_path, layout)
    writer = create(tmp_path, layout, overwrite=True)
    writer.write_block(block_of(weights, 0, 4, layout=layout))
    writer.finish("complete")
    assert len(open_store(tmp_path).steps) == 4
    assert not (tmp_path / "weights/c/0/1").exists()


@pytest.mark.parametrize("bad", [{"config": float("nan")}, {"format": 2}])
def test_a_run_is_not_overwritten_by_what_cannot_be_stored(tmp_path, bad):
    write_run(tmp_path, trajectory(4, 5), layout_of(5))
    with pytest.raises(ConfigError):
        StoreWriter.create(
            open_storage(tmp_path),
            layout_of(5),
            block=4,
            codec="dense",
            attributes=bad,
            overwrite=True,
        )
    assert len(open_store(tmp_path).steps) == 4


@pytest.mark.parametrize("puts", range(0, 40, 3))
def test_a_creation_that_fails_leaves_nothing(tmp_path, puts):
    storage = FailingStorage(tmp_path / "run", puts)
    try:
        StoreWriter.create(storage, layout_of(5), block=4, codec="dense", attributes={}).abandon()
    except NoSpaceError:
        assert [p.name for p in (tmp_path / "run").iterdir()] == ["writer.lock"]
        storage.left = 1000
        StoreWriter.create(storage, layout_of(5), block=4, codec="dense", attributes={}).abandon()
    assert open_store(tmp_path / "run").steps.tolist() == []


def test_a_writer_whose_lock_was_taken_away_stops(tmp_path):
    """Whoever deletes the lock of a writer that lives and starts another has two of them."""
    layout, weights = layout_of(5, 6), trajectory(12, 11)
    writer = create(tmp_path, layout, block=4)
    writer.write_block(block_of(weights, 0, 4, layout=layout))
    (tmp_path / "writer.lock").unlink()
    second = StoreWriter.resume(open_storage(tmp_path))
    second.cut(4)
    with pytest.raises(WriteError, match="another writer may be at"):
        writer.write_block(block_of(weights + 1, 4, 8, layout=layout))
    for action in (lambda: writer.finish("complete"), lambda: writer.write_evaluations([])):
        with pytest.raises(WriteError, match="another writer may be at"):
            action()
    second.write_block(block_of(weights, 4, 8, layout=layout))
    second.finish("complete")
    check(tmp_path, weights, 8, [30, 70], [])


def test_one_writer_at_a_time(tmp_path):
    layout = layout_of(5)
    writer = create(tmp_path, layout)
    for refused in (
        lambda: StoreWriter.resume(open_storage(tmp_path)),
        lambda: create(tmp_path, layout, overwrite=True),
    ):
        with pytest.raises(LockedError, match=str(os.getpid())):
            refused()
    assert (tmp_path / "zarr.json").exists()
    writer.abandon()
    StoreWriter.resume(open_storage(tmp_path)).abandon()


def test_only_a_run_can_be_resumed(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        StoreWriter.resume(open_storage(tmp_path / "none"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="no ckptlab run"):
        StoreWriter.resume(open_storage(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_is_left_out_of_a_block_is_fill(tmp_path):
    layout, weights = layout_of(5, 6), trajectory(4, 11)
    writer = create(tmp_path, layout)
    block = block_of(weights, 0, 4, layout=layout)
    block.series = {"step": block.series["step"]}
    writer.write_block(block)
    writer.finish("complete")
    stored = open_store(tmp_path)
    for name, series in SERIES.items():
        if series.axis == "step" and name not in ("step", "digest"):
            values = stored.small(name)
            assert np.isnan(values).all() if values.dtype.kind == "f" else not values.any()
    assert verify(tmp_path, deep=True).ok


def test_bytes_of_weights_are_counted(tmp_path):
    layout, weights = layout_of(500), trajectory(12, 500)
    writer = create(tmp_path, layout)

    def on_disk():
        return sum(p.stat().st_size for p in (tmp_path / "weights/c").rglob("*") if p.is_file())

    for stop in (3, 8):
        writer.write_block(block_of(weights, 0, stop, layout=layout))
        assert writer.weight_bytes == on_disk()
    writer.abandon()
    writer = StoreWriter.resume(open_storage(tmp_path))
    assert writer.weight_bytes == on_disk()
    writer.cut(0)
    assert writer.weight_bytes == 0
    writer.abandon()


def test_no_warning_reaches_who_reads_with_ckptlab(tmp_path):
    write_run(tmp_path, trajectory(4, 5), layout_of(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_store(tmp_path).dataset()["weights"].load()
