"""Death at a chosen point of what a writer does to its files.

A writer is given a storage that counts every step it takes, and kills its process at one of them:
before and after each put, delete and sync, and in the middle of the file that a put writes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ckptlab.store.backends.base import BytesLike
from ckptlab.store.backends.local import LocalStorage


def die() -> None:
    """As `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Points(LocalStorage):
    """A local storage that dies at point number `target`; without one it lists them."""

    def __init__(self, path: str | Path, target: int | None = None) -> None:
        super().__init__(path, fsync=False)
        self.target = target
        self.passed: list[str] = []

    def put_all(self, objects: Mapping[str, Sequence[BytesLike]]) -> None:
        # Those put together reach the folder in any order.
        keys = list(objects)
        for number in np.random.default_rng(len(self.passed)).permutation(len(keys)):
            self._put_one(keys[number], objects[keys[number]])

    def _put_one(self, key: str, parts: Sequence[BytesLike]) -> None:
        if self._is_now(f"half of {key} is written"):
            target = self.root / key
            target.parent.mkdir(parents=True, exist_ok=True)
            data = b"".join(bytes(part) for part in parts)
            target.with_name(f"{target.name}.dead.partial").write_bytes(data[: len(data) // 2])
            die()
        self._pass(f"before {key} is put")
        super().put_all({key: parts})
        self._pass(f"after {key} is put")

    def delete(self, key: str) -> None:
        self._pass(f"before {key} is deleted")
        super().delete(key)
        self._pass(f"after {key} is deleted")

    def clear(self) -> None:
        self._pass("before what lies there is cleared")
        super().clear()
        self._pass("after what lies there is cleared")

    def sync(self) -> None:
        self._pass("before a sync")
        super().sync()
        self._pass("after a sync")

    def _is_now(self, name: str) -> bool:
        self.passed.append(name)
        return len(self.passed) - 1 == self.target

    def _pass(self, name: str) -> None:
        if self._is_now(name):
            die()
