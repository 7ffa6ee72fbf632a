"""Where the files of a run lie: a local folder or an object store, behind one small interface.

Imports errors only. Everything the store does to files goes through here: whole objects are put
atomically, read whole, listed with their sizes and deleted; nothing is ever changed in place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

from ckptlab.errors import CorruptError, NoSpaceError, StoreError, WriteError
from ckptlab.store.lock import FileLock, Lock

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

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        """Write the concatenated parts under `key`: readers see the old object or the new."""

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

    def lock(self) -> Lock:
        """Become the one writer; LockedError names who is."""

    def exists(self) -> bool:
        """Say whether anything lies at the path."""

    def zarr_store(self) -> Any:
        """Return a read-only Zarr store over the same files."""


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
        self.root = Path(path)
        self.path = str(path)
        self._fsync = fsync
        self._unsynced: set[Path] = set()
        self._unsynced_folders: set[Path] = set()
        self._folder_id: tuple[int, int] | None = None

    def put(self, key: str, parts: Sequence[BytesLike]) -> None:
        """Write aside, then rename: a reader or a crash meets the old file or the new one."""
        target = self.root / key
        temporary = target.with_name(f"{target.name}.{secrets.token_hex(4)}{PARTIAL}")
        try:
            self._make_folder(target.parent)
            # A rename can reach the disk before the bytes do: what it replaces would be lost.
            replaces = self._fsync and target.exists()
            try:
                with temporary.open("xb", buffering=0) as file:
                    for part in parts:
                        _write_all(file.fileno(), part)
                    if replaces:
                        os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            self._require_unmoved()
            raise _write_error(target, parts, error) from error
        if self._fsync:
            self._unsynced_folders.add(target.parent)
            if not replaces:
                self._unsynced.add(target)

    def get(self, key: str, limit: int | None = None) -> bytes:
        """Read one file."""
        with self._opened(key) as file:
            size = os.fstat(file.fileno()).st_size
            if limit is not None and size > limit:
                raise oversized(f"{self.root / key}", size, limit)
            return file.read()

    def get_part(self, key: str, start: int, stop: int) -> bytes:
        """Read a stretch of one file."""
        with self._opened(key) as file:
            file.seek(start)
            return file.read(stop - start)

    def size(self, key: str) -> int | None:
        """Ask for the size of one file."""
        try:
            return (self.root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"{self.root / key} cannot be read: {error.strerror}") from error

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
        if self._fsync:
            self._unsynced_folders.add(file.parent)

    def clear(self) -> None:
        """Remove everything in the folder except the lock, which its holder releases."""
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
        files, self._unsynced = sorted(self._unsynced), set()
        changed, self._unsynced_folders = self._unsynced_folders, set()
        folders = set(changed)
        for folder in changed:
            folders |= {folder, *folder.parents} - set(self.root.parents)
        try:
            for file in files:
                _fsync(file, os.O_RDONLY)
            for folder in sorted(folders, reverse=True):
                _fsync(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise _write_error(Path(error.filename or self.root), (), error) from error

    def lock(self) -> Lock:
        """Create the folder if need be and lock it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise StoreError(f"{self.root} is a file, not a folder") from error
        except OSError as error:
            raise _write_error(self.root, (), error) from error
        if self._fsync:
            self._unsynced_folders.add(self.root.parent)
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
    def _opened(self, key: str) -> Iterator[BinaryIO]:
        try:
            with (self.root / key).open("rb") as file:
                yield file
        except (FileNotFoundError, NotADirectoryError) as error:
            raise MissingObjectError(f"{self.root / key} is missing") from error
        except OSError as error:
            raise StoreError(f"{self.root / key} cannot be read: {error.strerror}") from error

    def _walk(self, prefix: str = "") -> dict[str, int]:
        found: dict[str, int] = {}
        for folder, _, files in os.walk(self.root / prefix):
            for name in files:
                file = Path(folder, name)
                with contextlib.suppress(OSError):  # replaced or removed while listing
                    found[file.relative_to(self.root).as_posix()] = file.stat().st_size
        return found

    def _make_folder(self, folder: Path) -> None:
        if self._folder_id is None:
            folder.mkdir(parents=True, exist_ok=True)
            return
        self._require_unmoved()
        # Not the root itself: a store that was removed must not come back as a torso.
        for parent in reversed([folder, *folder.parents]):
            if parent.is_relative_to(self.root) and parent != self.root:
                parent.mkdir(exist_ok=True)

    def _require_unmoved(self) -> None:
        if self._folder_id is not None and self._folder_id != _identity(self.root):
            raise WriteError(f"{self.root} was removed or replaced while it was being written")


def open_storage(path: str | os.PathLike[str] | Storage | Any, *, fsync: bool = True) -> Storage:
    """Find the storage for a path.

    Parameters
    ----------
    path : str, path-like, Storage or Zarr store
        A local path, a URL such as ``s3://bucket/run.zarr``, ``gs://…`` or ``memory://name``, a
        storage that is open already, or an open Zarr store over one of these.
    fsync : bool
        Whether a local run survives power loss (see `Storage.sync`).

    Returns
    -------
    Storage
        Nothing is created or read yet.

    Raises
    ------
    StoreError
        If the path is a URL and obstore is not installed or does not know it.
    """
    if isinstance(path, Storage):
        return path
    if not isinstance(path, str | os.PathLike):
        return _from_zarr(path)
    text = os.fspath(path)
    if "://" not in text:
        return LocalStorage(text, fsync=fsync)
    if text.startswith("file://"):
        return LocalStorage(text.removeprefix("file://"), fsync=fsync)
    from ckptlab.store.objects import ObjectStorage

    return ObjectStorage(text)


def oversized(label: str, size: int, limit: int) -> CorruptError:
    """Build the error for an object that is larger than anything ckptlab writes there."""
    return CorruptError(f"{label} has {size:,} bytes, and at most {limit:,} can be right")


def _from_zarr(store: Any) -> Storage:
    """Read the files behind an open Zarr store directly."""
    if isinstance(getattr(store, "root", None), Path):
        return LocalStorage(store.root)
    backend = getattr(store, "store", None)
    if type(backend).__module__.startswith("obstore"):
        from ckptlab.store.objects import ObjectStorage

        return ObjectStorage(str(store), backend)
    raise StoreError(
        f"{type(store).__name__} is no store a run can be read from; accepted: a path, a URL, "
        "zarr.storage.LocalStore or zarr.storage.ObjectStore"
    )


def _write_all(descriptor: int, part: BytesLike) -> None:
    view = memoryview(part).cast("B")
    while len(view):
        view = view[os.write(descriptor, view) :]


def _fsync(path: Path, flags: int) -> None:
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:  # replaced or deleted since: what took its place is listed itself
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
