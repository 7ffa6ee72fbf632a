"""One writer at a time: the lock on a run.

Imports errors only. Locally it is a POSIX record lock, which the kernel drops when the process
dies, however it dies, and which forked data-loader workers do not inherit.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
import warnings
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ckptlab.errors import LockedError, WriteError


class StaleLockWarning(UserWarning):
    """A lock left by a process that is gone was taken over."""


class Lock(Protocol):
    """Held until released."""

    def release(self) -> None:
        """Let another writer in; releasing twice is fine."""


def owner() -> dict[str, Any]:
    """Return who is writing: host, process and since when (UNIX time)."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}


def describe(content: bytes) -> str:
    """Name the writer from the content of a lock.

    Parameters
    ----------
    content : bytes
        JSON as `owner` gives it; anything else is an unknown process.

    Returns
    -------
    str
        Such as ``process 12 on host``.
    """
    try:
        who = json.loads(content)
        return f"process {int(who['pid'])} on {str(who['host'])[:80]}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"


class FileLock:
    """The lock of a local run.

    Parameters
    ----------
    path : Path
        The lock file; its folder exists.

    Raises
    ------
    LockedError
        If another writer, in this process or another, holds it.
    """

    _held: ClassVar[set[tuple[int, int]]] = (
        set()
    )  # POSIX locks do not exclude threads of one process
    _guard = threading.Lock()

    def __init__(self, path: Path) -> None:
        import fcntl

        self._path = path
        with FileLock._guard:
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                # Looked up before opening: closing any handle would drop this process's lock.
                if (status.st_dev, status.st_ino) in FileLock._held:
                    raise LockedError(self._refusal(json.dumps(owner()).encode()))
            try:
                self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except OSError as error:
                raise WriteError(f"{path} cannot be written: {error.strerror}") from error
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                content = os.pread(self._file, 4096, 0)
                os.close(self._file)
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise WriteError(f"{path} cannot be locked: {error.strerror}") from error
                raise LockedError(self._refusal(content)) from error
            status = os.fstat(self._file)
            self._key: tuple[int, int] | None = (status.st_dev, status.st_ino)
            FileLock._held.add(self._key)
        stale = os.pread(self._file, 4096, 0)
        if stale:
            warnings.warn(
                f"{path}: took over the lock of {describe(stale)}, which is gone",
                StaleLockWarning,
                stacklevel=4,
            )
        # Who writes is for messages only; on a full disk the lock holds without it.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(owner()).encode(), 0)

    def release(self) -> None:
        """Empty the lock file and let go; the file stays, so that no two inodes can be locked."""
        with FileLock._guard:
            if self._key is None:
                return
            FileLock._held.discard(self._key)
            self._key = None
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            os.close(self._file)

    def _refusal(self, content: bytes) -> str:
        return (
            f"{self._path.parent} is being written by {describe(content)}; "
            "wait for it to end, or write to another path"
        )
