"""A run in a local folder: files written aside, renamed, and synced together.

Imports lock, storage and errors.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from ckptlab.errors import NoSpaceError, StoreError, WriteError
from ckptlab.store.lock import FileLock, Lock
from ckptlab.store.storage import LOCK, PARTIAL, ROOT, BytesLike, MissingObjectError, oversized

_SYNCS = 16


class LocalStorage:
    """A run in a local folder.

    Parameters
    ----------
    path : str or path-like
        The folder; it need not exist yet.
    fsync : bool
        Whether `sync` waits for the disk.
    """

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
        contents = {self.root / key: parts for key, parts in objects.items()}
        suffix = f".{secrets.token_hex(4)}{PARTIAL}"
        aside = {target: target.with_name(target.name + suffix) for target in contents}

        def sync_aside(target: Path) -> None:
            with self._writing(target, contents[target]):
                _fsync(aside[target], os.O_RDONLY)

        try:
            for target, parts in contents.items():
                with self._writing(target, parts):
                    self._make_folder(target.parent)
                    _write_new(aside[target], parts)
            # A rename can reach the disk before the bytes do: what it replaces would be lost.
            replaced = [target for target in contents if self.syncs and target.exists()]
            _together(sync_aside, replaced)
            for target, temporary in aside.items():
                with self._writing(target, contents[target]):
                    temporary.replace(target)
        except BaseException:
            for temporary in aside.values():
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
            raise
        if self.syncs:
            self._unsynced |= contents.keys() - replaced
            for target in contents:
                self._note_folder(target.parent)

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
                    raise StoreError(f"{path} cannot be read: it is no ordinary file")
                yield file, status.st_size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingObjectError(f"{path} is missing") from error
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
    def _writing(self, target: Path, parts: Sequence[BytesLike]) -> Iterator[None]:
        """Turn what the system says into an error that names the file."""
        try:
            yield
        except OSError as error:
            self._require_unmoved()
            raise _write_error(target, parts, error) from error

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


def _together(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Do it to all at once: a file system commits many syncs together, and each alone."""
    queue = list(items)
    if len(queue) < 2:
        for item in queue:
            work(item)
        return
    with ThreadPoolExecutor(min(_SYNCS, len(queue)), "ckptlab-sync") as pool:
        for _ in pool.map(work, queue):
            pass


def _write_new(path: Path, parts: Sequence[BytesLike]) -> None:
    with path.open("xb", buffering=0) as file:
        for part in parts:
            view = memoryview(part).cast("B")
            while len(view):
                view = view[os.write(file.fileno(), view) :]


def _fsync(path: Path, flags: int) -> None:
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


def _write_error(target: Path, parts: Sequence[BytesLike], error: OSError) -> WriteError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = sum(memoryview(part).nbytes for part in parts)
        return NoSpaceError(
            f"no space left to write {target} ({needed:,} bytes needed). Everything committed "
            "before is intact: make space and resume."
        )
    return WriteError(f"{target} cannot be written: {error.strerror or error}")
