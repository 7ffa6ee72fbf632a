"""Compress on one core while training runs, and on all of them while training waits.

On a CPU that also trains, a core taken for a moment stops the others too, which wait for it at the
end of every operation; while training waits, all of them are free.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class EncodePool:
    """Threads that help the writer thread encode: always, or only within `called`."""

    def __init__(self, helpers: int, *, always: bool) -> None:
        self._change = threading.Condition()
        self._calls = int(always)
        self._batch: _Batch | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._help, name=f"ckptlab-encode-{i}", daemon=True)
            for i in range(helpers)
        ]
        for thread in self._threads:
            thread.start()

    def map(self, work: Callable[[int], bytes], items: Iterable[int]) -> Iterator[bytes]:
        """Do as the built-in `map`, here and in helping threads; one thread may call it."""
        batch = _Batch(work, items)
        with self._change:
            self._batch = batch
            self._change.notify_all()
        while batch.do_one():
            pass
        with self._change:
            self._batch = None
        return iter(batch.results())

    @contextlib.contextmanager
    def called(self) -> Iterator[None]:
        """Have all threads help within this block."""
        with self._change:
            self._calls += 1
            self._change.notify_all()
        try:
            yield
        finally:
            with self._change:
                self._calls -= 1

    def close(self) -> None:
        """End the threads."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()

    def _help(self) -> None:
        while (batch := self._next_batch()) is not None:
            while self._calls and batch.do_one():
                pass

    def _next_batch(self) -> _Batch | None:
        with self._change:
            while not self._closed:
                if self._calls and self._batch is not None and self._batch.left:
                    return self._batch
                self._change.wait()
        return None


class _Batch:
    """Items that any thread may take one by one."""

    def __init__(self, work: Callable[[int], Any], items: Iterable[int]) -> None:
        self._work = work
        listed = list(items)
        self.left = deque(enumerate(listed))
        self._results: list[Any] = [None] * len(listed)
        self._undone = len(listed)
        self._error: BaseException | None = None
        self._change = threading.Condition()

    def do_one(self) -> bool:
        """Work on the next item; False if none is left to begin."""
        try:
            position, item = self.left.popleft()
        except IndexError:
            return False
        try:
            self._results[position] = self._work(item)
        except BaseException as error:
            self._error = error
        finally:
            with self._change:
                self._undone -= 1
                self._change.notify_all()
        return True

    def results(self) -> list[Any]:
        """Wait for all items and return their results in order; raise what one of them raised."""
        with self._change:
            self._change.wait_for(lambda: not self._undone)
        if self._error is not None:
            raise self._error
        return self._results
