"""What is special to local folders; the interface of every storage is in test_storage.py."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ckptlab.errors import NoSpaceError, StoreError, WriteError
from ckptlab.store.backends.local import LocalStorage
from ckptlab.store.format.shard_buffer import Sheet


def test_objects_put_together_are_there_together_or_not_at_all(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.put("a/x", [b"old"])
    (tmp_path / "b").write_bytes(b"a file where a folder should be")
    with pytest.raises(WriteError, match="b/y cannot be written"):
        storage.put_all({"a/x": [b"new"], "b/y": [b"1"]})
    assert storage.list() == {"a/x": 3, "b": 31}
    assert storage.get("a/x") == b"old"
    assert storage.unfinished() == {}
    storage.put_all({"a/x": [b"n", b"ew"], "c/d/y": [b"1"]})
    assert (storage.get("a/x"), storage.get("c/d/y")) == (b"new", b"1")


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket"])
def test_what_is_no_file_is_not_read_and_not_waited_for(tmp_path, kind, monkeypatch):
    storage = LocalStorage(tmp_path)
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        import socket

        with socket.socket(socket.AF_UNIX) as bound:
            monkeypatch.chdir(tmp_path)  # such a path must be short
            bound.bind("x")
    with pytest.raises(StoreError, match="x cannot be read"):
        storage.get("x")
    assert storage.size("x") is None
    assert storage.list() == {}


SYNCS = """
import os, pathlib
synced = set()
real = os.fsync
def fsync(descriptor):
    synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
    real(descriptor)
os.fsync = fsync
from ckptlab.store.backends.local import LocalStorage
storage = LocalStorage("new/runs/x.zarr")
lock = storage.lock()
storage.put_all({"a/c/0": [b"1"], "b": [b"2"]})
storage.sync()
print("|".join(sorted(os.path.relpath(path) for path in synced)))
synced.clear()
storage.put_all({"a/c/0": [b"3"], "a/c/1": [b"4"]})
synced = {path for path in synced if not path.endswith(".partial")}
storage.sync()
print("|".join(sorted(os.path.relpath(path) for path in synced)))
synced.clear()
storage.unsure(["a/c/0", "gone/c/0"])
storage.sync()
storage.sync()
print("|".join(sorted(os.path.relpath(path) for path in synced)))
"""


def test_folders_are_synced_with_those_above_them_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SYNCS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second, third = (set(line.split("|")) for line in done.stdout.splitlines())
    run = "new/runs/x.zarr"
    folders = {".", "new", "new/runs", run, f"{run}/a", f"{run}/a/c"}
    assert first == {f"{run}/a/c/0", f"{run}/b", *folders}
    # What a put replaced was synced before its rename; its folder is not new any more.
    assert second == {f"{run}/a/c/1", f"{run}/a/c"}
    assert third == {f"{run}/a/c/0", f"{run}/a/c", run}


def test_clearing_spares_a_folder_that_took_the_place(tmp_path):
    storage = LocalStorage(tmp_path / "run")
    storage.lock()
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("mine")
    with pytest.raises(WriteError, match="removed or replaced"):
        storage.clear()
    assert (tmp_path / "run/thesis.tex").exists()


def test_the_working_folder_may_change(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = LocalStorage("runs/x.zarr")
    lock = storage.lock()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    storage.put("a/b", [b"1"])
    lock.check()
    lock.release()
    assert (tmp_path / "runs/x.zarr/a/b").read_bytes() == b"1"
    assert storage.path == "runs/x.zarr"


@pytest.mark.parametrize("size", [2**20, 2**21 + 1, 3 * 2**20 + 4095])
@pytest.mark.parametrize("refuses", [None, "flag", "write"])
@pytest.mark.parametrize("shift", [0, 4])
def test_large_files_that_pass_by_the_cache_are_whole(tmp_path, monkeypatch, size, refuses, shift):
    """Whether the file system takes them so, says no at once, or says no when it is written to."""
    flags = []
    control, write = fcntl.fcntl, os.write

    def controlled(descriptor, command, value=0):
        if command == fcntl.F_SETFL:
            flags.append(bool(value & os.O_DIRECT))
            if refuses == "flag" and flags[-1]:
                raise OSError(errno.EINVAL, "Invalid argument")
        return control(descriptor, command, value)

    def written(descriptor, data):
        if refuses == "write" and control(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return write(descriptor, data)

    monkeypatch.setattr(fcntl, "fcntl", controlled)
    monkeypatch.setattr(os, "write", written)
    data = np.random.default_rng(0).integers(0, 256, size + shift, np.uint8)
    sheet = Sheet().room(size + shift)
    sheet[:] = data
    for syncs in (True, False):
        storage = LocalStorage(tmp_path / str(syncs), fsync=syncs)
        storage.put("a/x", [memoryview(sheet)[shift:]])
        storage.sync()
        assert storage.get("a/x") == data[shift:].tobytes()
    # Once, and back again: only what begins at a page, and is to be synced.
    assert flags == ([True, False] if shift == 0 else [])


def test_no_space_is_told_where_the_cache_is_passed_by(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(NoSpaceError, match="1,048,576 bytes needed"):
        LocalStorage(tmp_path).put("x", [memoryview(Sheet().room(2**20))])
    monkeypatch.undo()
    assert LocalStorage(tmp_path).list() == {}
