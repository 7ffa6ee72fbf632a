"""Compress on one core while training runs, and on all of them while training waits.

On a CPU that also trains, a core taken for a moment stops the others too, which wait for it at the
end of every operation; while training waits, all of them are free. The threads that help are the
process's: recordings at once share them, and take turns.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class EncodePool:
    """Up to `helpers` threads of the crew help a writer encode: always, or within `called`."""

    def __init__(self, helpers: int, *, always: bool) -> None:
        self.helpers = helpers
        self.helping = 0
        self.calls = int(always)
        self.batch: _Batch | None = None
        self._crew = _crew
        self._crew.add(self)

    def map(self, work: Callable[[int], bytes], items: Iterable[int]) -> Iterator[bytes]:
        """Do as the built-in `map`, here and in helping threads; one thread may call it."""
        batch = _Batch(work, items)
        with self._crew.change:
            self.batch = batch
            self._crew.change.notify_all()
        while batch.do_one():
            pass
        with self._crew.change:
            self.batch = None
        return iter(batch.results())

    @contextlib.contextmanager
    def called(self) -> Iterator[None]:
        """Have the threads help within this block."""
        with self._crew.change:
            self.calls += 1
            self._crew.change.notify_all()
        try:
            yield
        finally:
            with self._crew.change:
                self.calls -= 1

    def close(self) -> None:
        """Let the threads go, which help other recordings or sleep."""
        self._crew.drop(self)

    def wants_help(self) -> bool:
        """Return whether there is work for one thread more."""
        left = self.batch is not None and bool(self.batch.left)
        return left and self.calls > 0 and self.helping < self.helpers


class _Crew:
    """Threads of the process that do one item at a time, of each recording in turn."""

    def __init__(self) -> None:
        self.change = threading.Condition()
        self._pools: deque[EncodePool] = deque()
        self._threads: list[threading.Thread] = []

    def add(self, pool: EncodePool) -> None:
        """Help a recording; there are as many threads as the one that wants most of them."""
        with self.change:
            self._pools.append(pool)
            for number in range(len(self._threads), pool.helpers):
                name = f"ckptlab-encode-{number}"
                thread = threading.Thread(target=self._help, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def drop(self, pool: EncodePool) -> None:
        """Help it no more; a pool may be closed twice."""
        with self.change, contextlib.suppress(ValueError):
            self._pools.remove(pool)

    def _help(self) -> None:
        while True:
            with self.change:
                while (pool := self._next()) is None:
                    self.change.wait()
                pool.helping += 1
                batch = pool.batch
            if batch is not None:
                batch.do_one()
            with self.change:
                pool.helping -= 1
                self.change.notify()

    def _next(self) -> EncodePool | None:
        for _ in range(len(self._pools)):
            pool = self._pools[0]
            self._pools.rotate(-1)
            if pool.wants_help():
                return pool
        return None


_crew = _Crew()


def _begin_anew() -> None:
    global _crew
    _crew = _Crew()


if hasattr(os, "register_at_fork"):
    # A forked process has none of the threads, and perhaps a lock that one of them held.
    os.register_at_fork(after_in_child=_begin_anew)


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
