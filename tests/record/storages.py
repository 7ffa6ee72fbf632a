"""Local storages with something wrong, for a real writer to meet."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence

from ckptlab.store.storage import BytesLike, LocalStorage, _write_error


class SlowStorage(LocalStorage):
    """A disk that takes its time for every shard of weights."""

    def __init__(self, path, seconds: float) -> None:
        super().__init__(path, fsync=False)
        self.seconds = seconds

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        if key.startswith("weights/c/"):
            time.sleep(self.seconds)
        super().put(key, parts)


class CountingStorage(LocalStorage):
    """Counts what is put, by the first part of its key."""

    def __init__(self, path) -> None:
        super().__init__(path, fsync=False)
        self.keys: list[str] = []

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        self.keys.append(key)
        super().put(key, parts)


class FailingStorage(LocalStorage):
    """A disk that is full from one put on, until there is space again."""

    def __init__(self, path, after: int, code: int = errno.ENOSPC) -> None:
        super().__init__(path, fsync=False)
        self.left = after
        self.code = code

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        self.left -= 1
        if self.left < 0:
            error = OSError(self.code, os.strerror(self.code))
            raise _write_error(self.root / key, parts, error)
        super().put(key, parts)


class BrokenStorage(LocalStorage):
    """Raises something that is no error of ckptlab, as a bug would."""

    def __init__(self, path, after: int) -> None:
        super().__init__(path, fsync=False)
        self.left = after

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        self.left -= 1
        if self.left < 0:
            raise ZeroDivisionError("a bug")
        super().put(key, parts)
