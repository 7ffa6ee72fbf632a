"""Disks that are full or read-only: real ones where mounting is permitted."""

import errno
import re
import shutil

import numpy as np
import pytest

from ckptlab.errors import NoSpaceError, StoreError, WriteError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.maintain.repair import repair
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.target import is_free
from tests.faults.disks import leave_free, make_read_only, small_disk
from tests.faults.figures import note
from tests.record.loops import assert_same_run, everything, record, run
from tests.record.storages import FailingStorage

STEPS = 40


def train(path, *, resume=False):
    model, optimizer = everything()
    with record(path, model, optimizer, resume=resume) as recorder:
        run(recorder, model, optimizer, STEPS)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "run.zarr"
    train(path)
    return path


def bytes_of(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def meet_a_full_disk(path, reference, write, make_space):
    """Record until there is no space, look at what is there, make space, complete it."""
    with pytest.raises(NoSpaceError) as raised:
        write()
    named = re.search(r"no space left to write (\S+) \(([\d,]+) bytes needed\)", str(raised.value))
    assert named, str(raised.value)
    assert named[1].startswith(str(path))
    assert int(named[2].replace(",", "")) > 0 or named[1] == str(path)
    begun = (path / "zarr.json").exists()
    if begun:
        report = verify(path, deep=True)
        assert report.ok, str(report)
        assert_same_run(path, reference, upto=0)
    else:
        assert is_free(open_storage(path))
    make_space()
    train(path, resume=begun)
    assert_same_run(path, reference)
    assert verify(path, deep=True).ok


def fill_at_random_points(tmp_path, reference, count, seed):
    """Returns on how many of the disks mounting was permitted."""
    rng = np.random.default_rng(seed)
    mounted = 0
    for number in range(count):
        folder = tmp_path / f"disk-{number}"
        path = folder / "run.zarr"
        with small_disk(folder, "16m") as permitted:
            mounted += permitted
            if permitted:
                # Files take whole pages, so that the last of it is never filled.
                free = int(rng.uniform(8_192, 0.95 * bytes_of(reference)))
                ballast = leave_free(folder, free)
                meet_a_full_disk(path, reference, lambda p=path: train(p), ballast.unlink)
            else:
                storage = FailingStorage(path, int(rng.integers(1, 200)))
                meet_a_full_disk(path, reference, lambda s=storage: train(s), lambda: None)
    return mounted


def test_a_disk_that_fills_at_random_points(tmp_path, reference):
    fill_at_random_points(tmp_path, reference, 6, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_disk_that_fills_at_many_random_points(tmp_path, reference):
    count = 60
    mounted = fill_at_random_points(tmp_path, reference, count, seed=1)
    note(
        "full-disk",
        "a loop with every kind of array",
        points=count,
        on_a_mounted_tmpfs=mounted,
        named_path_and_bytes=count,
        intact=count,
        completed_bit_identically=count,
    )


def test_a_read_only_disk_can_be_read_and_nothing_else(tmp_path, reference):
    folder = tmp_path / "disk"
    path = folder / "run.zarr"
    with small_disk(folder, "16m") as permitted:
        if not permitted:
            path = type(path)("/proc/run.zarr")  # takes no folders, from root neither
            with pytest.raises(WriteError, match="cannot be written"):
                train(path)
            return
        shutil.copytree(reference, path)
        (path / "weights/c/0/10").write_bytes(b"")
        make_read_only(folder)
        with pytest.raises(WriteError, match=r"Read-only file system"):
            train(path, resume=True)
        with pytest.raises(WriteError, match=r"Read-only file system"):
            train(folder / "new.zarr")
        assert not verify(path).ok
        with pytest.raises(WriteError, match=r"Read-only file system"):
            repair(path)
        with pytest.raises(StoreError, match=r"weights/c/0/10 is missing or empty"):
            open_store(path)


def test_a_disk_that_becomes_read_only_stops_the_run(tmp_path, reference):
    path = tmp_path / "run.zarr"
    with pytest.raises(WriteError, match="Read-only file system"):
        train(FailingStorage(path, 120, errno.EROFS))
    assert verify(path, deep=True).ok
    assert_same_run(path, reference, upto=0)
