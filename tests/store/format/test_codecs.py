import warnings

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numcodecs.pcodec import PCodec

from ckptlab.errors import ConfigError, UnknownNameError, UntrustedNameError
from ckptlab.store.format.checksum import checksummed, verified
from ckptlab.store.format.codecs import (
    CODECS,
    codec,
    codec_of,
    find_codec,
    public_codecs,
    require_public,
)
from ckptlab.store.maintain.repack import repack
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.train.config import load_config
from tests.store.samples import layout_of, same_bits, trajectory, write_run
from tests.trained import train_tiny

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


@pytest.fixture
def own(monkeypatch):
    """Take back what a test registers."""
    for name in ("_entries", "_origins"):
        monkeypatch.setattr(CODECS, name, dict(getattr(CODECS, name)))


@pytest.mark.parametrize(
    "made",
    [
        lambda: numcodecs.Zlib(level=6),
        lambda: (numcodecs.Shuffle(elementsize=4), numcodecs.LZMA(preset=1)),
        lambda: [numcodecs.Blosc(cname="zstd"), numcodecs.GZip(1)],
        lambda: [numcodecs.BZ2(), numcodecs.Zstd(), numcodecs.LZ4()],
    ],
)
def test_a_users_codec_writes_runs_that_need_not_the_user_to_be_read(tmp_path, own, made):
    layout = layout_of(300)
    weights = trajectory(6, layout.parameters)
    codec(name="mine", summary="as small as can be")(made)
    require_public("mine")
    assert "mine" in public_codecs()
    write_run(tmp_path / "a.zarr", weights, layout, block=4, codec="mine")
    del CODECS._entries["mine"]
    stored = open_store(tmp_path / "a.zarr")
    assert stored.attributes["codec"] == "mine"
    assert same_bits(stored.snapshot(50), weights[5])
    assert verify(tmp_path / "a.zarr", deep=True).ok
    with warnings.catch_warnings(action="ignore"):
        array = zarr.open_group(tmp_path / "a.zarr", mode="r")["weights"]
        assert same_bits(array[:, :6], weights.T)


def test_a_damaged_chunk_of_a_users_codec_is_an_error(own):
    codec(name="mine")(lambda: numcodecs.Zlib())
    values = np.arange(20, dtype=np.float32)
    with pytest.raises(ValueError, match="cannot be decompressed"):
        CODECS["mine"].decode(checksummed(b"no stream"), values)
    longer = CODECS["mine"].encode(np.arange(21, dtype=np.float32))
    with pytest.raises(ValueError, match="another length"):
        CODECS["mine"].decode(longer, values)


@pytest.mark.parametrize(
    "made", [lambda: None, lambda: numcodecs.Quantize(2, "f4"), lambda: [numcodecs.Zlib(), "zlib"]]
)
def test_what_a_users_function_must_return_is_told(own, made):
    with pytest.raises(TypeError, match="lossless codecs of bytes: shuffle, blosc"):
        codec(name="mine")(made)


def test_a_codec_is_named_by_module_and_object_from_settings_to_resume(tmp_path, monkeypatch):
    (tmp_path / "compress.py").write_text(
        "import numcodecs\ndef small():\n    return numcodecs.Zlib(level=1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = train_tiny(tmp_path / "a.zarr", "record.codec=compress:small", "train.steps=8")
    assert open_store(path).attributes["codec"] == "compress:small"
    assert repack(path, codec="dense").codec == "dense"
    assert repack(path, codec="compress:small").codec == "compress:small"
    assert verify(path, deep=True).ok
    with pytest.raises(ConfigError, match=r"record\.codec.*densest.*dense"):
        load_config(overrides=["record.codec=densest"])


def test_a_codec_that_only_a_run_names_is_not_imported():
    with pytest.raises(UntrustedNameError, match="--allow"):
        find_codec("os.path:join")
