"""Define the storage interface: the files of a run, in a local folder or an object store.

Whole objects are put atomically, read whole, listed with their sizes and deleted; none is ever
changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ckptlab.errors import CorruptError, StoreError
from ckptlab.store.backends.lock import Lock

PARTIAL = ".partial"
"""Suffix of files that were not completed; they hold nothing and may be deleted."""

ROOT = "zarr.json"
"""Key of the root metadata."""

LOCK = "writer.lock"
"""Key of the writer's lock."""

BytesLike = bytes | bytearray | memoryview


class MissingObjectError(StoreError):
    """An object that was asked for is not there."""


@runtime_checkable
class Storage(Protocol):
    """The files of one run."""

    path: str
    syncs: bool
    """Whether what is put survives a power loss after the next `sync` only."""

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        """Write the concatenated parts under `key`: readers see the old object or the new."""

    def put_all(self, objects: Mapping[str, Sequence[BytesLike]]) -> None:
        """Put several objects, each as `put` does, in no order that a crash would keep."""

    def get(self, key: str, limit: int | None = None) -> bytes:
        """Return the whole object; MissingObjectError if it is not there.

        An object of more than `limit` bytes is refused before it is read: a CorruptError.
        """

    def get_part(self, key: str, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop` of an object, fewer if it is shorter.

        MissingObjectError if it is not there. Two parts may be of an object before and after it was
        replaced.
        """

    def size(self, key: str) -> int | None:
        """Return the size of one object in bytes; None if it is not there."""

    def list(self, prefix: str = "") -> dict[str, int]:
        """Return the keys under `prefix` with their sizes in bytes, without unfinished files."""

    def delete(self, key: str) -> None:
        """Delete one object; not being there is fine."""

    def clear(self) -> None:
        """Delete everything of the run."""

    def unfinished(self) -> dict[str, int]:
        """Return the files that a killed writer did not complete, with their sizes in bytes."""

    def sweep(self) -> None:
        """Delete the files that a killed writer did not complete."""

    def sync(self) -> None:
        """Return once everything put so far survives a power loss.

        An object that a put replaces survives one at any moment: as it was, or as it becomes.
        """

    def unsure(self, keys: Iterable[str]) -> None:
        """Have the next sync cover objects that another process put."""

    def hurry(self) -> None:
        """Give up on what does not answer within seconds: the user wants to leave."""

    def lock(self) -> Lock:
        """Become the one writer; LockedError names who is."""

    def exists(self) -> bool:
        """Return whether anything lies at the path."""

    def zarr_store(self) -> Any:
        """Return a read-only Zarr store over the same files."""


def oversized(label: str, size: int, limit: int) -> CorruptError:
    """Build the error for an object that is larger than anything ckptlab writes there."""
    problem = f"has {size:,} bytes, and at most {limit:,} can be right"
    return CorruptError(f"{label} {problem}", file=label, problem=problem)
