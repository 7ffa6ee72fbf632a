"""The threads that help the writer encode."""

from __future__ import annotations

import os
import threading
import time

import pytest

from ckptlab.record.pipeline.encode_pool import EncodePool


def names(
    pool: EncodePool, items: int = 12, *, threads: int = 1, begun: set[str] | None = None
) -> list[str]:
    """Who did each item, of which none ends before so many threads have begun one."""
    begun, change = set() if begun is None else begun, threading.Condition()

    def work(item: int) -> bytes:
        with change:
            begun.add(threading.current_thread().name)
            change.notify_all()
            assert change.wait_for(lambda: len(begun) >= threads, 60)
        time.sleep(0.005)
        return f"{item} {threading.current_thread().name}".encode()

    found = [data.decode().split(maxsplit=1) for data in pool.map(work, range(items))]
    assert [int(item) for item, _ in found] == list(range(items))
    return [name for _, name in found]


def test_helpers_work_only_while_they_are_called() -> None:
    pool = EncodePool(2, always=False)
    own = threading.current_thread().name
    assert set(names(pool)) == {own}
    with pool.called():
        assert len(set(names(pool, threads=3))) == 3
        with pool.called():
            pass
        assert len(set(names(pool, threads=3))) == 3
    assert set(names(pool)) == {own}
    pool.close()
    assert set(names(pool)) == {own}


def test_those_who_are_called_join_what_is_under_way() -> None:
    pool = EncodePool(1, always=False)
    found: list[str] = []
    begun: set[str] = set()

    def write() -> None:
        found.extend(names(pool, 60, threads=2, begun=begun))

    writer = threading.Thread(target=write, name="writer")
    writer.start()
    while not begun:
        time.sleep(0.001)
    with pool.called():
        writer.join()
    pool.close()
    assert found[0] == "writer"
    (other,) = set(found) - {"writer"}
    assert other.startswith("ckptlab-encode-")


def test_where_training_needs_no_core_they_always_help() -> None:
    pool = EncodePool(3, always=True)
    assert len(set(names(pool, 24, threads=4))) == 4
    pool.close()


@pytest.mark.parametrize("helpers", [0, 2])
def test_an_error_reaches_the_writer_when_everyone_is_done(helpers: int) -> None:
    pool = EncodePool(helpers, always=True)
    done: list[int] = []

    def work(item: int) -> bytes:
        if item == 3:
            raise ValueError("item 3")
        time.sleep(0.005)
        done.append(item)
        return b""

    with pytest.raises(ValueError, match="item 3"):
        pool.map(work, range(9))
    assert sorted(done) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert len(names(pool)) == 12
    pool.close()


def test_recordings_at_once_share_the_threads_of_the_process() -> None:
    """16 replicas on a GPU have one crew, not 16."""
    pools = [EncodePool(3, always=True) for _ in range(16)]
    found: list[list[str]] = [[] for _ in pools]
    writers = [
        threading.Thread(target=lambda p=pool, f=into: f.extend(names(p)), name="writer")
        for pool, into in zip(pools, found, strict=True)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    helpers = {t.name for t in threading.enumerate() if t.name.startswith("ckptlab-encode-")}
    assert set().union(*found) <= {"writer"} | helpers
    assert len(helpers) == 3
    for pool in pools:
        pool.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_has_a_crew_of_its_own() -> None:
    kept = EncodePool(1, always=True)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        pool = EncodePool(1, always=True)
        os.write(writing, ",".join(sorted(set(names(pool, 24)))).encode())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert len(os.read(reading, 1000).split(b",")) == 2
    kept.close()
