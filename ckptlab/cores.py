"""How many cores this process may use."""

from __future__ import annotations

import os


def count_cores() -> int:
    """Return how many cores this process may use: those it is bound to, where that is known."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
