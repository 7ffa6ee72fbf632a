"""What a writer that died may leave uneven, put right by the next one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ckptlab.errors import StoreError
from ckptlab.store.backends.base import ROOT, Storage
from ckptlab.store.format import schema
from ckptlab.store.format.zarr_metadata import STEP_AXES, Document, with_length
from ckptlab.store.read.commits import committed_keys

MAX_DOCUMENT_BYTES = 2**20


def document_objects(documents: Mapping[str, Document]) -> dict[str, list[bytes]]:
    """Return arrays' own metadata as it is put, by key."""
    return {f"{name}/{ROOT}": [json.dumps(d).encode()] for name, d in documents.items()}


def read_own_document(storage: Storage, name: str, expected: Document) -> Document | None:
    """Read an array's own metadata.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    name : str
        Name of the array.
    expected : dict
        Its metadata as the root has it, whose shape may be another.

    Returns
    -------
    dict or None
        None if it is missing or damaged.
    """
    try:
        document = json.loads(storage.get(f"{name}/{ROOT}", limit=MAX_DOCUMENT_BYTES))
    except (StoreError, ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("shape"), list):
        return None
    shape: list[Any] = document["shape"]
    sound = len(shape) == len(expected["shape"]) and all(type(n) is int for n in shape)
    return document if sound and {**document, "shape": expected["shape"]} == expected else None


def mend_documents(
    storage: Storage, documents: Mapping[str, Document], capacity: Mapping[str, int]
) -> None:
    """Make the arrays' own metadata agree: their writer may have died while it grew them.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    documents : mapping of str to dict
        Metadata of the arrays.
    capacity : mapping of str to int
        Allocated length of each step axis.
    """
    allocated = {name: with_length(document, capacity) for name, document in documents.items()}
    uneven = {
        name: document
        for name, document in allocated.items()
        if read_own_document(storage, name, document) != document
    }
    storage.put_all(document_objects(uneven))


def delete_orphans(storage: Storage, view: Mapping[str, Document]) -> None:
    """Delete shards past the end: zarr would read them even when it replaces them whole.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    view : mapping of str to dict
        Metadata of the arrays, cut at what is committed.
    """
    kept = {key for name, document in view.items() for key in committed_keys(name, document)}
    # Markers first: they never name what is gone.
    for key in sorted(storage.list(), key=lambda k: k.split("/")[0] not in STEP_AXES):
        name, _, rest = key.partition("/")
        is_chunk = name in view and rest.startswith("c/")
        never_committed = name not in view and name.startswith(schema.OPTIMIZER)
        if never_committed or (is_chunk and key not in kept):
            storage.delete(key)
