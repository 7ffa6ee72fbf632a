import shutil
import subprocess
import sys

import pytest
import zarr

from ckptlab.errors import CorruptError, StoreError, WriteError
from ckptlab.store.backends.base import MissingObjectError, Storage
from ckptlab.store.backends.local import LocalStorage
from ckptlab.store.backends.object_store import ObjectStorage
from ckptlab.store.backends.open import open_storage


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    return open_storage(tmp_path / "run" if request.param == "local" else f"memory://{tmp_path}")


def test_the_interface_of_every_storage(storage):
    assert isinstance(storage, Storage)
    assert not storage.exists()
    assert storage.list() == {}
    storage.put("a/b/c", [b"12", bytearray(b"3"), memoryview(b"45")])
    storage.put("a/d", [b""])
    assert storage.get("a/b/c") == b"12345"
    assert storage.list() == {"a/b/c": 5, "a/d": 0}
    assert storage.list("a/b") == {"a/b/c": 5}
    assert (storage.size("a/b/c"), storage.size("a/d"), storage.size("a/x")) == (5, 0, None)
    assert storage.exists()
    storage.put("a/d", [b"new"])
    assert storage.get("a/d") == b"new"
    assert storage.get_part("a/b/c", 1, 3) == b"23"
    assert storage.get_part("a/b/c", 3, 9) == b"45"
    assert storage.get_part("a/b/c", 2, 2) == b""
    with pytest.raises(MissingObjectError, match="a/x is missing"):
        storage.get_part("a/x", 0, 1)
    storage.sync()
    assert storage.unfinished() == {}
    storage.delete("a/d")
    storage.delete("a/d")
    with pytest.raises(MissingObjectError, match="a/d is missing"):
        storage.get("a/d")
    storage.clear()
    assert storage.list() == {}
    assert not storage.exists()


def test_more_than_the_limit_is_not_read(storage):
    storage.put("a", [b"12345"])
    assert storage.get("a", limit=5) == b"12345"
    with pytest.raises(CorruptError, match="5 bytes, and at most 4"):
        storage.get("a", limit=4)


def test_clearing_spares_the_lock(storage):
    lock = storage.lock()
    storage.put("zarr.json", [b"{}"])
    storage.put("a/b", [b"1"])
    storage.clear()
    assert set(storage.list()) == {"writer.lock"}
    assert not storage.exists()
    lock.release()


def test_paths_are_told_apart(tmp_path):
    assert isinstance(open_storage(str(tmp_path)), LocalStorage)
    assert open_storage(f"file://{tmp_path}").path == str(tmp_path)
    assert isinstance(open_storage("memory://x"), ObjectStorage)
    storage = LocalStorage(tmp_path)
    assert open_storage(storage) is storage
    with pytest.raises(StoreError, match="nothing://x"):
        open_storage("nothing://x")
    with pytest.raises(StoreError, match=r"int is no store.*accepted"):
        open_storage(3)


def test_open_zarr_stores_are_read(tmp_path):
    LocalStorage(tmp_path).put("a", [b"1"])
    assert open_storage(zarr.storage.LocalStore(tmp_path)).get("a") == b"1"
    memory = open_storage("memory://zarr-store")
    memory.put("a", [b"2"])
    assert open_storage(memory.zarr_store()).get("a") == b"2"
    with pytest.raises(StoreError, match="MemoryStore"):
        open_storage(zarr.storage.MemoryStore())


def test_unfinished_files_are_no_content_and_are_swept(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.put("a/b", [b"1"])
    (tmp_path / "a" / "b.0011aabb.partial").write_bytes(b"half")
    assert storage.list() == {"a/b": 1}
    assert storage.unfinished() == {"a/b.0011aabb.partial": 4}
    storage.sweep()
    assert storage.unfinished() == {}
    assert storage.get("a/b") == b"1"


def test_a_failed_put_leaves_the_old_content_and_no_rest(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.put("a", [b"old"])
    with pytest.raises(TypeError):
        storage.put("a", [b"new", "no bytes"])
    assert storage.get("a") == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_folder_in_the_way_is_a_write_error(tmp_path):
    storage = LocalStorage(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(WriteError, match="a cannot be written"):
        storage.put("a", [b"1"])
    with pytest.raises(WriteError, match="a cannot be deleted"):
        storage.delete("a")
    with pytest.raises(StoreError, match="a cannot be read"):
        storage.get("a")
    storage.put("b", [b"1"])
    with pytest.raises(WriteError, match="b/c cannot be written"):
        storage.put("b/c", [b"1"])
    assert storage.size("b/c") is None
    with pytest.raises(MissingObjectError):
        storage.get("b/c")


def test_a_file_is_no_run_to_lock(tmp_path):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StoreError, match="is a file"):
        LocalStorage(tmp_path / "file").lock()
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_removed_or_replaced_folder_is_not_brought_back(tmp_path):
    storage = LocalStorage(tmp_path / "run")
    lock = storage.lock()
    storage.put("a", [b"1"])
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(WriteError, match="removed or replaced"):
        storage.put("b", [b"2"])
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(WriteError, match="removed or replaced"):
        storage.put("b", [b"2"])
    lock.release()
    assert not any((tmp_path / "run").iterdir())


def test_where_nothing_can_be_written_it_is_said():
    # /proc takes no folders, from root neither.
    with pytest.raises(WriteError, match=r"/proc/run\.zarr cannot be written"):
        LocalStorage("/proc/run.zarr").lock()


def test_replacing_syncs_the_bytes_before_the_rename(tmp_path):
    """As the kernel sees it: a file that is replaced is never without its bytes on the disk."""
    calls = _traced(tmp_path, fsync=True)
    created, replaced = [i for i, c in enumerate(calls) if c == "rename"]
    assert "fsync" not in calls[:created]
    # The new file waits for sync; the one that replaces was synced on its own, before its rename.
    assert calls[created + 1 : replaced] == ["fsync"]
    # File and folders at the end: the first file, its folder, the run, and the run's own folder.
    assert calls[replaced + 1 :].count("fsync") == 4
    assert "fsync" not in _traced(tmp_path, fsync=False)


def _traced(tmp_path, fsync: bool) -> list[str]:
    """The order of renames and fsyncs in a process of its own, seen by audit and wrapping."""
    script = f"""
import os
calls = []
real_fsync, real_replace = os.fsync, os.replace
os.fsync = lambda fd: (calls.append("fsync"), real_fsync(fd))[1]
os.replace = lambda a, b: (calls.append("rename"), real_replace(a, b))[1]
from ckptlab.store.backends.local import LocalStorage
storage = LocalStorage({str(tmp_path / str(fsync))!r}, fsync={fsync})
lock = storage.lock()
storage.put("a/b", [b"1"])
storage.put("a/b", [b"2"])
storage.sync()
print(",".join(calls))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().split(",")
