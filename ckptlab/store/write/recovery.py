"""Repair what a writer that died may have left uneven, when the run is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ckptlab.errors import StoreError
from ckptlab.store.backends.base import ROOT, Storage
from ckptlab.store.format import schema
from ckptlab.store.format.zarr_metadata import STEP_AXES, ArrayMetadata, with_length
from ckptlab.store.read.commits import committed_keys

MAX_METADATA_BYTES = 2**20


def metadata_objects(arrays: Mapping[str, ArrayMetadata]) -> dict[str, list[bytes]]:
    """Return arrays' own metadata as it is put, by key."""
    return {f"{name}/{ROOT}": [json.dumps(meta).encode()] for name, meta in arrays.items()}


def read_own_metadata(storage: Storage, name: str, expected: ArrayMetadata) -> ArrayMetadata | None:
    """Read an array's own metadata; None if it is missing, damaged or unlike the root's.

    Its shape may differ from that of `expected`, the metadata that the root holds.
    """
    try:
        found = json.loads(storage.get(f"{name}/{ROOT}", limit=MAX_METADATA_BYTES))
    except (StoreError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("shape"), list):
        return None
    shape: list[Any] = found["shape"]
    sound = len(shape) == len(expected["shape"]) and all(type(n) is int for n in shape)
    return found if sound and {**found, "shape": expected["shape"]} == expected else None


def mend_metadata(
    storage: Storage, arrays: Mapping[str, ArrayMetadata], capacity: Mapping[str, int]
) -> None:
    """Make the arrays' own metadata agree: their writer may have died while it grew them."""
    allocated = {name: with_length(meta, capacity) for name, meta in arrays.items()}
    uneven = {
        name: meta
        for name, meta in allocated.items()
        if read_own_metadata(storage, name, meta) != meta
    }
    storage.put_all(metadata_objects(uneven))


def delete_orphans(storage: Storage, view: Mapping[str, ArrayMetadata]) -> None:
    """Delete shards past the end: zarr would read them even when it replaces them whole."""
    kept = {key for name, meta in view.items() for key in committed_keys(name, meta)}
    # Markers first: they never name what is gone.
    for key in sorted(storage.list(), key=lambda k: k.split("/")[0] not in STEP_AXES):
        name, _, rest = key.partition("/")
        is_chunk = name in view and rest.startswith("c/")
        never_committed = name not in view and name.startswith(schema.OPTIMIZER)
        if never_committed or (is_chunk and key not in kept):
            storage.delete(key)
