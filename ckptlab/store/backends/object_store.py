"""Runs in object stores (s3://, gs://, az://) and in memory (memory://), through obstore.

obstore comes with the extra `cloud`.
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ckptlab.errors import CkptlabError, LockedError, StoreError, WriteError
from ckptlab.store.backends.base import LOCK, ROOT, BytesLike, MissingObjectError, oversized
from ckptlab.store.backends.lock import Lock, StaleLockWarning, describe, is_gone, owner

_PUTS = 8
_MEMORY: dict[str, Any] = {}  # memory:// stores live as long as the process


class ObjectStorage:
    """A run under a prefix of an object store.

    Parameters
    ----------
    url : str
        Such as ``s3://bucket/run.zarr``; credentials, endpoint and region come from the
        environment (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` …), as obstore reads them.

    store : obstore store, optional
        Already open at the prefix; `url` is then for messages only.

    Raises
    ------
    StoreError
        If obstore is not installed or does not accept the URL.
    """

    def __init__(self, url: str, store: Any = None) -> None:
        self.path = url
        self.syncs = False
        self._store = _open(url) if store is None else store

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        """Put one object; object stores do this atomically."""
        try:
            self._store.put(key, b"".join(parts))
        except Exception as error:
            raise WriteError(f"{self.path}/{key} cannot be written: {_line(error)}") from error

    def put_all(self, objects: Mapping[str, Sequence[BytesLike]]) -> None:
        """Put several objects at once, since each waits for the network alone."""
        with ThreadPoolExecutor(_PUTS, "ckptlab-put") as pool:
            for _ in pool.map(self.put, objects, objects.values()):
                pass

    def get(self, key: str, limit: int | None = None) -> bytes:
        """Get one object."""
        try:
            found = self._store.get(key)
            size = int(found.meta["size"])
            accepted = limit is None or size <= limit
            data = bytes(found.bytes()) if accepted else b""
        except Exception as error:  # obstore's errors have no common base below Exception
            if _is_missing(error):
                raise MissingObjectError(f"{self.path}/{key} is missing") from error
            raise StoreError(f"{self.path}/{key} cannot be read: {_line(error)}") from error
        if limit is not None and not accepted:
            raise oversized(f"{self.path}/{key}", size, limit)
        return data

    def get_part(self, key: str, start: int, stop: int) -> bytes:
        """Get a stretch of one object."""
        if stop <= start:
            return b""
        try:
            return bytes(self._store.get_range(key, start=start, end=stop))
        except Exception as error:
            if _is_missing(error):
                raise MissingObjectError(f"{self.path}/{key} is missing") from error
            raise StoreError(f"{self.path}/{key} cannot be read: {_line(error)}") from error

    def size(self, key: str) -> int | None:
        """Ask for the size of one object."""
        try:
            return int(self._store.head(key)["size"])
        except Exception as error:
            if _is_missing(error):
                return None
            raise StoreError(f"{self.path}/{key} cannot be read: {_line(error)}") from error

    def list(self, prefix: str = "") -> dict[str, int]:
        """List the objects under a prefix."""
        try:
            chunks = self._store.list(prefix or None)
            return {meta["path"]: meta["size"] for chunk in chunks for meta in chunk}
        except Exception as error:
            raise StoreError(f"{self.path} cannot be listed: {_line(error)}") from error

    def delete(self, key: str) -> None:
        """Delete one object."""
        try:
            self._store.delete(key)
        except Exception as error:
            if _is_missing(error):
                return
            raise WriteError(f"{self.path}/{key} cannot be deleted: {_line(error)}") from error

    def clear(self) -> None:
        """Delete everything but the lock, first what makes it a run."""
        self.delete(ROOT)
        for key in self.list():
            if key != LOCK:
                self.delete(key)

    def unfinished(self) -> dict[str, int]:
        """Return nothing: an object that was not completed does not exist."""
        return {}

    def sweep(self) -> None:
        """Do nothing: an object that was not completed does not exist."""

    def sync(self) -> None:
        """Do nothing: a put that returned is durable."""

    def unsure(self, keys: Iterable[str]) -> None:
        """Do nothing: an object that is there is durable."""

    def lock(self) -> Lock:
        """Put the lock object, on the condition that there is none."""
        return ObjectLock(self._store, self.path)

    def exists(self) -> bool:
        """Whether anything but a lock lies under the prefix."""
        return any(key != LOCK for key in self.list())

    def zarr_store(self) -> Any:
        """Open the prefix with Zarr."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._store, read_only=True)


class ObjectLock:
    """A lock object, made by a conditional put.

    Parameters
    ----------
    store : obstore store
        Where the run lies.
    path : str
        Its URL, for messages.

    Raises
    ------
    LockedError
        If there is a lock already, unless its process ran on this host and is gone.
    """

    def __init__(self, store: Any, path: str) -> None:
        self._store = store
        self._path = path
        self._content = json.dumps(owner()).encode()
        self._held = False
        try:
            stale = self._acquire()
        except CkptlabError:
            raise
        except Exception as error:
            raise WriteError(f"{path} cannot be written: {_line(error)}") from error
        self._held = True
        if stale:
            self._say_stale(stale)

    def check(self) -> None:
        """Compare the lock object with the one that was put."""
        try:
            content = bytes(self._store.get(LOCK).bytes())
        except Exception as error:
            if not _is_missing(error):
                raise WriteError(f"{self._path} cannot be read: {_line(error)}") from error
            content = b""
        if not self._held or content != self._content:
            raise WriteError(
                f"{self._path}/{LOCK} was removed or replaced, so that another writer may be at "
                f"{self._path}; nothing more is written. Resume when there is no other"
            )

    def release(self) -> None:
        """Delete the lock object, unless it is another writer's by now."""
        if not self._held:
            return
        self._held = False
        # A lock that stays behind names this process, and is taken over once that is gone.
        with contextlib.suppress(Exception):
            if bytes(self._store.get(LOCK).bytes()) == self._content:
                self._store.delete(LOCK)

    def _acquire(self) -> bytes:
        """Put the lock; returns the content of a stale one that it replaced."""
        try:
            self._store.put(LOCK, self._content, mode="create")
        except Exception as error:
            if not _is(error, "AlreadyExistsError", FileExistsError):
                raise
            return self._take_over(error)
        return b""

    def _take_over(self, cause: Exception) -> bytes:
        found = self._store.get(LOCK)
        content, tag = bytes(found.bytes()), found.meta["e_tag"]
        if content == self._content:
            return b""  # the put was repeated after its answer was lost
        refusal = LockedError(
            f"{self._path} is being written by {describe(content)}; wait for it to end, or "
            f"delete {self._path}/{LOCK} if that process is gone"
        )
        if not is_gone(content):
            raise refusal from cause
        try:
            # On the condition that it is still the one seen: of two that find it, one gets it.
            self._store.put(LOCK, self._content, mode={"e_tag": tag})
        except Exception as error:
            if _is(error, "PreconditionError", FileExistsError):
                raise refusal from error
            raise
        return content

    def _say_stale(self, content: bytes) -> None:
        try:
            warnings.warn(
                f"{self._path}: took over the lock of {describe(content)}, which is gone",
                StaleLockWarning,
                stacklevel=5,
            )
        except StaleLockWarning:  # where warnings are errors
            self.release()
            raise


def _open(url: str) -> Any:
    try:
        from obstore import store
    except ImportError as error:
        raise StoreError(
            f"{url}: object stores need obstore; install it with: pip install 'ckptlab[cloud]'"
        ) from error
    if url.startswith("memory://"):
        return _MEMORY.setdefault(url.rstrip("/"), store.MemoryStore())
    options: dict[str, Any] = {}
    endpoints = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    if any(os.environ.get(name, "").startswith("http://") for name in endpoints):
        options["client_options"] = {"allow_http": True}
    try:
        return store.from_url(url.rstrip("/"), **options)
    except Exception as error:
        raise StoreError(f"{url!r} is not a store that can be opened: {_line(error)}") from error


def _is_missing(error: Exception) -> bool:
    return _is(error, "NotFoundError", FileNotFoundError)


def _is(error: Exception, name: str, builtin: type[Exception]) -> bool:
    """Say whether obstore means this: its versions raise an own error or a built-in one."""
    return isinstance(error, builtin) or type(error).__name__ == name


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
