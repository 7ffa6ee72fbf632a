"""Bytes that flip, files that are torn, missing or left behind, clocks that jump."""

import os
import shutil
import time

import numpy as np
import pytest
import xarray as xr

from ckptlab.errors import StoreError
from ckptlab.store.format.shards import is_sharded
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.faults.figures import note
from tests.record.loops import assert_same_run, everything, record, run


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A run with every kind of array in it."""
    path = tmp_path_factory.mktemp("damage") / "run.zarr"
    model, optimizer = everything()
    with record(path, model, optimizer, arrays=["weights", "gradients"]) as recorder:
        recorder.evaluate(loss=1.0, accuracy=0.5)
        run(recorder, model, optimizer, 21)
    return path


def everything_in(path):
    """All that can be read of a run, by name."""
    stored = open_store(path)
    found = {"steps": stored.steps.tobytes(), "anchors": stored.anchors.tobytes()}
    found["attributes"] = repr(stored.attributes).encode()
    for name, document in stored.metadata.items():
        if is_sharded(document) and not name.startswith("optimizer_"):
            array = stored.array(name)
            blocks = [array.read_block(j).tobytes() for j in range(array.grid.shard_grid[1])]
            found[name] = b"".join(blocks)
        elif document["dimension_names"][-1] in ("step", "eval_step", "anchor") and not (
            name.startswith("optimizer_")
        ):
            found[name] = stored.small(name).tobytes()
    for step in stored.anchors.tolist():
        anchor = stored.anchor(step)
        found[f"anchor {step}"] = anchor.row + b"".join(
            key.encode() + values.tobytes() for key, values in sorted(anchor.states.items())
        )
    return found


def outcome_of(path, expected):
    """Read everything; wrong numbers fail the test here and nowhere else."""
    try:
        found = everything_in(path)
    except StoreError:
        return "refused"
    assert found == expected
    return "harmless"


def flip_bytes(original, path, count, seed):
    """Flip single bytes in files chosen alike; returns what came of them."""
    rng = np.random.default_rng(seed)
    expected = everything_in(original)
    files = sorted(
        f.relative_to(original)
        for f in original.rglob("*")
        if f.is_file() and f.name != "writer.lock"
    )
    shutil.copytree(original, path)
    tally = {"refused": 0, "harmless": 0, "found by verify": 0, "white space": 0}
    for _ in range(count):
        file = path / files[int(rng.integers(len(files)))]
        data = file.read_bytes()
        position, change = int(rng.integers(len(data))), int(rng.integers(1, 256))
        damaged = bytearray(data)
        damaged[position] ^= change
        file.write_bytes(damaged)
        result = outcome_of(path, expected)
        tally[result] += 1
        report = verify_or_none(path)
        if report is None or not report.ok:
            tally["found by verify"] += 1
        else:
            # Nothing but white space between the tokens of JSON may go unnoticed.
            assert result == "harmless"
            assert file.suffix == ".json"
            assert chr(data[position]).isspace()
            assert chr(damaged[position]).isspace()
            tally["white space"] += 1
        file.write_bytes(data)
    return tally


def verify_or_none(path, *, deep=False):
    try:
        return verify(path, deep=deep)
    except StoreError:
        return None


def test_a_flipped_byte_is_found_or_harmless(original, tmp_path):
    tally = flip_bytes(original, tmp_path / "run.zarr", 60, seed=0)
    assert tally["found by verify"] + tally["white space"] == 60
    assert tally["refused"] > 20


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thousands_of_flipped_bytes_are_found_or_harmless(original, tmp_path):
    tally = flip_bytes(original, tmp_path / "run.zarr", 1500, seed=1)
    note(
        "flips",
        "a run with every kind of array",
        flips=tally["refused"] + tally["harmless"],
        refused_when_read=tally["refused"],
        read_as_written=tally["harmless"],
        wrong_numbers=0,
        found_by_verify=tally["found by verify"],
        not_found=tally["white space"],
    )


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_xarray_alone_reads_no_flipped_number_either(original, tmp_path):
    path = tmp_path / "run.zarr"
    shutil.copytree(original, path)
    rng = np.random.default_rng(0)
    expected = xr.open_zarr(original).load()
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and "/c/" in f.as_posix()]
    refused = 0
    for file in rng.choice(np.array(files, object), 15):
        data = file.read_bytes()
        damaged = bytearray(data)
        damaged[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        file.write_bytes(damaged)
        try:
            found = xr.open_zarr(path).load()
        except Exception:
            refused += 1
        else:
            xr.testing.assert_identical(found, expected)
        file.write_bytes(data)
    assert refused > 10


@pytest.mark.parametrize("share", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_torn_swapped_emptied_and_missing_files_are_found_or_harmless(original, tmp_path, share):
    """Every file in each way; where `share` is 3, a third of these, and each way at some files."""
    path = tmp_path / "run.zarr"
    shutil.copytree(original, path)
    expected = everything_in(original)
    rng = np.random.default_rng(0)
    files = [f for f in sorted(path.rglob("*")) if f.is_file() and f.name != "writer.lock"]
    contents = {f: f.read_bytes() for f in files}
    for file, data in contents.items():
        # Of another array and length: nothing but its place says which of two like files is which.
        array = file.relative_to(path).parts[0]
        others = [
            content
            for name, content in contents.items()
            if name.relative_to(path).parts[0] != array and len(content) != len(data)
        ]
        other = others[int(rng.integers(len(others)))]
        zeros = bytes(len(data))
        ways = (b"", data[: int(rng.integers(len(data)))], zeros, other, None)
        for number, damage in enumerate(ways, files.index(file)):
            if damage == data or number % share:
                continue
            if damage is None:
                file.unlink()
            else:
                file.write_bytes(damage)
            outcome_of(path, expected)
            report = verify_or_none(path, deep=True)
            assert report is None or not report.ok, (file, damage)
            file.write_bytes(data)


def test_files_left_behind_are_no_matter(original, tmp_path):
    path = tmp_path / "run.zarr"
    model, optimizer = everything()
    with record(path, model, optimizer, arrays=["weights", "gradients"]) as recorder:
        recorder.evaluate(loss=1.0, accuracy=0.5)
        run(recorder, model, optimizer, 9)
    for name in ("weights/c/0/0", "zarr.json", "step/c/0", "weights/c/0/9"):
        (path / f"{name}.deadbeef.partial").write_bytes(b"half a file")
    (path / "weights/c/0/2").with_name("3").write_bytes(b"an orphan")
    assert verify(path, deep=True).ok
    model, optimizer = everything()
    with record(path, model, optimizer, resume=True) as recorder:
        run(recorder, model, optimizer, 21)
    assert not list(path.rglob("*.partial"))
    assert_same_run(path, original)


def test_clocks_that_jump_are_no_matter(original, tmp_path, monkeypatch):
    """Times of files, of the lock, and the wall clock while recording."""
    path = tmp_path / "run.zarr"
    model, optimizer = everything()
    real, jumps = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 1e9)
    with record(path, model, optimizer, arrays=["weights", "gradients"]) as recorder:
        recorder.evaluate(loss=1.0, accuracy=0.5)
        run(recorder, model, optimizer, 9)
    for number, file in enumerate(sorted(path.rglob("*"))):
        os.utime(file, ((-1) ** number * 1e9 + 1e9,) * 2)
    assert verify(path, deep=True).ok
    model, optimizer = everything()
    with record(path, model, optimizer, resume=True) as recorder:
        run(recorder, model, optimizer, 21)
    assert_same_run(path, original)
    assert (np.diff(open_store(path).small("wall_time")) >= 0).all()
