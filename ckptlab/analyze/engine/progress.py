"""How far a long measurement has come, for whoever wants to show it.

Measurements report step by step; nothing listens unless `watching`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

Watcher = Callable[[int, int], None]
"""Called with how many are done, and of how many."""

_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Have measurements made meanwhile report to a function.

    Parameters
    ----------
    watcher : callable
        Called with how many steps are done, and of how many.

    Yields
    ------
    None
        While it listens.
    """
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def paced(items: Sequence[Any] | npt.NDArray[Any]) -> Iterator[Any]:
    """Go through items, reporting how many are done.

    Parameters
    ----------
    items : sequence or ndarray
        What is measured one by one.

    Yields
    ------
    object
        Each of them.
    """
    watcher = _WATCHER.get()
    for done, item in enumerate(items):
        if watcher is not None:
            watcher(done, len(items))
        yield item
    if watcher is not None:
        watcher(len(items), len(items))
