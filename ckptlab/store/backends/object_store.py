"""Keep runs in object stores (s3://, gs://, az://) and in memory (memory://), through obstore.

The extra `cloud` installs obstore.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ckptlab.errors import CkptlabError, LockedError, StoreError, WriteError
from ckptlab.extras import require
from ckptlab.store.backends.base import LOCK, ROOT, BytesLike, MissingObjectError, oversized
from ckptlab.store.backends.credentials import access_hint, store_options
from ckptlab.store.backends.lock import Lock, StaleLockWarning, describe, is_gone, owner
from ckptlab.store.backends.retry import Retry, short

T = TypeVar("T")

_PUTS = 8
_MEMORY: dict[str, Any] = {}  # memory:// stores live as long as the process


class ObjectStorage:
    """A run under a prefix of an object store, such as ``s3://bucket/run.zarr``.

    Credentials, endpoint and region come from the environment (``AWS_ENDPOINT_URL``,
    ``AWS_ACCESS_KEY_ID`` …), as obstore reads them. Writes that fail after the store has answered
    before are retried for `outage_seconds`. With `store`, an obstore store that is open already,
    `url` is for messages only.
    """

    def __init__(self, url: str, store: Any = None, *, outage_seconds: float = 0.0) -> None:
        self.path = url
        self.syncs = False
        self._store = _open(url) if store is None else store
        self._retry = Retry(url, outage_seconds)

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        """Put one object; object stores do this atomically."""
        data = b"".join(parts)
        try:
            self._retry(lambda: self._store.put(key, data), writes=True)
        except Exception as error:
            raise WriteError(
                f"{self.path}/{key} cannot be written: {self._problem(error)}. What was committed "
                "before is intact"
            ) from error

    def put_all(self, objects: Mapping[str, Sequence[BytesLike]]) -> None:
        """Put several objects at once, since each only waits for the network."""
        with ThreadPoolExecutor(_PUTS, "ckptlab-put") as pool:
            for _ in pool.map(self.put, objects, objects.values()):
                pass

    def get(self, key: str, limit: int | None = None) -> bytes:
        """Get one object."""

        def read() -> bytes | int:
            found = self._store.get(key)
            size = int(found.meta["size"])
            return bytes(found.bytes()) if limit is None or size <= limit else size

        data = self._read(key, read)
        if isinstance(data, int):
            raise oversized(f"{self.path}/{key}", data, limit or 0)
        return data

    def get_part(self, key: str, start: int, stop: int) -> bytes:
        """Get a stretch of one object."""
        if stop <= start:
            return b""
        return self._read(key, lambda: bytes(self._store.get_range(key, start=start, end=stop)))

    def size(self, key: str) -> int | None:
        """Ask for the size of one object."""
        try:
            return self._read(key, lambda: int(self._store.head(key)["size"]))
        except MissingObjectError:
            return None

    def list(self, prefix: str = "") -> dict[str, int]:
        """List the objects under a prefix."""

        def found() -> dict[str, int]:
            chunks = self._store.list(prefix or None)
            return {meta["path"]: meta["size"] for chunk in chunks for meta in chunk}

        try:
            return self._retry(found)
        except Exception as error:
            raise StoreError(f"{self.path} cannot be listed: {self._problem(error)}") from error

    def delete(self, key: str) -> None:
        """Delete one object."""
        try:
            self._retry(lambda: self._store.delete(key), _is_missing)
        except Exception as error:
            if not _is_missing(error):
                raise WriteError(
                    f"{self.path}/{key} cannot be deleted: {self._problem(error)}"
                ) from error

    def clear(self) -> None:
        """Delete everything but the lock; the root metadata first, so that no torn run is left."""
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

    def hurry(self) -> None:
        """Retry for a few seconds at most from now on."""
        self._retry.hurry()

    def lock(self) -> Lock:
        """Put the lock object, on the condition that there is none."""
        return ObjectLock(self._store, self.path, self._retry)

    def exists(self) -> bool:
        """Return whether anything but a lock lies under the prefix."""
        return any(key != LOCK for key in self.list())

    def zarr_store(self) -> Any:
        """Open the prefix with Zarr."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._store, read_only=True)

    def _read(self, key: str, request: Callable[[], T]) -> T:
        try:
            return self._retry(request, _is_missing)
        except Exception as error:  # obstore's errors share no base below Exception
            if _is_missing(error):
                raise MissingObjectError(
                    f"{self.path}/{key} is missing", problem="is missing"
                ) from error
            raise StoreError(f"{self.path}/{key} cannot be read: {self._problem(error)}") from error

    def _problem(self, error: BaseException) -> str:
        return short(error) + access_hint(self.path, error)


class ObjectLock:
    """A lock object, made by a conditional put.

    LockedError if there is a lock already, unless its process ran on this host and is gone.
    """

    def __init__(self, store: Any, path: str, retry: Retry) -> None:
        self._store = store
        self._path = path
        self._retry = retry
        self._content = json.dumps(owner()).encode()
        self._held = False
        try:
            stale = self._acquire()
        except CkptlabError:
            raise
        except Exception as error:
            raise WriteError(
                f"{path} cannot be written: {short(error)}{access_hint(path, error)}"
            ) from error
        self._held = True
        if stale:
            self._say_stale(stale)

    def check(self) -> None:
        """Compare the lock object with the one that was put."""
        try:
            content = self._retry(lambda: bytes(self._store.get(LOCK).bytes()), _is_missing)
        except Exception as error:
            if not _is_missing(error):
                raise WriteError(f"{self._path} cannot be read: {short(error)}") from error
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
    require("obstore", url)
    from obstore import store

    if url.startswith("memory://"):
        return _MEMORY.setdefault(url.rstrip("/"), store.MemoryStore())
    try:
        return store.from_url(url.rstrip("/"), **store_options(url))
    except Exception as error:
        raise StoreError(f"{url!r} is not a store that can be opened: {short(error)}") from error


def _is_missing(error: Exception) -> bool:
    return _is(error, "NotFoundError", FileNotFoundError)


def _is(error: Exception, name: str, builtin: type[Exception]) -> bool:
    """Return whether obstore means this: some versions raise errors of their own, some built-in."""
    return isinstance(error, builtin) or type(error).__name__ == name
