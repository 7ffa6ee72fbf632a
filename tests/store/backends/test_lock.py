import json
import multiprocessing
import os
import signal
import threading
import warnings

import pytest

from ckptlab.errors import LockedError, WriteError
from ckptlab.store.backends.lock import FileLock, StaleLockWarning, describe, is_gone, owner
from ckptlab.store.backends.open import open_storage

processes = multiprocessing.get_context("spawn")


def hold(path, held, let_go):
    lock = open_storage(path).lock()
    held.set()
    let_go.wait(60)
    lock.release()


def held_by_another_process(path):
    held, let_go = processes.Event(), processes.Event()
    process = processes.Process(target=hold, args=(path, held, let_go))
    process.start()
    assert held.wait(60)
    return process, let_go


def test_of_two_processes_one_writes_and_the_other_is_told_which(tmp_path):
    process, let_go = held_by_another_process(str(tmp_path))
    with pytest.raises(LockedError, match=rf"process {process.pid} on {os.uname().nodename}"):
        open_storage(tmp_path).lock()
    let_go.set()
    process.join()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_storage(tmp_path).lock().release()


def test_the_lock_of_a_killed_process_is_taken_over_and_said_so(tmp_path):
    process, _ = held_by_another_process(str(tmp_path))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.warns(StaleLockWarning, match=f"process {process.pid} on"):
        lock = open_storage(tmp_path).lock()
    lock.release()


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_of_two_threads_one_writes(tmp_path, kind):
    path = tmp_path if kind == "local" else f"memory://{tmp_path}"
    gate, got, refused = threading.Barrier(8), [], []

    def race():
        gate.wait()
        try:
            got.append(open_storage(path).lock())
        except LockedError as error:
            refused.append(error)

    threads = [threading.Thread(target=race) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    assert f"process {os.getpid()}" in str(refused[0])
    got[0].release()
    got[0].release()
    open_storage(path).lock().release()


def test_a_stale_lock_object_is_taken_over_once(tmp_path):
    gone = processes.Process(target=int)
    gone.start()
    gone.join()
    storage = open_storage(f"memory://{tmp_path}")
    storage.put("writer.lock", [json.dumps({**owner(), "pid": gone.pid}).encode()])
    with pytest.warns(StaleLockWarning, match=f"process {gone.pid}"):
        lock = storage.lock()
    with pytest.raises(LockedError):
        storage.lock()
    lock.release()
    assert storage.list() == {}


GONE = {**owner(), "pid": 2**22 + 1}  # more than Linux gives


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b"",
        b"\xff",
        json.dumps({**GONE, "host": "elsewhere"}).encode(),
        # A container that shares this host's name and counts its processes alone.
        json.dumps({**GONE, "namespace": "pid:[1]"}).encode(),
    ],
)
def test_a_lock_object_that_may_be_anothers_is_respected(tmp_path, content):
    storage = open_storage(f"memory://{tmp_path}")
    storage.put("writer.lock", [content])
    with pytest.raises(
        LockedError, match=r"delete memory://.*writer\.lock if that process is gone"
    ):
        storage.lock()


def test_an_owner_is_gone_only_if_that_is_certain():
    assert is_gone(json.dumps(GONE).encode())
    assert not is_gone(json.dumps(owner()).encode())
    assert not is_gone(json.dumps({**GONE, "pid": 1}).encode())  # another's, but it runs


@pytest.mark.parametrize("kind", ["local", "memory"])
@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_lock_that_was_taken_away_is_noticed(tmp_path, kind, how):
    path = tmp_path if kind == "local" else f"memory://{tmp_path}"
    storage = open_storage(path)
    lock = storage.lock()
    lock.check()
    storage.delete("writer.lock")
    other = open_storage(path).lock() if how == "replaced" else None
    with pytest.raises(WriteError, match=r"writer\.lock was removed or replaced"):
        lock.check()
    lock.release()
    if other is not None:
        other.check()
        other.release()


def test_a_released_lock_is_no_lock(tmp_path):
    for path in (tmp_path, f"memory://{tmp_path}"):
        lock = open_storage(path).lock()
        lock.release()
        with pytest.raises(WriteError):
            lock.check()


def test_a_lock_file_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/writer.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(WriteError, match=r"writer\.lock cannot be written"):
        open_storage(tmp_path / "run").lock()
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_where_warnings_are_errors_a_stale_lock_is_no_trap(tmp_path, kind):
    storage = open_storage(tmp_path if kind == "local" else f"memory://{tmp_path}")
    storage.put("writer.lock", [json.dumps(GONE).encode()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StaleLockWarning):
            storage.lock()
    storage.lock().release()


def test_a_forked_child_holds_nothing(tmp_path):
    lock = open_storage(tmp_path).lock()
    child = os.fork()
    if not child:
        try:
            lock.check()
        except WriteError:
            lock.release()
            os._exit(3)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert f'"pid": {os.getpid()}' in (tmp_path / "writer.lock").read_text()
    with pytest.raises(LockedError):
        open_storage(tmp_path).lock()
    lock.release()


def test_release_leaves_a_lock_that_is_anothers_by_now(tmp_path):
    storage = open_storage(f"memory://{tmp_path}")
    lock = storage.lock()
    storage.put("writer.lock", [b"another's"])
    lock.release()
    assert storage.get("writer.lock") == b"another's"


def test_looking_at_a_run_does_not_drop_its_lock(tmp_path):
    """POSIX drops a process's locks on a file when it closes any handle of it."""
    storage = open_storage(tmp_path)
    lock = storage.lock()
    storage.list()
    storage.size("writer.lock")
    storage.exists()
    with pytest.raises(LockedError):
        FileLock(tmp_path / "writer.lock")
    process = processes.Process(target=hold, args=(str(tmp_path), None, None))
    process.start()
    process.join()
    assert process.exitcode == 1
    lock.release()


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b'{"pid": "x"}', b"\xff\xfe", b"[" * 100_000]
)
def test_any_content_can_be_described(content):
    assert describe(content) == "another process"


def test_a_terminal_obeys_nothing_of_a_lock():
    content = json.dumps({"pid": 3, "host": "a\x1b]0;b\n"}).encode()
    assert describe(content) == "process 3 on a?]0;b?"
