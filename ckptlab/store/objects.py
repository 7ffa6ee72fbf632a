"""Runs in object stores (s3://, gs://, az://) and in memory (memory://), through obstore.

Imports errors and store. obstore comes with the extra `cloud`.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Sequence
from typing import Any

from ckptlab.errors import LockedError, StoreError, WriteError
from ckptlab.store.lock import Lock, StaleLockWarning, describe, owner
from ckptlab.store.storage import LOCK, BytesLike, MissingObjectError

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
        self._store = _open(url) if store is None else store

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        """Put one object; object stores do this atomically."""
        try:
            self._store.put(key, b"".join(parts))
        except Exception as error:  # obstore's errors have no common base below Exception
            raise WriteError(f"{self.path}/{key} cannot be written: {_line(error)}") from error

    def get(self, key: str) -> bytes:
        """Get one object."""
        try:
            return bytes(self._store.get(key).bytes())
        except FileNotFoundError as error:
            raise MissingObjectError(f"{self.path}/{key} is missing") from error
        except Exception as error:
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
        except FileNotFoundError:
            return
        except Exception as error:
            raise WriteError(f"{self.path}/{key} cannot be deleted: {_line(error)}") from error

    def clear(self) -> None:
        """Delete everything but the lock."""
        for key in self.list():
            if key != LOCK:
                self.delete(key)

    def sweep(self) -> None:
        """Do nothing: an object that was not completed does not exist."""

    def sync(self) -> None:
        """Do nothing: a put that returned is durable."""

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
        self._content = json.dumps(owner()).encode()
        try:
            store.put(LOCK, self._content, mode="create")
        except FileExistsError as error:
            content = bytes(store.get(LOCK).bytes())
            if not _is_gone(content):
                raise LockedError(
                    f"{path} is being written by {describe(content)}; wait for it to end, or "
                    f"delete {path}/{LOCK} if that process is gone"
                ) from error
            warnings.warn(
                f"{path}: took over the lock of {describe(content)}, which is gone",
                StaleLockWarning,
                stacklevel=4,
            )
            store.put(LOCK, self._content)
        except Exception as error:
            raise WriteError(f"{path} cannot be written: {_line(error)}") from error
        self._released = False

    def release(self) -> None:
        """Delete the lock object."""
        if not self._released:
            self._released = True
            self._store.delete(LOCK)


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
    if os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://"):
        options["client_options"] = {"allow_http": True}
    try:
        return store.from_url(url.rstrip("/"), **options)
    except Exception as error:
        raise StoreError(f"{url!r} is not a store that can be opened: {_line(error)}") from error


def _is_gone(content: bytes) -> bool:
    try:
        who = json.loads(content)
        if who["host"] != socket.gethostname():
            return False
        os.kill(int(who["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, OSError):
        return False
    return False


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
