"""Runs under another codec: nothing changes but the bytes of the chunks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ckptlab.errors import (
    ConfigError,
    CorruptError,
    LockedError,
    RunExistsError,
    StoreError,
    UnknownNameError,
)
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Evaluation
from ckptlab.store.maintain.repack import ASIDE, REPLACED, repack
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from tests.store.samples import block_of, layout_of, trajectory, write_run

LAYOUT = layout_of(9000, 10, 400)


def irregular(path: Path) -> None:
    """A run with a mask, gradients, parts of blocks, evaluations within and at the end."""
    weights = trajectory(21, LAYOUT.parameters)
    mask = np.random.default_rng(1).random(LAYOUT.parameters) < 0.5
    writer = StoreWriter.create(
        open_storage(path, fsync=False),
        LAYOUT,
        block=8,
        codec="fast",
        attributes={"config": {"a": 1}, "note": "kept"},
        optional=["gradients"],
        mask=mask,
    )
    for start, stop in ((0, 3), (0, 8), (8, 13), (8, 16), (16, 21)):
        part = block_of(weights, start, stop, layout=LAYOUT, anchor=stop != 13)
        part.rows["gradients"] = weights[start:stop] * np.float32(0.1)
        if stop in (8, 21):
            part.evaluations = [Evaluation(step=10 * (stop - 1), loss=0.1 * stop, accuracy=0.5)]
        writer.write_block(part)
    writer.finish("interrupted")


def contents(path: Path) -> xr.Dataset:
    return open_store(path).dataset().load()


def same(a: xr.Dataset, b: xr.Dataset) -> None:
    """Equal bit for bit: NaNs with their payloads, zeros with their signs."""
    assert set(a.variables) == set(b.variables)
    for name in a.variables:
        x, y = a[name].values, b[name].values
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        assert x.tobytes() == y.tobytes() if x.dtype != object else (x == y).all(), name


@pytest.mark.parametrize("codec", ["dense", "fast", "raw"])
def test_a_copy_holds_the_same(tmp_path: Path, codec: str) -> None:
    irregular(tmp_path / "run.zarr")
    seen: list[tuple[int, int]] = []
    done = repack(
        tmp_path / "run.zarr",
        tmp_path / "copy.zarr",
        codec=codec,
        progress=lambda n, total: seen.append((n, total)),
    )
    run, copy = open_store(tmp_path / "run.zarr"), open_store(tmp_path / "copy.zarr")
    same(contents(tmp_path / "run.zarr"), contents(tmp_path / "copy.zarr"))
    assert verify(tmp_path / "copy.zarr", deep=True).ok
    own = {"codec", "metadata_digest"}
    assert {k: v for k, v in copy.attributes.items() if k not in own} == {
        k: v for k, v in run.attributes.items() if k not in own
    }
    assert (copy.attributes["codec"], done.codec, done.steps) == (codec, codec, 21)
    assert list(copy.anchors) == list(run.anchors) == [20, 70, 150, 200]
    for step in run.anchors:
        a, b = run.anchor(int(step)), copy.anchor(int(step))
        assert a.row == b.row
        assert a.states.keys() == b.states.keys()
        for key, values in a.states.items():
            assert values.tobytes() == b.states[key].tobytes()
    assert seen == [(8, 21), (16, 21), (21, 21)]
    sizes = copy.file_sizes()
    assert done.after == sum(n for key, n in sizes.items() if key.startswith("weights/c/"))


def test_in_place(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    irregular(path)
    before = contents(path)
    done = repack(path)
    same(before, contents(path))
    assert open_store(path).attributes["codec"] == "dense"
    assert done.path == str(path)
    assert done.after < done.before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.zarr"]


def test_a_run_that_was_not_closed_becomes_an_interrupted_one(tmp_path: Path) -> None:
    write_run(tmp_path / "run.zarr", trajectory(12, LAYOUT.parameters), LAYOUT, state=None)
    repack(tmp_path / "run.zarr", codec="fast")
    assert open_store(tmp_path / "run.zarr").state == "interrupted"


@pytest.mark.parametrize("point", ["copying", "between", "after"])
def test_an_exchange_that_was_stopped_is_ended_by_the_next(tmp_path: Path, point: str) -> None:
    path = tmp_path / "run.zarr"
    aside, replaced = (path.with_name(path.name + suffix) for suffix in (ASIDE, REPLACED))
    irregular(path)
    before = contents(path)
    repack(path, aside)
    if point == "copying":
        (aside / "zarr.json").unlink()
    else:
        path.rename(replaced)
        if point == "after":
            aside.rename(path)
    repack(path)
    same(before, contents(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.zarr"]


def test_something_else_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    irregular(path)
    other = path.with_name(path.name + REPLACED)
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"is no ckptlab run"):
        repack(path)
    assert (other / "thesis.txt").read_text() == "mine"
    (path.with_name(path.name + ASIDE)).write_text("mine, too")
    (other / "thesis.txt").unlink()
    other.rmdir()
    with pytest.raises(RunExistsError):
        repack(path)
    assert path.with_name(path.name + ASIDE).read_text() == "mine, too"


def test_damage_is_refused_and_the_run_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    irregular(path)
    one, other = path / "weights/c/0/0", path / "weights/c/0/1"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)  # their checksums are right
    other.write_bytes(first)
    with pytest.raises(CorruptError, match=r"weights of step 0 have another digest"):
        repack(path)
    assert open_store(path).attributes["codec"] == "fast"
    assert one.read_bytes() == second


def test_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    irregular(path)
    with pytest.raises(UnknownNameError, match=r"unknown codec 'dens'.*Did you mean 'dense'"):
        repack(path, codec="dens")
    with pytest.raises(ConfigError, match=r"is the run itself"):
        repack(path, path)
    with pytest.raises(ConfigError, match=r"is not a local folder"):
        repack("s3://bucket/run.zarr")
    with pytest.raises(StoreError, match=r"does not exist"):
        repack(tmp_path / "none.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError):
        repack(tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir())
    write_run(tmp_path / "copy.zarr", trajectory(3, LAYOUT.parameters), LAYOUT)
    with pytest.raises(RunExistsError):
        repack(path, tmp_path / "copy.zarr")
    repack(path, tmp_path / "copy.zarr", overwrite=True)
    writer = StoreWriter.resume(open_storage(path))
    try:
        with pytest.raises(LockedError):
            repack(path)
    finally:
        writer.abandon()
