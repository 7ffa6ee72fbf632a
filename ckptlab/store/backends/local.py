"""Keep a run in a local folder: write files aside, rename them, and sync them together."""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ckptlab.errors import NoSpaceError, StoreError, WriteError
from ckptlab.store.backends.base import (
    LOCK,
    PARTIAL,
    ROOT,
    BytesLike,
    MissingObjectError,
    oversized,
)
from ckptlab.store.backends.lock import FileLock, Lock

_SYNCS = 16
_SLOW_SYNC_SECONDS = 0.002
_LARGE = 2**20


class LocalStorage:
    """A run in a local folder, which need not exist yet; `fsync`: `sync` waits for the disk."""

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = True) -> None:
        self.root = Path(path).absolute()  # whoever writes may change its working folder
        self.path = str(path)
        self.syncs = fsync
        self._unsynced: set[Path] = set()
        self._unsynced_folders: set[Path] = set()
        self._met_folders: set[Path] = set()
        self._folder_id: tuple[int, int] | None = None

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        """Write one file."""
        self.put_all({key: parts})

    def put_all(self, objects: Mapping[str, Sequence[BytesLike]]) -> None:
        """Write aside, then rename: a reader or a crash meets the old files or the new ones."""
        # As text: this runs beside training, and each step in Python here makes it wait.
        root, suffix = f"{self.root}/", f".{secrets.token_hex(4)}{PARTIAL}"
        contents = {root + key: parts for key, parts in objects.items()}

        def sync_aside(target: str) -> None:
            with self._writing(target, contents[target]):
                _fsync(target + suffix, os.O_RDONLY)

        self._require_unmoved()
        try:
            for target, parts in contents.items():
                with self._writing(target, parts):
                    self._write_aside(target + suffix, parts)
            # A rename can reach the disk before the bytes do: what it replaces would be lost.
            replaced = [t for t in contents if os.path.exists(t)] if self.syncs else []  # noqa: PTH110
            _together(sync_aside, replaced)
            for target, parts in contents.items():
                with self._writing(target, parts):
                    os.replace(target + suffix, target)  # noqa: PTH105
        except BaseException:
            for target in contents:
                with contextlib.suppress(OSError):
                    Path(target + suffix).unlink(missing_ok=True)
            raise
        if self.syncs:
            self._unsynced |= {Path(target) for target in contents.keys() - replaced}
            for target in contents:
                self._note_folder(Path(target).parent)

    def get(self, key: str, limit: int | None = None) -> bytes:
        """Read one file."""
        with self._opened(key) as (file, size):
            if limit is not None and size > limit:
                raise oversized(f"{self.root / key}", size, limit)
            return file.read()

    def get_part(self, key: str, start: int, stop: int) -> bytes:
        """Read a stretch of one file."""
        with self._opened(key) as (file, _):
            file.seek(start)
            return file.read(stop - start)

    def size(self, key: str) -> int | None:
        """Ask for the size of one file."""
        try:
            status = (self.root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{self.root / key} cannot be read: {error.strerror}") from error
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def list(self, prefix: str = "") -> dict[str, int]:
        """Walk the folder below `prefix`."""
        walked = self._walk(prefix).items()
        return {key: size for key, size in walked if not key.endswith(PARTIAL)}

    def delete(self, key: str) -> None:
        """Remove one file."""
        file = self.root / key
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(f"{file} cannot be deleted: {error.strerror}") from error
        self._unsynced.discard(file)
        if self.syncs:
            self._note_folder(file.parent)

    def clear(self) -> None:
        """Remove everything in the folder except the lock, which its holder releases."""
        self._require_unmoved()
        self._met_folders.clear()
        try:
            # First what makes it a run, so that a crash leaves no run with holes.
            (self.root / ROOT).unlink(missing_ok=True)
            for entry in self.root.iterdir() if self.root.is_dir() else ():
                if entry.name == LOCK:
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise WriteError(f"{self.root} cannot be emptied: {error}") from error

    def unfinished(self) -> dict[str, int]:
        """List what a killed writer left half-written."""
        return {key: size for key, size in self._walk().items() if key.endswith(PARTIAL)}

    def sweep(self) -> None:
        """Remove what a killed writer left half-written."""
        for key in self.unfinished():
            self.delete(key)

    def sync(self) -> None:
        """Flush files, then their folders: a rename is durable only with its folder."""
        files, self._unsynced = self._unsynced, set()
        folders, self._unsynced_folders = self._unsynced_folders, set()

        def sync_one(path: Path, flags: int = os.O_RDONLY) -> None:
            with self._writing(path, ()):
                _fsync(path, flags)

        _together(sync_one, files)
        _together(lambda folder: sync_one(folder, os.O_RDONLY | os.O_DIRECTORY), folders)

    def unsure(self, keys: Iterable[str]) -> None:
        """Note files, and the folders they lie in."""
        if self.syncs:
            for file in (self.root / key for key in keys):
                self._unsynced.add(file)
                self._note_folder(file.parent)

    def hurry(self) -> None:
        """Do nothing: a disk answers or fails."""

    def lock(self) -> Lock:
        """Create the folder if need be and lock it."""
        try:
            missing = [f for f in (self.root, *self.root.parents) if not f.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise StoreError(f"{self.root} is a file, not a folder") from error
        except OSError as error:
            raise _write_error(self.root, (), error) from error
        if self.syncs:
            self._unsynced_folders |= {self.root.parent, *(folder.parent for folder in missing)}
        lock = FileLock(self.root / LOCK)
        self._folder_id = _identity(self.root)
        return lock

    def exists(self) -> bool:
        """Whether the path is taken; an empty folder, or one with a lock alone, is not."""
        try:
            if self.root.is_dir():
                return any(entry.name != LOCK for entry in self.root.iterdir())
            return self.root.exists()
        except OSError as error:
            raise StoreError(f"{self.root} cannot be read: {error.strerror}") from error

    def zarr_store(self) -> Any:
        """Open the folder with Zarr."""
        from zarr.storage import LocalStore

        return LocalStore(self.root, read_only=True)

    @contextlib.contextmanager
    def _opened(self, key: str) -> Iterator[tuple[BinaryIO, int]]:
        path = self.root / key
        try:
            # Without waiting, as a pipe in a file's place would have it.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise StoreError(f"{path} cannot be read: it is not a regular file")
                yield file, status.st_size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingObjectError(f"{path} is missing", problem="is missing") from error
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error

    def _walk(self, prefix: str = "") -> dict[str, int]:
        found: dict[str, int] = {}
        for folder, _, files in os.walk(self.root / prefix):
            place = Path(folder)
            above = place.relative_to(self.root).as_posix()
            for name in files:
                with contextlib.suppress(OSError):  # replaced or removed while listing
                    status = (place / name).stat()
                    if stat.S_ISREG(status.st_mode):
                        found[name if above == "." else f"{above}/{name}"] = status.st_size
        return found

    @contextlib.contextmanager
    def _writing(self, target: str | Path, parts: Sequence[BytesLike]) -> Iterator[None]:
        """Turn what the system says into an error that names the file."""
        try:
            yield
        except OSError as error:
            self._require_unmoved()
            raise _write_error(target, parts, error) from error

    def _write_aside(self, path: str, parts: Sequence[BytesLike]) -> None:
        try:
            _write_new(path, parts, past_cache=self.syncs)
        except FileNotFoundError:
            self._make_folder(Path(path).parent)
            _write_new(path, parts, past_cache=self.syncs)

    def _make_folder(self, folder: Path) -> None:
        if self._folder_id is None:
            folder.mkdir(parents=True, exist_ok=True)
            return
        self._require_unmoved()
        # Not the root itself: a store that was removed must not come back as a torso.
        for parent in reversed([folder, *folder.parents]):
            if parent.is_relative_to(self.root) and parent != self.root:
                parent.mkdir(exist_ok=True)

    def _note_folder(self, folder: Path) -> None:
        """Have a folder synced; with those above it when it is met first, as it may be new."""
        self._unsynced_folders.add(folder)
        if folder not in self._met_folders:
            self._met_folders.add(folder)
            above = {f for f in folder.parents if f == self.root or self.root in f.parents}
            self._unsynced_folders |= above

    def _require_unmoved(self) -> None:
        if self._folder_id is not None and self._folder_id != _identity(self.root):
            raise WriteError(f"{self.root} was removed or replaced while it was being written")


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Make the threads that wait for syncs, once in each process: a fork leaves them behind."""
    del process
    return ThreadPoolExecutor(_SYNCS, "ckptlab-sync")


def _together(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Sync all: one by one where that is quick, and from many threads where each sync waits.

    A file system commits many syncs together and each alone; but threads cost more than the waiting
    does on a disk that is quick.
    """
    queue = list(items)
    while queue:
        began = time.perf_counter()
        work(queue.pop())
        if len(queue) > 1 and time.perf_counter() - began > _SLOW_SYNC_SECONDS:
            for _ in _pool(os.getpid()).map(work, queue):
                pass
            return


def _write_new(path: str, parts: Sequence[BytesLike], *, past_cache: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for part in parts:
            view = memoryview(part).cast("B")
            if past_cache and len(view) >= _LARGE:
                view = _write_past_cache(descriptor, view)
            while len(view):
                view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def _write_past_cache(descriptor: int, view: memoryview) -> memoryview:
    """Write the whole pages of what begins at a page, and return what is left.

    What is to be synced anyway goes to the disk without a copy in the system's cache: the copy
    takes the cores several times as long, and training runs on them.
    """
    direct = getattr(os, "O_DIRECT", 0)
    if not direct or np.frombuffer(view, np.uint8).ctypes.data % mmap.PAGESIZE:
        return view
    import fcntl

    pages = len(view) // mmap.PAGESIZE * mmap.PAGESIZE
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | direct)
        while pages and pages % mmap.PAGESIZE == 0:
            written = os.write(descriptor, view[:pages])
            view, pages = view[written:], pages - written
    except OSError as error:
        if error.errno != errno.EINVAL:  # which a file system says that always caches
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return view


def _fsync(path: str | Path, flags: int) -> None:
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:  # replaced or deleted since: what took its place is listed itself
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have what was renamed in a folder survive a power loss."""
    _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _write_error(target: str | Path, parts: Sequence[BytesLike], error: OSError) -> WriteError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = sum(memoryview(part).nbytes for part in parts)
        return NoSpaceError(
            f"no space left to write {target} ({needed:,} bytes needed). Everything committed "
            "before is intact: make space and resume."
        )
    return WriteError(f"{target} cannot be written: {error.strerror or error}")
