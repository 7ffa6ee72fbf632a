import json

import numpy as np
import pytest
import xxhash

from ckptlab.store.format import schema, zarr_metadata
from ckptlab.store.format.codecs import CODECS
from tests.store.samples import layout_of


def test_shards_hold_whole_chunks_and_at_most_two_million_parameters():
    for rows in (1, 100, 16383, 16384, 16385, 100_000, 2**21, 2**21 + 1, 10**8):
        document = zarr_metadata.sharded(rows, 32, ("param", "step"), CODECS["dense"], "float32")
        shard, steps = document["chunk_grid"]["configuration"]["chunk_shape"]
        chunk, _ = document["codecs"][0]["configuration"]["chunk_shape"]
        assert chunk == min(rows, 16384)
        assert steps == 32
        assert shard % chunk == 0
        assert shard <= 2**21
        assert shard == 2**21 or shard >= rows


def test_only_step_axes_change_length():
    weights = zarr_metadata.sharded(10, 8, ("param", "step"), CODECS["dense"], "float32")
    names = zarr_metadata.strings("tensor", 3)
    assert zarr_metadata.with_length(weights, {"step": 7, "anchor": 2})["shape"] == [10, 7]
    assert weights["shape"] == [10, 0]
    assert zarr_metadata.with_length(names, {"step": 7})["shape"] == [3]


def test_digest_is_xxh3_of_canonical_json_without_itself():
    attributes = {"b": [1, 2.5], "a": "µ", "metadata_digest": "old"}
    metadata = {"weights": {"shape": [1, 2]}}
    text = '{"attributes":{"a":"\\u00b5","b":[1,2.5]},"metadata":{"weights":{"shape":[1,2]}}}'
    assert (
        zarr_metadata.metadata_digest(attributes, metadata)
        == xxhash.xxh3_64(text.encode()).hexdigest()
    )
    reordered = dict(reversed(attributes.items()))
    assert zarr_metadata.metadata_digest(reordered, metadata) == zarr_metadata.metadata_digest(
        attributes, metadata
    )
    with pytest.raises(ValueError, match="JSON"):
        zarr_metadata.metadata_digest({"a": float("nan")}, {})


def test_root_holds_what_it_digests():
    root = zarr_metadata.root_metadata({"format": 1}, {"weights": {"shape": [1, 2]}})
    root = json.loads(json.dumps(root))
    digest = root["attributes"].pop("metadata_digest")
    metadata = root["consolidated_metadata"]["metadata"]
    assert digest == zarr_metadata.metadata_digest(root["attributes"], metadata)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_zarr_itself_accepts_every_document():
    from zarr.core.metadata.v3 import ArrayV3Metadata

    documents = schema.array_metadata(layout_of(20_000, 3), block=32, codec="dense")
    documents["optimizer_m"] = schema.optimizer_metadata(20_003, CODECS["dense"])
    documents["optimizer_state"] = schema.optimizer_row_metadata(70_000)
    for name, document in documents.items():
        parsed = ArrayV3Metadata.from_dict(json.loads(json.dumps(document)))
        assert list(parsed.shape) == document["shape"], name
        assert list(parsed.dimension_names) == document["dimension_names"]


def test_fill_values_stand_for_nothing():
    def fill(dtype):
        return zarr_metadata.sharded(10, 8, ("param", "step"), CODECS["zstd"], dtype)["fill_value"]

    assert [fill(d) for d in ("float64", "int64", "bool")] == ["NaN", 0, False]
    assert np.isnan(float(fill("float32")))
