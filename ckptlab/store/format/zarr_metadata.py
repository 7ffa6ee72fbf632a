"""Build the Zarr v3 metadata of the arrays of format 1.

Written by hand, so that it is the same under every version of zarr. `docs/format.md` describes it,
and a test opens the result with zarr and xarray.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from ckptlab.store.format.codecs import CRC32C, INDEX_CODECS, LITTLE, Codec

CHUNK_PARAMETERS = 16384
"""Parameters of an inner chunk: a compromise between one snapshot and one weight's history."""

SHARD_PARAMETERS = 2**21
"""Parameters of a shard file at most."""

STEP_CHUNK = 1024
"""Steps of a chunk of the arrays over steps alone: chunks of 32 make opening 50 times slower."""

OBSERVED = "observed_step"

STEP_AXES: tuple[str, ...] = ("step", "anchor", "eval_step", OBSERVED)
"""The axes that grow, and that the consolidated view cuts at what is committed.

The last is there only where steps are observed.
"""

ArrayMetadata = dict[str, Any]
"""The content of an array's ``zarr.json``."""


def sharded(
    rows: int, columns: int, names: tuple[str, str], codec: Codec, dtype: str
) -> ArrayMetadata:
    """Describe a large array, of length 0 along its step axis: one shard for a block of steps.

    `rows` are parameters, `columns` the steps of a block, `names` those of the dimensions, and
    `codec` is that of the inner chunks.
    """
    chunk, shard = min(rows, CHUNK_PARAMETERS), shard_rows(rows)
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [chunk, columns],
            "codecs": codec.pipeline,
            "index_codecs": [dict(part) for part in INDEX_CODECS],
            "index_location": "end",
        },
    }
    fill = "NaN" if dtype.startswith("float") else False if dtype == "bool" else 0
    return _array([rows, 0], [shard, columns], names, dtype, [sharding], fill)


def shard_rows(rows: int) -> int:
    """Return how many rows of a large array a shard holds."""
    chunk = min(rows, CHUNK_PARAMETERS)
    return min(-(-rows // chunk), SHARD_PARAMETERS // CHUNK_PARAMETERS) * chunk


def small(
    names: Sequence[str],
    dtype: str,
    fill: Any,
    *,
    inner: Sequence[int] = (),
    chunk: int = STEP_CHUNK,
    attributes: Mapping[str, Any] | None = None,
) -> ArrayMetadata:
    """Describe a small array, of length 0 along its step axis: uncompressed, with a checksum.

    `names` are those of the dimensions, the step axis last; `inner` are the lengths of the others,
    and `chunk` is in steps.
    """
    codecs = [dict(LITTLE if np.dtype(dtype).itemsize > 1 else {"name": "bytes"}), dict(CRC32C)]
    metadata = _array([*inner, 0], [*inner, chunk], names, dtype, codecs, fill)
    return {**metadata, "attributes": dict(attributes or {})}


def constant(
    names: Sequence[str], length: int, dtype: str, codec: Codec, fill: int | bool = 0
) -> ArrayMetadata:
    """Describe a one-dimensional array that is written once, in one chunk."""
    return _array([length], [length], names, dtype, codec.pipeline, fill)


def strings(name: str, length: int) -> ArrayMetadata:
    """Describe a coordinate of variable-length strings, written once, in one chunk."""
    codecs = [{"name": "vlen-utf8"}, dict(CRC32C)]
    return _array([length], [length], [name], "string", codecs, "")


def with_length(metadata: ArrayMetadata, lengths: Mapping[str, int]) -> ArrayMetadata:
    """Return a copy whose step axis has the length that `lengths` gives for it."""
    axis = metadata["dimension_names"][-1]
    if axis not in lengths:
        return metadata
    return {**metadata, "shape": [*metadata["shape"][:-1], lengths[axis]]}


def root_metadata(
    attributes: Mapping[str, Any], metadata: Mapping[str, ArrayMetadata]
) -> ArrayMetadata:
    """Assemble the root ``zarr.json``: attributes with their digest, and consolidated metadata.

    `metadata` is that of the arrays, cut at what is committed.
    """
    digest = metadata_digest(attributes, metadata)
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**attributes, "metadata_digest": digest},
        "consolidated_metadata": {
            "kind": "inline",
            "must_understand": False,
            "metadata": dict(metadata),
        },
    }


def metadata_digest(attributes: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """Return xxh3_64 (seed 0, 16 hex digits) of the canonical JSON of both.

    Canonical: keys sorted, no spaces, ASCII, ``{"attributes": …, "metadata": …}``.
    """
    rest = {key: value for key, value in attributes.items() if key != "metadata_digest"}
    text = json.dumps(
        {"attributes": rest, "metadata": metadata},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )
    return xxhash.xxh3_64_hexdigest(text.encode())


def _array(
    shape: Sequence[int],
    chunks: Sequence[int],
    names: Sequence[str],
    dtype: str,
    codecs: list[dict[str, Any]],
    fill: Any,
) -> ArrayMetadata:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(names),
        "storage_transformers": [],
    }
