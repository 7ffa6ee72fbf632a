"""Reading and checking the root metadata: what is not as format 1 says is refused."""

from __future__ import annotations

import json
from typing import Any

from ckptlab.errors import CorruptError, FormatVersionError, StoreError
from ckptlab.store.backends.base import ROOT, MissingObjectError, Storage
from ckptlab.store.format import schema
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.zarr_metadata import (
    OBSERVED,
    STEP_AXES,
    ArrayMetadata,
    metadata_digest,
    with_length,
)
from ckptlab.store.read.power_loss import surviving_lengths, synced_lengths

STATES = ("recording", "complete", "interrupted")
BLOCKS = tuple(2**power for power in range(11))
MAX_ROOT_BYTES = 2**26


def read_root(storage: Storage) -> tuple[dict[str, Any], dict[str, ArrayMetadata]]:
    """Read and check the root metadata.

    Parameters
    ----------
    storage : Storage
        Where the run lies.

    Returns
    -------
    attributes : dict
        Root attributes.
    metadata : dict of str to dict
        Documents of the arrays, cut at what is committed; after a power loss at what was synced.

    Raises
    ------
    StoreError
        If there is no run, it was written in a newer format, or the metadata is damaged.
    """
    attributes, metadata = check_root(storage, load_root(storage))
    lengths = surviving_lengths(attributes)
    if lengths is not None:
        metadata = {name: with_length(document, lengths) for name, document in metadata.items()}
    return attributes, metadata


def check_root(
    storage: Storage, root: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, ArrayMetadata]]:
    """Check the root metadata.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    root : dict
        As `load_root` gives it.

    Returns
    -------
    attributes : dict
        Root attributes.
    metadata : dict of str to dict
        Documents of the arrays, cut at what is committed.

    Raises
    ------
    StoreError
        If it is of no run, of a newer format, or damaged.
    """
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or "format" not in attributes:
        raise StoreError(f"{storage.path} is a Zarr group, but no ckptlab run")
    version = attributes["format"]
    if not isinstance(version, int) or version > schema.FORMAT or version < 1:
        raise FormatVersionError(
            f"{storage.path} is of format {version!r:.40}; this ckptlab reads up to "
            f"{schema.FORMAT}. Update ckptlab."
        )
    try:
        metadata = root["consolidated_metadata"]["metadata"]
        digest = metadata_digest(attributes, metadata)
        if digest != attributes["metadata_digest"]:
            raise CorruptError(f"{storage.path}/zarr.json is damaged: its digest is wrong")
        _check_metadata(metadata, attributes)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise CorruptError(
            f"{storage.path}/zarr.json is not as format {schema.FORMAT} says: "
            f"{type(error).__name__} {error}"
        ) from error
    return attributes, metadata


def load_root(storage: Storage) -> dict[str, Any]:
    """Read the root metadata as it is.

    Parameters
    ----------
    storage : Storage
        Where the run lies.

    Returns
    -------
    dict
        The content of the root ``zarr.json``.

    Raises
    ------
    StoreError
        If there is no Zarr group, or its metadata is no JSON.
    """
    try:
        data = storage.get(ROOT, limit=MAX_ROOT_BYTES)
    except MissingObjectError as error:
        what = "is no ckptlab run" if storage.exists() else "does not exist"
        raise StoreError(f"{storage.path} {what}; record one with: ckptlab record") from error
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{storage.path}/zarr.json is damaged: {error}") from error
    if not isinstance(root, dict) or root.get("node_type") != "group":
        raise StoreError(f"{storage.path} is no Zarr group")
    return root


def _check_metadata(metadata: dict[str, ArrayMetadata], attributes: dict[str, Any]) -> None:
    """Raise what the caller turns into CorruptError unless the arrays are as format 1 says."""
    layout = _check_attributes(attributes)
    codec = schema.stored_codec(metadata, attributes["codec"])
    expected = schema.array_metadata(
        layout,
        block=attributes["block"],
        codec=codec,
        optional=["gradients"] if "gradients" in metadata else [],
        masked=schema.MASK in metadata,
        observed=OBSERVED in metadata,
    )
    for name, document in expected.items():
        _require_like(name, metadata[name], document)
    for name, document in metadata.items():
        if name in expected:
            continue
        if name == schema.OPTIMIZER_ROW:
            like = schema.optimizer_row_metadata(document["shape"][0])
        elif schema.is_optimizer_name(name):
            like = schema.optimizer_metadata(layout.parameters, codec)
        elif schema.is_scalar_name(name):
            like = schema.scalar_metadata()
        else:
            raise ValueError(f"array {name!r:.80} is not of format {schema.FORMAT}")
        _require_like(name, document, like)
    lengths = schema.committed_lengths(metadata)
    for name, document in metadata.items():
        axis = document["dimension_names"][-1]
        if axis in lengths and document["shape"][-1] != lengths[axis]:
            raise ValueError(f"array {name!r:.80} is not as long as its axis {axis}")
    if any(not 0 <= length <= 2**40 for length in lengths.values()):
        raise ValueError("a step axis has an absurd length")
    synced = synced_lengths(attributes) or lengths
    if any(synced[axis] > lengths[axis] for axis in lengths):
        raise ValueError("more is said to be synced than is committed")


def _check_attributes(attributes: dict[str, Any]) -> Layout:
    if attributes["state"] not in STATES:
        raise ValueError(f"state {attributes['state']!r:.40} is none of {', '.join(STATES)}")
    layout = Layout.from_attributes(attributes)
    if not layout.parameters:
        raise ValueError("the tensor table holds no parameter")
    if type(attributes["block"]) is not int or attributes["block"] not in BLOCKS:
        raise ValueError(f"block {attributes['block']!r:.40} is not a power of two up to 1024")
    if attributes["coordinates"] != "tensor_index":
        raise ValueError(f"coordinates {attributes['coordinates']!r:.40} is not tensor_index")
    return layout


def _require_like(name: str, document: ArrayMetadata, expected: ArrayMetadata) -> None:
    attributes, units = document["attributes"], expected["attributes"].get("units")
    if not set(attributes) <= {"long_name", "units"} or attributes.get("units") != units:
        # Others would have xarray change the values, such as scale_factor.
        raise ValueError(f"array {name!r:.80} has other attributes")
    shape, likely = document["shape"], expected["shape"]
    if not all(type(n) is int for n in shape) or len(shape) != len(likely):
        raise ValueError(f"array {name!r:.80} has another shape")
    cut = len(shape) - (expected["dimension_names"][-1] in STEP_AXES)
    if shape[:cut] != likely[:cut]:
        raise ValueError(f"array {name!r:.80} has another shape")
    # As text, for which 1, 1.0 and true are three things.
    free = {"shape": shape, "attributes": attributes}
    if json.dumps(document, sort_keys=True) != json.dumps({**expected, **free}, sort_keys=True):
        raise ValueError(f"array {name!r:.80} is not stored as format {schema.FORMAT} says")
