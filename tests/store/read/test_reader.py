import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from ckptlab.errors import (
    CorruptError,
    FormatVersionError,
    MissingStepError,
    StoreError,
    UnknownNameError,
)
from ckptlab.run import Run
from ckptlab.store.backends.local import LocalStorage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.zarr_metadata import metadata_digest
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_latest, open_store
from ckptlab.store.write.writer import StoreWriter
from tests.store.samples import block_of, layout_of, same_bits, trajectory, write_run

LAYOUT = layout_of(20_000, 25_001)
WEIGHTS = trajectory(21, LAYOUT.parameters)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "run.zarr"
    write_run(path, WEIGHTS, LAYOUT, evaluations=(3, 9))
    return path


@pytest.fixture
def small(tmp_path):
    write_run(tmp_path, trajectory(21, 11), layout_of(5, 6), evaluations=(3, 9))
    return tmp_path


def test_snapshots_blocks_and_shards_are_what_was_written(run):
    stored = open_store(run)
    assert stored.path == str(run)
    assert stored.state == "complete"
    assert stored.layout == LAYOUT
    for k in (0, 7, 8, 20):
        assert same_bits(stored.snapshot(10 * k), WEIGHTS[k])
        assert stored.column(10 * k) == k
    weights = stored.weights
    assert (weights.shape, weights.chunk, weights.shard) == ((45_001, 21), (16384, 8), (49152, 8))
    assert same_bits(weights.read_block(2), WEIGHTS[16:])
    shard = weights.read_shard(0, 2)
    assert (shard.rows, shard.columns, shard.chunk_count) == (slice(0, 45_001), slice(16, 21), 3)
    assert shard.decode(2).shape == (16384, 8)
    assert stored.snapshot(30, "buffers_int64").tolist() == [2**40 + 30]


