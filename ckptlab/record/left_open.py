"""Close recordings that were opened without a `with` block and that nobody closed."""

from __future__ import annotations

import atexit
from collections.abc import Callable

_OPEN: dict[str, Callable[[], None]] = {}


class LeftOpenError(Exception):
    """Closes a recording that nobody closed, which marks it as interrupted."""


def remember(path: str, close: Callable[[], None]) -> None:
    """Call `close` when Python exits, or when another recording begins at the path."""
    _OPEN[path] = close


def forget(path: str) -> None:
    """Drop the callback of a path: its recording was closed."""
    _OPEN.pop(path, None)


def close_left_open(path: str) -> None:
    """Close what this process left open at a path, such as when a notebook cell runs again."""
    if path in _OPEN:
        _OPEN[path]()


@atexit.register
def _close_all() -> None:
    for path in list(_OPEN):
        close_left_open(path)
