"""Open the storage behind a path, a URL or an open Zarr store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ckptlab.errors import StoreError
from ckptlab.store.backends.base import Storage
from ckptlab.store.backends.local import LocalStorage


def open_storage(
    path: str | os.PathLike[str] | Storage | Any,
    *,
    fsync: bool = True,
    outage_seconds: float = 0.0,
) -> Storage:
    """Return the storage behind a path, URL, open storage or open Zarr store; create nothing.

    With `fsync`, a local run survives a power loss (see `Storage.sync`). Object stores that stop
    answering are retried for `outage_seconds`. StoreError for a URL that obstore does not know.
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
    from ckptlab.store.backends.object_store import ObjectStorage

    return ObjectStorage(text, outage_seconds=outage_seconds)


def _from_zarr(store: Any) -> Storage:
    """Read the files behind an open Zarr store directly."""
    if isinstance(getattr(store, "root", None), Path):
        return LocalStorage(store.root)
    backend = getattr(store, "store", None)
    if type(backend).__module__.startswith("obstore"):
        from ckptlab.store.backends.object_store import ObjectStorage

        return ObjectStorage(str(store), backend)
    raise StoreError(
        f"{type(store).__name__} is no store a run can be read from; accepted: a path, a URL, "
        "zarr.storage.LocalStore or zarr.storage.ObjectStore"
    )
