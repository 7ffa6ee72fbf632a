import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numcodecs.pcodec import PCodec

from ckptlab.errors import UnknownNameError, UntrustedNameError
from ckptlab.store.format.codecs import (
    CODECS,
    LITTLE,
    Codec,
    checksummed,
    codec_of,
    find_codec,
    public_codecs,
    require_public,
    verified,
)
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.store.samples import layout_of, same_bits, trajectory, write_run

FLOAT_CODECS = ["dense", "fast", "raw", "dense-single"]


@pytest.mark.parametrize("name", FLOAT_CODECS)
@settings(max_examples=40, deadline=None)
@given(bits=arrays(np.uint32, st.tuples(st.integers(1, 300), st.integers(1, 32))))
def test_any_bit_pattern_comes_back(name, bits):
    values = bits.view(np.float32)
    out = np.full_like(values, 7)
    CODECS[name].decode(CODECS[name].encode(values), out)
    assert same_bits(out, values)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dense_is_as_small_as_a_search_makes_it(dtype):
    rng = np.random.default_rng(0)
    path = rng.normal(size=(500, 1)) + np.cumsum(rng.normal(scale=1e-3, size=(500, 32)), axis=1)
    weights = path.astype(np.float32)
    if dtype == "float16":
        weights = weights.astype(np.float16).astype(np.float32)
    elif dtype == "bfloat16":
        weights = (weights.view(np.uint32) & 0xFFFF0000).view(np.float32)
    searched = PCodec(level=8, delta_spec="try_consecutive", delta_encoding_order=2)
    data = CODECS["dense"].encode(weights)
    assert len(data) <= 1.01 * len(bytes(searched.encode(weights)))
    assert same_bits(searched.decode(data[:-4]).reshape(weights.shape), weights)


@pytest.mark.parametrize("dtype", ["float64", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_zstd_takes_every_buffer_type(dtype):
    values = np.arange(600).reshape(20, 30).astype(dtype)
    out = np.empty_like(values)
    CODECS["zstd"].decode(CODECS["zstd"].encode(values), out)
    assert same_bits(out, values)


@pytest.mark.parametrize("name", [*FLOAT_CODECS, "zstd"])
def test_every_flipped_byte_is_noticed(name):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 4)).astype(np.float32)
    data = CODECS[name].encode(values)
    out = np.empty_like(values)
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        with pytest.raises(ValueError, match="checksum"):
            CODECS[name].decode(damaged, out)


@pytest.mark.parametrize("name", [*FLOAT_CODECS, "zstd"])
@pytest.mark.parametrize("length", [10, 40])
def test_a_stream_of_another_length_is_refused_even_with_a_right_checksum(name, length):
    values = np.arange(20, dtype=np.float32)
    stream = CODECS[name].encode(np.resize(values, length))
    with pytest.raises(ValueError, match="another length"):
        CODECS[name].decode(stream, np.empty_like(values))


def test_checksum_is_the_published_crc32c():
    # RFC 3720, B.4: thirty-two bytes of zeros.
    assert checksummed(bytes(32))[32:] == bytes.fromhex("aa36918a")
    assert bytes(verified(checksummed(b"abc"))) == b"abc"
    for short in (b"", b"abc"):
        with pytest.raises(ValueError, match="missing"):
            verified(short)


def test_pipelines_are_told_apart_and_names_suggested():
    assert [codec_of(codec.pipeline) for codec in CODECS.values()] == list(CODECS.values())
    assert codec_of([{"name": "bytes"}]) is None
    with pytest.raises(UnknownNameError, match=r"'dense'.*Accepted: dense, fast"):
        find_codec("denes")


def test_a_registered_codec_writes_runs_that_open_verify_and_name_it(tmp_path, monkeypatch):
    class Zlib:
        def __init__(self, _):
            pass

        def encode(self, chunk):
            return zlib.compress(chunk.tobytes())

    def decompress(_, body, out):
        values = np.frombuffer(zlib.decompress(body), out.dtype)
        fits = values.size == out.size
        if fits:
            np.copyto(out, values.reshape(out.shape))
        return fits

    monkeypatch.setattr(CODECS, "_entries", dict(CODECS._entries))
    CODECS.add(
        Codec(
            name="zlib",
            summary="zlib",
            metadata=(LITTLE, {"name": "numcodecs.zlib", "configuration": {"level": 6}}),
            backend=Zlib,
            decompress=decompress,
        ),
        "mine:zlib",
    )
    layout = layout_of(300)
    weights = trajectory(6, layout.parameters)
    write_run(tmp_path / "a.zarr", weights, layout, block=4, codec="zlib")
    stored = open_store(tmp_path / "a.zarr")
    assert stored.attributes["codec"] == "zlib"
    assert np.array_equal(stored.snapshot(50).view(np.uint32), weights[5].view(np.uint32))
    assert verify(tmp_path / "a.zarr", deep=True).ok
    require_public("zlib")
    assert "zlib" in public_codecs()


def test_a_codec_that_only_a_run_names_is_not_imported():
    with pytest.raises(UntrustedNameError, match="--allow"):
        find_codec("os.path:join")
