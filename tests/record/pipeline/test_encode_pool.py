"""The threads that help the writer encode."""

from __future__ import annotations

import threading
import time

import pytest

from ckptlab.record.pipeline.encode_pool import EncodePool


def names(pool: EncodePool, items: int = 12) -> list[str]:
    def work(item: int) -> bytes:
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
        assert len(set(names(pool))) == 3
        with pool.called():
            pass
        assert len(set(names(pool))) == 3
    assert set(names(pool)) == {own}
    pool.close()
    assert set(names(pool)) == {own}


def test_those_who_are_called_join_what_is_under_way() -> None:
    pool = EncodePool(1, always=False)
    found: list[str] = []
    writer = threading.Thread(target=lambda: found.extend(names(pool, 60)), name="writer")
    writer.start()
    time.sleep(0.03)
    with pool.called():
        writer.join()
    pool.close()
    assert found[0] == "writer"
    assert set(found) == {"writer", "ckptlab-encode-0"}


def test_where_training_needs_no_core_they_always_help() -> None:
    pool = EncodePool(3, always=True)
    assert len(set(names(pool, 24))) == 4
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
