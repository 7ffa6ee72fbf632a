"""Keep the memory that one shard after the other is put together in.

New memory costs a page fault for each of its pages. It begins at a page, as O_DIRECT asks for.
"""

from __future__ import annotations

import mmap
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

_STEP = 2**20


class Sheet:
    """Room for one shard, and for a chunk of each thread that encodes it."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self._threads = threading.local()

    def room(self, size: int) -> npt.NDArray[np.uint8]:
        """Return that many bytes, valid until they are asked for again; they begin at a page."""
        if len(self._memory) < size:
            self._memory = np.frombuffer(mmap.mmap(-1, -(-size // _STEP) * _STEP), np.uint8)
        return self._memory[:size]

    def chunk(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return an array, valid until this thread asks for the next; its values are arbitrary."""
        kept: npt.NDArray[Any] | None = getattr(self._threads, "chunk", None)
        if kept is None or kept.shape != shape or kept.dtype != dtype:
            kept = self._threads.chunk = np.empty(shape, dtype)
        return kept
