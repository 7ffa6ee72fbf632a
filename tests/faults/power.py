"""A storage as a disk after a power loss leaves it.

It keeps what is visible apart from what is durable, as LocalStorage with fsync does: a new file is
durable after the next sync and may be torn before; a file that replaces another was synced before
its rename, so that after a power loss it is the old or the new one; a deletion may not have
happened. Nothing keeps the order in which files reach the disk, and a process syncs what it put
itself, not what one before it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ckptlab.errors import CorruptError
from ckptlab.store.backends.base import LOCK, BytesLike, MissingObjectError


class PowerLossError(BaseException):
    """The lights go out, or the process; no `except Exception` on the way keeps them on."""


class PowerStorage:
    """Files in memory; `left` steps until the power goes.

    Parameters
    ----------
    files : dict of str to bytes
        What is durably there.
    left : int or None
        How many puts, deletes and syncs there will be.
    """

    def __init__(self, files: dict[str, bytes], left: int | None = None) -> None:
        self.path = "power.zarr"
        self.syncs = True
        self.left = left
        self.steps = 0
        self._visible = dict(files)
        self._durable = dict(files)
        # By key: what it became since the last sync, and whether that could be torn.
        self._pending: dict[str, list[tuple[bytes | None, bool]]] = {}
        self._mine: set[str] = set()

    def after_kill(self, left: int | None = None) -> PowerStorage:
        """Go on in another process, with the power on."""
        self._mine.clear()
        self.steps, self.left = 0, left
        return self

    def after_power_loss(self, rng: np.random.Generator) -> dict[str, bytes]:
        """Return what is on the disk, drawn from all that can be."""
        files = dict(self._durable)
        for key, changes in self._pending.items():
            reached = int(rng.integers(len(changes) + 1))
            if not reached:
                continue
            content, tearable = changes[reached - 1]
            if content is not None and tearable:
                content = content[: int(rng.choice([0, len(content) // 2, len(content)]))]
            if content is None:
                files.pop(key, None)
            else:
                files[key] = content
        return files

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        data = b"".join(bytes(part) for part in parts)
        replaces = key in self._visible
        self._step()
        self._visible[key] = data
        self._mine.add(key)
        self._pending.setdefault(key, []).append((data, not replaces))

    def put_all(self, objects: Mapping[str, Sequence[BytesLike]]) -> None:
        for key, parts in objects.items():
            self.put(key, parts)

    def unsure(self, keys: Iterable[str]) -> None:
        self._mine |= set(keys)

    def delete(self, key: str) -> None:
        self._step()
        if self._visible.pop(key, None) is not None:
            self._mine.add(key)
            self._pending.setdefault(key, []).append((None, False))

    def sync(self) -> None:
        self._step()
        for key in self._mine & self._pending.keys():
            del self._pending[key]
            if key in self._visible:
                self._durable[key] = self._visible[key]
            else:
                self._durable.pop(key, None)

    def get(self, key: str, limit: int | None = None) -> bytes:
        if key not in self._visible:
            raise MissingObjectError(f"{self.path}/{key} is missing")
        if limit is not None and len(self._visible[key]) > limit:
            raise CorruptError(f"{key} is too large")
        return self._visible[key]

    def get_part(self, key: str, start: int, stop: int) -> bytes:
        return self.get(key)[start:stop]

    def size(self, key: str) -> int | None:
        data = self._visible.get(key)
        return None if data is None else len(data)

    def list(self, prefix: str = "") -> dict[str, int]:
        start = f"{prefix}/" if prefix else ""
        return {k: len(v) for k, v in self._visible.items() if k.startswith(start)}

    def clear(self) -> None:
        for key in list(self._visible):
            if key != LOCK:
                self.delete(key)

    def unfinished(self) -> dict[str, int]:
        return {}

    def sweep(self) -> None:
        return

    def lock(self) -> Any:
        return _NoLock()

    def exists(self) -> bool:
        return any(key != LOCK for key in self._visible)

    def hurry(self) -> None:
        """Nothing here keeps anybody waiting."""

    def zarr_store(self) -> Any:
        raise AssertionError("read by ckptlab alone")

    def _step(self) -> None:
        if self.steps == self.left:
            raise PowerLossError
        self.steps += 1


class _NoLock:
    def check(self) -> None:
        return

    def release(self) -> None:
        return
