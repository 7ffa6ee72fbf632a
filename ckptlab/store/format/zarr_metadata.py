"""Zarr v3 metadata documents of the arrays of format 1, written out by hand.

The documents are the same under every version of zarr, and `docs/format.md`
describes them; a test opens what they describe with zarr and xarray.
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

STEP_AXES: tuple[str, ...] = ("step", "anchor", "eval_step")
"""The axes that grow, and that the consolidated view cuts at what is committed."""

Document = dict[str, Any]


def sharded(rows: int, columns: int, names: tuple[str, str], codec: Codec, dtype: str) -> Document:
    """Describe a large array: inner chunks in shards, one shard a block of steps.

    Parameters
    ----------
    rows, columns : int
        Parameters, and steps of a block.
    names : tuple of str
        Dimension names; the second is a step axis.
    codec : Codec
        Of the inner chunks.
    dtype : str
        Zarr data type.

    Returns
    -------
    dict
        The content of ``zarr.json``, of length 0 along the step axis.
    """
    chunk = min(rows, CHUNK_PARAMETERS)
    shard = min(-(-rows // chunk), SHARD_PARAMETERS // CHUNK_PARAMETERS) * chunk
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
    return _document([rows, 0], [shard, columns], names, dtype, [sharding], fill)


def small(
    names: Sequence[str],
    dtype: str,
    fill: Any,
    *,
    inner: Sequence[int] = (),
    chunk: int = STEP_CHUNK,
    attributes: Mapping[str, Any] | None = None,
) -> Document:
    """Describe an array over a step axis that is kept uncompressed, with a checksum.

    Parameters
    ----------
    names : sequence of str
        Dimension names; the last is a step axis.
    dtype : str
        Zarr data type.
    fill : float, int, bool or str
        Zarr fill value.
    inner : sequence of int
        Lengths of the dimensions before the last.
    chunk : int
        Steps of a chunk.
    attributes : mapping, optional
        Such as ``units`` and ``long_name``.

    Returns
    -------
    dict
        The content of ``zarr.json``, of length 0 along the step axis.
    """
    codecs = [dict(LITTLE if np.dtype(dtype).itemsize > 1 else {"name": "bytes"}), dict(CRC32C)]
    document = _document([*inner, 0], [*inner, chunk], names, dtype, codecs, fill)
    return {**document, "attributes": dict(attributes or {})}


def constant(
    names: Sequence[str], length: int, dtype: str, codec: Codec, fill: int | bool = 0
) -> Document:
    """Describe a one-dimensional array that is written once, in one chunk."""
    return _document([length], [length], names, dtype, codec.pipeline, fill)


def strings(name: str, length: int) -> Document:
    """Describe a coordinate of variable-length strings, written once, in one chunk."""
    codecs = [{"name": "vlen-utf8"}, dict(CRC32C)]
    return _document([length], [length], [name], "string", codecs, "")


def with_length(document: Document, lengths: Mapping[str, int]) -> Document:
    """Return a copy whose step axis has another length.

    Parameters
    ----------
    document : dict
        Metadata of an array.
    lengths : mapping of str to int
        Length of each step axis.

    Returns
    -------
    dict
        The document, with a new ``shape`` where its last dimension is a step axis.
    """
    axis = document["dimension_names"][-1]
    if axis not in lengths:
        return document
    return {**document, "shape": [*document["shape"][:-1], lengths[axis]]}


def root_document(attributes: Mapping[str, Any], metadata: Mapping[str, Document]) -> Document:
    """Assemble the root ``zarr.json`` with inline consolidated metadata and its digest.

    Parameters
    ----------
    attributes : mapping
        Root attributes, without ``metadata_digest``.
    metadata : mapping of str to dict
        Documents of the arrays, cut at what is committed.

    Returns
    -------
    dict
        The content of the root ``zarr.json``.
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


def _document(
    shape: Sequence[int],
    chunks: Sequence[int],
    names: Sequence[str],
    dtype: str,
    codecs: list[dict[str, Any]],
    fill: Any,
) -> Document:
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