def test_arrays_travel_to_other_processes(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    sent = pickle.dumps(open_store(run.name).weights)
    assert len(sent) < 3000
    monkeypatch.chdir("/")
    assert same_bits(pickle.loads(sent).read_block(0), WEIGHTS[:8])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_the_lazy_dataset_is_that_of_xarray(run):
    expected = xr.open_zarr(run)
    dataset = open_store(run).dataset()
    xr.testing.assert_identical(dataset, expected)
    assert dataset["weights"].chunks is not None
    assert dataset.encoding["source"] == str(run)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_the_dataset_ends_where_the_run_did_when_it_was_opened(tmp_path):
    layout, weights = layout_of(5, 6), trajectory(16, 11)
    write_run(tmp_path, weights[:8], layout, state=None, evaluations=(3,))
    stored = open_store(tmp_path)
    writer = StoreWriter.resume(open_storage(tmp_path))
    writer.cut(8)
    writer.write_block(block_of(weights, 8, 16, layout=layout))
    writer.finish("complete")
    dataset = stored.dataset()
    assert {a: dataset.sizes[a] for a in ("step", "anchor", "eval_step")} == {
        "step": 8,
        "anchor": 1,
        "eval_step": 1,
    }
    assert same_bits(dataset["weights"].values.T, weights[:8])
    run = Run(stored)
    assert run["layer0.weight"].shape == (8, 5)
    assert same_bits(run["layer0.weight"].values, weights[:8, :5])


def test_a_step_that_was_not_recorded_names_the_nearest(run):
    stored = open_store(run)
    for step, nearest in ((-1, 0), (14, 10), (10**9, 200)):
        with pytest.raises(MissingStepError, match=f"Use step={nearest},"):
            stored.snapshot(step)


def test_unknown_arrays_name_those_there_are(run):
    stored = open_store(run)
    with pytest.raises(UnknownNameError, match="Did you mean 'weights'"):
        stored.array("weight")
    with pytest.raises(UnknownNameError, match="Did you mean 'loss'"):
        stored.small("los")


def test_an_anchor_that_is_none(run):
    stored = open_store(run)
    assert stored.anchors.tolist() == [70, 150, 200]
    assert stored.anchor(80) is None


def test_reading_imports_neither_torch_nor_xarray(run):
    script = f"""
import sys
from ckptlab.store.read.reader import open_store
from ckptlab.store.maintain.verify import verify
open_store({str(run)!r}).snapshot(0)
assert verify({str(run)!r}, deep=True).ok
print([m for m in ("torch", "xarray", "dask", "pickle5") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        open_store(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is no ckptlab run"):
        open_store(tmp_path / "file")
    with pytest.raises(StoreError, match="is no ckptlab run"):
        open_store(tmp_path)
    for content, problem in (
        ('{"zarr_format": 3, "node_type": "group", "attributes": {}}', "no ckptlab run"),
        ('{"node_type": "array"}', "no Zarr group"),
        ("[]", "no Zarr group"),
        ("{", "damaged"),
        ("\xff", "damaged"),
        ("[" * 100_000, "damaged"),
    ):
        (tmp_path / "zarr.json").write_text(content)
        with pytest.raises(StoreError, match=problem):
            open_store(tmp_path)


def rewritten(path, change, *, digest=True):
    """Change the root metadata as a hostile or a newer writer would."""
    file = path / "zarr.json"
    root = json.loads(file.read_text())
    change(root)
    attributes = root["attributes"]
    if digest:
        attributes["metadata_digest"] = metadata_digest(
            attributes, root["consolidated_metadata"]["metadata"]
        )
    file.write_text(json.dumps(root))


@pytest.mark.parametrize("version", [2, 99, "1", None, 0])
def test_a_newer_format_is_told_apart_from_damage(small, version):
    rewritten(small, lambda root: root["attributes"].update(format=version))
    with pytest.raises(FormatVersionError, match="Update ckptlab"):
        open_store(small)


def test_a_change_without_its_digest_is_damage(small):
    rewritten(small, lambda root: root["attributes"].update(started="later"), digest=False)
    with pytest.raises(CorruptError, match="digest is wrong"):
        open_store(small)


def documents(root):
    return root["consolidated_metadata"]["metadata"]


def set_all(root, axis, length):
    for document in documents(root).values():
        if document["dimension_names"][-1] == axis:
            document["shape"][-1] = length


HOSTILE = {
    "a name that leads elsewhere": lambda r: documents(r).update(
        {"optimizer_../../x": documents(r)["optimizer_momentum"]}
    ),
    "an absolute name": lambda r: documents(r).update({"/etc": documents(r)["weights"]}),
    "a name with a zero byte": lambda r: documents(r).update(
        {"optimizer_a\0": documents(r)["optimizer_momentum"]}
    ),
    "a missing array": lambda r: documents(r).pop("loss"),
    "no array": lambda r: documents(r).clear(),
    "arrays in a list": lambda r: r["consolidated_metadata"].update(metadata=[]),
    "arrays that are numbers": lambda r: documents(r).update(loss=3),
    "an absurd number of steps": lambda r: set_all(r, "step", 2**62),
    "more steps than there are": lambda r: set_all(r, "step", 10**6),
    "a negative number of steps": lambda r: set_all(r, "step", -1),
    "steps as a float": lambda r: set_all(r, "step", 21.0),
    "steps as true": lambda r: set_all(r, "step", True),
    "arrays of unequal length": lambda r: documents(r)["loss"].update(shape=[20]),
    "absurdly many parameters": lambda r: r["attributes"]["tensors"][0].update(shape=[2**61]),
    "an offset outside the vector": lambda r: r["attributes"]["tensors"][1].update(offset=10**9),
    "a negative offset": lambda r: r["attributes"]["tensors"][1].update(offset=-6),
    "no tensors": lambda r: r["attributes"].update(tensors=[], buffers=[]),
    "tensors that are text": lambda r: r["attributes"].update(tensors="abc"),
    "a buffer array elsewhere": lambda r: r["attributes"]["buffers"][0].update(array="../x"),
    "a buffer of objects": lambda r: r["attributes"]["buffers"][1].update(
        dtype="object", array="buffers_object"
    ),
    "another codec": lambda r: r["attributes"].update(codec="fast"),
    "an unknown codec": lambda r: r["attributes"].update(codec="zip"),
    "a codec in a list": lambda r: r["attributes"].update(codec=["dense"]),
    "codecs that unpickle": lambda r: documents(r)["weights"].update(
        codecs=[{"name": "numcodecs.pickle"}]
    ),
    "an inner codec that unpickles": lambda r: documents(r)["weights"]["codecs"][0][
        "configuration"
    ].update(codecs=[{"name": "numcodecs.pickle"}]),
    "a scale factor": lambda r: documents(r)["weights"].update(attributes={"scale_factor": 2}),
    "a unit of time": lambda r: documents(r)["loss"]["attributes"].update(
        units="days since 1970-1-1"
    ),
    "another type": lambda r: documents(r)["weights"].update(data_type="float64"),
    "another fill value": lambda r: documents(r)["weights"].update(fill_value=0.0),
    "a transformer": lambda r: documents(r)["weights"].update(storage_transformers=[{"name": "x"}]),
    "another key encoding": lambda r: documents(r)["weights"].update(
        chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}}
    ),
    "a block of zero": lambda r: r["attributes"].update(block=0),
    "a block of text": lambda r: r["attributes"].update(block="8"),
    "a block of a float": lambda r: r["attributes"].update(block=8.0),
    "an absurd block": lambda r: r["attributes"].update(block=2**40),
    "coordinates that are all": lambda r: r["attributes"].update(coordinates="weights"),
    "a state of its own": lambda r: r["attributes"].update(state="won"),
    "no state": lambda r: r["attributes"].pop("state"),
    "a deep attribute": lambda r: r["attributes"].update(tensors=nested(200)),
}


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_store_with_a_right_digest_is_refused(small, name):
    rewritten(small, HOSTILE[name])
    with pytest.raises(StoreError):
        open_store(small)


def test_more_attributes_than_can_be_right_are_not_read(small):
    with (small / "zarr.json").open("r+b") as file:
        file.truncate(10 * 2**30)  # a sparse file: 10 GiB that take no space
    with pytest.raises(CorruptError, match="10,737,418,240 bytes"):
        open_store(small)


def test_a_shard_that_is_absurdly_large_is_not_read(small):
    stored = open_store(small)
    with (small / "weights/c/0/0").open("r+b") as file:
        file.truncate(10 * 2**30)
    with pytest.raises(CorruptError, match="at most"):
        stored.snapshot(0)


@pytest.mark.parametrize("file", ["weights/c/0/1", "buffers/c/0/0", "buffers_int64/c/0/2"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_shard_that_zarr_would_read_as_nan_is_refused_on_opening(small, file, empty):
    (small / file).write_bytes(b"") if empty else (small / file).unlink()
    with pytest.raises(CorruptError, match=f"{file} is missing or empty"):
        open_store(small)


def test_a_missing_optimizer_shard_is_no_absent_state(small):
    (small / "optimizer_momentum/c/0/1").unlink()
    stored = open_store(small)
    assert stored.anchor(70).states
    with pytest.raises(CorruptError, match="optimizer_momentum/c/0/1 is missing"):
        stored.anchor(150)


@pytest.mark.parametrize("file", ["loss/c/0", "skipped/c/0", "tensor_index/c/0", "eval_loss/c/0"])
@pytest.mark.parametrize("how", ["missing", "empty", "pipe"])
def test_a_small_file_that_zarr_would_read_as_fill_is_refused_by_the_dataset(small, file, how):
    (small / file).unlink()
    if how == "empty":
        (small / file).write_bytes(b"")
    elif how == "pipe":
        os.mkfifo(small / file)  # which would be waited for
    stored = open_store(small)
    assert stored.snapshot(0).shape == (11,)
    with pytest.raises(CorruptError, match=f"{file} is missing or empty"):
        stored.dataset()


@pytest.mark.parametrize("target", [".", "..", "0", "/"])
def test_links_that_lead_in_circles_or_away_are_no_data(small, target):
    shutil.rmtree(small / "weights/c")
    (small / "weights/c").symlink_to(target)
    with pytest.raises(StoreError):
        open_store(small)
    assert not verify(small).ok


def test_a_snapshot_is_compared_with_its_digest(small):
    """Two shards of one array, exchanged: every checksum is right."""
    stored = open_store(small)
    assert stored.snapshot(0, "buffers").shape == (3,)
    a, b = small / "weights/c/0/0", small / "weights/c/0/1"
    a.rename(small / "weights/c/0/9")
    b.rename(a)
    (small / "weights/c/0/9").rename(b)
    assert verify(small).ok
    for step in (0, 80):
        with pytest.raises(CorruptError, match=rf"step {step} have another digest.*--deep"):
            stored.snapshot(step)
    assert not verify(small, deep=True).ok


def test_a_run_that_is_cut_or_replaced_while_it_is_opened_is_opened_again(small, tmp_path):
    """The root is read, then the run changes, then the rest is read."""

    class Changing(LocalStorage):
        def get(self, key, limit=None):
            data = super().get(key, limit)
            if key == "zarr.json" and changes:
                changes.pop()()
            return data

    def cut():
        writer = StoreWriter.resume(open_storage(small, fsync=False))
        writer.cut(8)
        writer.abandon()

    def replace():
        shutil.rmtree(small)
        write_run(small, trajectory(4, 11), layout_of(5, 6))

    for change, left in ((cut, 8), (replace, 4)):
        changes = [change]
        assert len(open_store(Changing(small)).steps) == left
    # Damage is what stays.
    (small / "weights/c/0/0").unlink()
    with pytest.raises(CorruptError, match="missing or empty"):
        open_store(small)


@pytest.mark.parametrize("axis", ["step", "anchor"])
def test_markers_must_increase(small, axis):
    from ckptlab.store.format.checksum import checksummed

    file = small / axis / "c/0"
    values = np.frombuffer(file.read_bytes()[:-4], "<i8").copy()
    values[1] = values[0]
    file.write_bytes(checksummed(values.tobytes()))
    with pytest.raises(CorruptError, match=f"`{axis}` does not increase"):
        open_store(small)


def test_the_latest_goes_by_the_markers(small):
    assert open_latest(open_storage(small)).steps.tolist() == open_store(small).steps.tolist()
