"""Local storages with something wrong, for a real writer to meet."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence

from ckptlab.store.backends.base import BytesLike
from ckptlab.store.backends.local import LocalStorage, _write_error

Objects = Mapping[str, Sequence[BytesLike]]


class SlowStorage(LocalStorage):
    """A disk that takes its time for every shard of weights."""

    def __init__(self, path, seconds: float, *, fsync: bool = False) -> None:
        super().__init__(path, fsync=fsync)
        self.seconds = seconds
        self.syncs_done = 0

    def sync(self) -> None:
        self.syncs_done += 1
        super().sync()

    def put_all(self, objects: Objects) -> None:
        if any(key.startswith("weights/c/") for key in objects):
            time.sleep(self.seconds)
        super().put_all(objects)


class CountingStorage(LocalStorage):
    """Counts what is put, by the first part of its key."""

    def __init__(self, path) -> None:
        super().__init__(path, fsync=False)
        self.keys: list[str] = []

    def put_all(self, objects: Objects) -> None:
        self.keys += objects
        super().put_all(objects)


class FailingStorage(LocalStorage):
    """A disk that is full from one put on, until there is space again."""

    def __init__(self, path, after: int, code: int = errno.ENOSPC) -> None:
        super().__init__(path, fsync=False)
        self.left = after
        self.code = code

    def put_all(self, objects: Objects) -> None:
        for key, parts in objects.items():
            self.left -= 1
            if self.left < 0:
                error = OSError(self.code, os.strerror(self.code))
                raise _write_error(self.root / key, parts, error)
            super().put_all({key: parts})


class BrokenStorage(LocalStorage):
    """Raises something that is no error of ckptlab, as a bug would."""

    def __init__(self, path, after: int) -> None:
        super().__init__(path, fsync=False)
        self.left = after

    def put_all(self, objects: Objects) -> None:
        self.left -= len(objects)
        if self.left < 0:
            raise ZeroDivisionError("a bug")
        super().put_all(objects)
