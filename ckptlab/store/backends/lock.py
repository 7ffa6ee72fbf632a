"""Lock a run, so that it has one writer at a time.

Locally it is a POSIX record lock: the kernel drops it when the process dies, however it dies, and
forked data-loader workers do not inherit it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
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

    def check(self) -> None:
        """Raise WriteError if it was taken away, so that another writer may be at the run."""

    def release(self) -> None:
        """Let another writer in; releasing twice is fine."""


def owner() -> dict[str, Any]:
    """Return who is writing: host, process and its PID namespace, since when (UNIX time), an id."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "namespace": _namespace(),
        "since": time.time(),
        "id": secrets.token_hex(8),
    }


def is_gone(content: bytes) -> bool:
    """Return whether a lock's owner ran on this host and has died; False where that is unknown."""
    try:
        who = json.loads(content)
        # Containers may share a host's name and count their processes alone.
        if (who["host"], who["namespace"]) != (socket.gethostname(), _namespace()):
            return False
        os.kill(int(who["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, KeyError, TypeError, OSError, RecursionError, OverflowError):
        return False
    return False


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        return ""


def describe(content: bytes) -> str:
    """Name the writer, such as ``process 12 on host``, from the content of a lock."""
    try:
        who = json.loads(content)
        host = "".join(c if c.isprintable() else "?" for c in str(who["host"])[:80])
        return f"process {int(who['pid'])} on {host}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"


class FileLock:
    """The lock of a local run; LockedError if another writer, of any process, holds it."""

    # POSIX locks do not exclude threads of one process, and are not inherited by a forked one.
    _held: ClassVar[set[tuple[int, int, int]]] = set()
    _guard = threading.Lock()

    def __init__(self, path: Path) -> None:
        import fcntl

        self._path = path
        with FileLock._guard:
            # Looked up before opening: closing any handle would drop this process's lock.
            if _key(path) in FileLock._held:
                raise LockedError(self._refusal(json.dumps(owner()).encode()))
            try:
                # Through a link, another file would be emptied.
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
                self._file = os.open(path, flags, 0o644)
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
            key = _identity(os.fstat(self._file))
            self._key: tuple[int, int, int] | None = key
            FileLock._held.add(key)
        stale = os.pread(self._file, 4096, 0)
        # Who writes is for messages only; on a full disk the lock holds without it.
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(owner()).encode(), 0)
        if stale:
            self._say_stale(stale)

    def check(self) -> None:
        """Compare the file at the path with the one that is locked."""
        if self._key is None or _key(self._path) != self._key:
            raise WriteError(
                f"{self._path} was removed or replaced, so that another writer may be at "
                f"{self._path.parent}; nothing more is written. Resume when there is no other"
            )

    def release(self) -> None:
        """Empty the lock file and let go; the file stays, so that no two inodes can be locked."""
        with FileLock._guard:
            if self._key is None:
                return
            FileLock._held.discard(self._key)
            if self._key[0] == os.getpid():  # a forked child holds nothing
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, 0)
            self._key = None
            os.close(self._file)

    def _say_stale(self, stale: bytes) -> None:
        try:
            warnings.warn(
                f"{self._path}: took over the lock of {describe(stale)}, which is gone",
                StaleLockWarning,
                stacklevel=5,
            )
        except StaleLockWarning:  # where warnings are errors
            self.release()
            raise

    def _refusal(self, content: bytes) -> str:
        return (
            f"{self._path.parent} is being written by {describe(content)}; "
            "wait for it to end, or write to another path"
        )


def _key(path: Path) -> tuple[int, int, int] | None:
    """Tell files, and processes that lock them, apart; None if there is no file."""
    try:
        return _identity(path.stat())
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return os.getpid(), status.st_dev, status.st_ino
