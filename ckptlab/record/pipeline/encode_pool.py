"""The cores that compress: the writer's own while training runs, all of them while training waits.

On a CPU that also trains, a core taken for a moment stops the others
too, which wait for it at the end of every operation; while training stands still, all are free.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class Crew:
    """Threads that help the writer encode when they are called.

    Parameters
    ----------
    helpers : int
        Threads beside the writer's own.
    always : bool
        Whether they help all the time; otherwise only within `called`.
    """

    def __init__(self, helpers: int, *, always: bool) -> None:
        self._change = threading.Condition()
        self._calls = int(always)
        self._task: _Task | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._help, name=f"ckptlab-encode-{i}", daemon=True)
            for i in range(helpers)
        ]
        for thread in self._threads:
            thread.start()

    def map(self, work: Callable[[int], bytes], items: Iterable[int]) -> Iterator[bytes]:
        """Do as `map` does, in the calling thread and in those that help; only one may call it."""
        task = _Task(work, items)
        with self._change:
            self._task = task
            self._change.notify_all()
        while task.do_one():
            pass
        with self._change:
            self._task = None
        return iter(task.results())

    @contextlib.contextmanager
    def called(self) -> Iterator[None]:
        """Have everyone help within this block."""
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
        while (task := self._next_task()) is not None:
            while self._calls and task.do_one():
                pass

    def _next_task(self) -> _Task | None:
        with self._change:
            while not self._closed:
                if self._calls and self._task is not None and self._task.left:
                    return self._task
                self._change.wait()
        return None


class _Task:
    """Items to be worked on by whoever takes one."""

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
        """Wait for all, and return what they gave, in order; raises what one of them raised."""
        with self._change:
            self._change.wait_for(lambda: not self._undone)
        if self._error is not None:
            raise self._error
        return self._results
