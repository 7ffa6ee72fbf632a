import mmap

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec

from ckptlab.errors import CorruptError
from ckptlab.store.format import zarr_metadata
from ckptlab.store.format.codecs import CODECS
from ckptlab.store.format.shard_buffer import Sheet
from ckptlab.store.format.shards import Grid, Shard, encode_shard, shard_key
from tests.store.samples import same_bits, trajectory


def grid_of(rows: int, steps: int, block: int, codec: str = "dense", dtype: str = "float32"):
    document = zarr_metadata.sharded(rows, block, ("param", "step"), CODECS[codec], dtype)
    return Grid.of({**document, "shape": [rows, steps]})


def small_grid(shape, chunk, shard, codec="dense"):
    """A grid of any cut: what the format fixes at 16384 and 2**21 is no matter of the code."""
    return Grid(shape, chunk, shard, CODECS[codec], np.dtype("float32"), float("nan"))


def decoded(data: bytes, grid: Grid, i: int = 0, j: int = 0) -> np.ndarray:
    """All of a shard, shape (steps, param) of the array within it."""
    shard = Shard(data, grid, i, j, "shard")
    shard.check_whole()
    chunks = [shard.decode(c).copy() for c in range(shard.chunk_count)]
    whole = np.concatenate(chunks)[: shard.rows.stop - shard.rows.start]
    return whole[:, : shard.columns.stop - shard.columns.start].T


pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    steps=st.integers(1, 8),
    chunk=st.integers(1, 20),
    per_shard=st.integers(1, 4),
    codec=st.sampled_from(["dense", "fast", "raw"]),
    seed=st.integers(0, 100),
)
def test_shards_of_any_cut_come_back_bit_by_bit(rows, steps, chunk, per_shard, codec, seed):
    grid = small_grid((rows, steps), (chunk, 8), (chunk * per_shard, 8), codec)
    weights = trajectory(steps, rows, seed)
    parts = [
        decoded(bytes(encode_shard(weights, grid, i)), grid, i) for i in range(grid.shard_grid[0])
    ]
    assert same_bits(np.concatenate(parts, axis=1), weights)


@pytest.mark.parametrize("codec", ["dense", "fast", "raw"])
@pytest.mark.parametrize("rows", [7, 16384, 40_000])
@pytest.mark.parametrize("steps", [1, 5, 8])
def test_zarr_reads_what_we_write_and_we_read_what_zarr_writes(tmp_path, rows, steps, codec):
    weights = trajectory(steps, rows)
    grid = grid_of(rows, steps, 8, codec)
    array = zarr_array(tmp_path, rows, steps, grid, codec)
    # Not the transposed view: zarr 3.1 hands pcodec its memory order and permutes the values.
    array[:] = np.ascontiguousarray(weights.T)
    file = tmp_path / shard_key("weights", 0, 0)
    assert same_bits(decoded(file.read_bytes(), grid), weights)

    file.write_bytes(bytes(encode_shard(weights, grid, 0)))
    assert same_bits(np.asarray(array[:]).T, weights)


def zarr_array(folder, rows, steps, grid, codec):
    """An array that zarr writes with its own codec objects of the same settings."""
    from zarr.codecs import BloscCodec
    from zarr.codecs.numcodecs import PCodec

    inner = {
        "dense": [PCodec(level=8, delta_spec="try_consecutive", delta_encoding_order=2)],
        "fast": [
            BytesCodec(endian="little"),
            BloscCodec(typesize=4, cname="lz4", clevel=5, shuffle="shuffle", blocksize=0),
        ],
        "raw": [TransposeCodec(order=(1, 0)), BytesCodec(endian="little")],
    }[codec]
    return zarr.create(
        store=zarr.storage.LocalStore(folder),
        path="weights",
        shape=(rows, steps),
        chunks=grid.shard,
        dtype="float32",
        fill_value=np.nan,
        zarr_format=3,
        codecs=[ShardingCodec(chunk_shape=grid.chunk, codecs=[*inner, Crc32cCodec()])],
    )


def test_more_parameters_than_a_shard_holds(tmp_path):
    rows = 2**21 + 20_000
    weights = trajectory(2, rows)
    grid = grid_of(rows, 2, 2, "fast")
    assert grid.shard_grid == (2, 1)
    parts = [
        decoded(bytes(encode_shard(weights, grid, i)), grid, i) for i in range(grid.shard_grid[0])
    ]
    assert [p.shape[1] for p in parts] == [2**21, 20_000]
    assert same_bits(np.concatenate(parts, axis=1), weights)


def test_what_lies_past_the_array_is_fill():
    grid = small_grid((5, 3), (4, 8), (8, 8))
    data = bytes(encode_shard(np.ones((3, 5), np.float32), grid, 0))
    shard = Shard(data, grid, 0, 0, "shard")
    assert shard.chunk_count == 2
    last = shard.decode(1)
    assert (last[:1, :3] == 1).all()
    assert np.isnan(last[1:]).all()
    assert np.isnan(last[:, 3:]).all()


@pytest.mark.parametrize("dtype", ["float64", "int64", "uint8", "bool"])
def test_buffers_keep_their_type(dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype)
    grid = grid_of(4, 3, 8, "zstd", dtype)
    assert same_bits(decoded(bytes(encode_shard(values, grid, 0)), grid), values)


@pytest.mark.parametrize("codec", ["dense", "fast", "raw"])
def test_every_flipped_byte_of_a_shard_is_found(codec):
    grid = small_grid((30, 4), (8, 4), (32, 4), codec)
    weights = trajectory(4, 30)
    data = bytes(encode_shard(weights, grid, 0))
    rng = np.random.default_rng(0)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(CorruptError, match="shard is damaged"):
            decoded(bytes(damaged), grid)


def test_a_torn_shard_is_found_wherever_it_is_torn():
    grid = small_grid((30, 4), (8, 4), (32, 4))
    data = bytes(encode_shard(trajectory(4, 30), grid, 0))
    for length in range(len(data)):
        with pytest.raises(CorruptError):
            decoded(data[:length], grid)
    for extra in (b"x", data):
        with pytest.raises(CorruptError):
            decoded(extra + data, grid)


def test_an_index_that_leads_outside_is_refused():
    grid = small_grid((8, 4), (8, 4), (8, 4))
    from ckptlab.store.format.checksum import checksummed

    for offset, length in ((0, 2**64 - 1), (2**64 - 1, 2**64 - 1), (2**63, 2**63), (0, 999)):
        index = checksummed(np.array([offset, length], "<u8").tobytes())
        with pytest.raises(CorruptError, match="outside the file"):
            Shard(b"0123456789" + index, grid, 0, 0, "shard")


def test_chunks_can_be_encoded_on_several_cores():
    from concurrent.futures import ThreadPoolExecutor

    grid = small_grid((70, 8), (8, 8), (80, 8))
    weights = trajectory(8, 70)
    with ThreadPoolExecutor(3) as pool:
        assert encode_shard(weights, grid, 0, pool.map) == encode_shard(weights, grid, 0)


@pytest.mark.parametrize("codec", ["dense", "fast", "raw"])
def test_nothing_is_left_of_the_shard_that_was_in_the_memory_before(codec):
    sheet = Sheet()
    encode_shard(trajectory(8, 70), small_grid((70, 8), (16, 8), (80, 8), codec), 0, None, sheet)
    grid = small_grid((20, 3), (16, 8), (32, 8), codec)
    weights = trajectory(3, 20, seed=1)
    again = encode_shard(weights, grid, 0, None, sheet)
    assert again == encode_shard(weights, grid, 0)
    assert np.frombuffer(again, np.uint8).ctypes.data % mmap.PAGESIZE == 0


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_shape": [0, 8]},
        {"chunk_shape": [16, 4]},
        {"chunk_shape": [15, 8]},
        {"chunk_shape": [2**25, 8]},
        {"index_location": "start"},
        {"codecs": [{"name": "bytes"}]},
    ],
)
def test_another_cut_is_refused(change):
    document = zarr_metadata.sharded(16, 8, ("param", "step"), CODECS["dense"], "float32")
    document["codecs"][0]["configuration"] |= change
    with pytest.raises(ValueError, match="sharded"):
        Grid.of(document)
