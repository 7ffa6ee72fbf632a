"""Encode and decode inner chunks: codecs by name, with their Zarr v3 metadata.

A codec is one entry of `CODECS`; its bytes are exactly what Zarr's own pipeline of that metadata
writes and reads (a test compares them), produced without Zarr's overhead.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from ckptlab.errors import unknown_name
from ckptlab.registry import Registry

Array = npt.NDArray[Any]
Bytes = bytes | bytearray | memoryview
Metadata = Mapping[str, Any]

CRC32C: Metadata = {"name": "crc32c"}
LITTLE: Metadata = {"name": "bytes", "configuration": {"endian": "little"}}
BYTES: Metadata = {"name": "bytes"}
INDEX_CODECS: tuple[Metadata, ...] = (LITTLE, CRC32C)


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """One way to store inner chunks.

    Parameters
    ----------
    name : str
        What users write after ``record.codec =``, or an internal name.
    summary : str
        One line for help and docs.
    metadata : tuple of dict
        Zarr v3 codecs, without the checksum, which every codec gets.
    backend : callable
        Makes the object whose ``encode(chunk)`` compresses, from the codec.
    decompress : callable
        ``decompress(backend, data, out)`` fills `out`; returns whether the stream has its length.
    public : bool
        Whether users choose it by name.
    by_step : bool
        Whether a chunk is stored step after step, as it was recorded, and not compressed.
    """

    name: str
    summary: str
    metadata: tuple[Metadata, ...]
    backend: Callable[[Codec], Any]
    decompress: Callable[[Any, bytes, Array], bool]
    public: bool = True
    by_step: bool = False

    @property
    def pipeline(self) -> list[dict[str, Any]]:
        """Zarr v3 codecs of an inner chunk, the checksum last."""
        return [dict(part) for part in (*self.metadata, CRC32C)]

    def encode(self, chunk: Array) -> bytes:
        """Compress one C-contiguous chunk and append its checksum."""
        return checksummed(self.compress(chunk))

    def compress(self, chunk: Array) -> bytes:
        """Compress one C-contiguous chunk."""
        return bytes(_backend(self.name).encode(chunk))

    def decode(self, data: Bytes, out: Array) -> None:
        """Decompress into `out`, which has the chunk's shape and dtype; ValueError if damaged."""
        # numcodecs leaves the rest of `out` as it was where a stream is too short.
        if not self.decompress(_backend(self.name), verified(data), out):
            raise ValueError("a chunk has another length than its metadata says")


def checksum(data: bytes | Array) -> bytes:
    """Return the little-endian crc32c of bytes or of a C-contiguous array."""
    return struct.pack("<I", google_crc32c.value(data))


def checksummed(data: bytes) -> bytes:
    """Append the checksum, as Zarr's crc32c codec does."""
    return data + checksum(data)


def verified(data: Bytes) -> bytes:
    """Return the data without its checksum; ValueError if that is wrong."""
    view = memoryview(data)
    if len(view) < 4:
        raise ValueError("the checksum is missing")
    # The one copy: neither the checksum nor the decoders take a view.
    body = bytes(view[:-4])
    if struct.unpack("<I", view[-4:])[0] != google_crc32c.value(body):
        raise ValueError("the checksum is wrong")
    return body


class _PCodec:
    """pcodec, searching for coarser numbers in disguise only where there may be some.

    The search takes an eighth of the time, and finds nothing in weights that use all their bits;
    what it finds stands in the stream, so that every reader knows.
    """

    def __init__(self, codec: Codec) -> None:
        from numcodecs.pcodec import PCodec

        settings = codec.metadata[0]["configuration"]
        self._searching = PCodec(**settings)
        self._plain = PCodec(**settings, mode_spec="classic")

    def encode(self, chunk: Array) -> Any:
        """Compress float32 numbers."""
        return (self._plain if _uses_all_bits(chunk) else self._searching).encode(chunk)


def _uses_all_bits(chunk: Array) -> bool:
    """Return whether most of a sample have more bits than float16 and bfloat16 hold."""
    sample = chunk.reshape(-1)[::61].view(np.uint32)
    return bool(2 * np.count_nonzero(sample & 0x1FFF) > len(sample))


def _decode_pcodec(_: Any, body: bytes, out: Array) -> bool:
    from pcodec import standalone

    progress = standalone.simple_decompress_into(body, out.reshape(-1))
    return bool(progress.n_processed == out.size and progress.finished)


def _blosc(codec: Codec) -> Any:
    from numcodecs.blosc import Blosc

    settings = dict(codec.metadata[1]["configuration"])
    del settings["typesize"]
    return Blosc(**{**settings, "shuffle": Blosc.SHUFFLE})


def _decode_blosc(backend: Any, body: bytes, out: Array) -> bool:
    # Byte 4 of the header on: the length of what is compressed.
    if len(body) < 16 or struct.unpack_from("<I", body, 4)[0] != out.nbytes:
        return False
    backend.decode(body, out=out)
    return True


class _Raw:
    """The numbers themselves, step after step."""

    def __init__(self, _: Codec) -> None:
        pass

    def encode(self, chunk: Array) -> bytes:
        """Copy them."""
        return chunk.T.tobytes()


def _decode_raw(_: Any, body: bytes, out: Array) -> bool:
    if len(body) != out.nbytes:
        return False
    np.copyto(out, np.frombuffer(body, out.dtype).reshape(out.shape[::-1]).T)
    return True


def _zstd(codec: Codec) -> Any:
    from numcodecs.zstd import Zstd

    return Zstd(**codec.metadata[1]["configuration"])


def _decode_zstd(backend: Any, body: bytes, out: Array) -> bool:
    if _zstd_length(body) != out.nbytes:
        return False
    backend.decode(body, out=out)
    return True


def _zstd_length(body: bytes) -> int | None:
    """Read the content size from a frame's header (RFC 8878, 3.1.1.1); None if it has none."""
    if len(body) < 5 or body[:4] != b"\x28\xb5\x2f\xfd":
        return None
    size_flag, single, dictionary = body[4] >> 6, body[4] >> 5 & 1, body[4] & 3
    width = (single, 2, 4, 8)[size_flag]
    start = 5 + (not single) + (0, 1, 2, 4)[dictionary]
    if not width or len(body) < start + width:
        return None
    return int.from_bytes(body[start : start + width], "little") + (256 if width == 2 else 0)


def _pcodec(order: int) -> Metadata:
    # Order 0 rather than delta_spec "none", which numcodecs names and pcodec 1.x no longer has.
    delta = {"delta_spec": "try_consecutive", "delta_encoding_order": order}
    return {"name": "numcodecs.pcodec", "configuration": {"level": 8, **delta}}


_BLOSC: Metadata = {
    "name": "blosc",
    "configuration": {
        "typesize": 4,
        "cname": "lz4",
        "clevel": 5,
        "shuffle": "shuffle",
        "blocksize": 0,
    },
}
_ZSTD: Metadata = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}


def _adapt(name: str, found: Any) -> Codec:
    """Take the codec that an entry point or ``module:object`` names."""
    if not isinstance(found, Codec):
        raise TypeError(f"{found!r:.80} is not a ckptlab.store.format.codecs.Codec")
    if found.name != name:
        raise ValueError(f"the codec is called {found.name!r}; give it the name {name!r}")
    return found


_OWN = (
    Codec(
        name="dense",
        summary="pcodec with deltas of order 2: smallest, about 1.7x on weights",
        # Order 2: momentum makes weights move nearly in straight lines.
        metadata=(_pcodec(2),),
        backend=_PCodec,
        decompress=_decode_pcodec,
    ),
    Codec(
        name="fast",
        summary="blosc lz4 with byte shuffle: about four times cheaper, 1.3x on weights",
        metadata=(LITTLE, _BLOSC),
        backend=_blosc,
        decompress=_decode_blosc,
    ),
    Codec(
        name="raw",
        summary="not compressed: what a short step can afford, to be repacked afterwards",
        # Turning a block over would cost more than its checksum.
        metadata=({"name": "transpose", "configuration": {"order": [1, 0]}}, LITTLE),
        backend=_Raw,
        decompress=_decode_raw,
        by_step=True,
    ),
    Codec(
        name="dense-single",
        summary="pcodec without deltas, for arrays of one step a chunk",
        metadata=(_pcodec(0),),
        backend=_PCodec,
        decompress=_decode_pcodec,
        public=False,
    ),
    Codec(
        name="zstd",
        summary="zstd of the little-endian bytes, for everything that is not float32",
        metadata=(LITTLE, _ZSTD),
        backend=_zstd,
        decompress=_decode_zstd,
        public=False,
    ),
)

CODECS: Registry[Codec] = Registry("codec", _OWN, adapt=_adapt, group="ckptlab.codecs")

PUBLIC_CODECS = tuple(codec.name for codec in _OWN if codec.public)
"""The built-in codecs that users choose from, the densest first and the cheapest last."""


def public_codecs() -> tuple[str, ...]:
    """Return the names that users choose from, those of installed packages included."""
    return tuple(name for name, codec in CODECS.items() if codec.public)


def find_codec(name: str) -> Codec:
    """Look a codec up; UnknownNameError lists the public ones."""
    if not CODECS.knows(name):
        raise unknown_name("codec", name, public_codecs())
    return CODECS.find(name, "record.codec")


def require_public(name: str) -> None:
    """Raise UnknownNameError, which lists them, unless it is a codec that users choose."""
    if not CODECS.knows(name) or not CODECS.find(name, "record.codec").public:
        raise unknown_name("codec", name, public_codecs())


def codec_of(pipeline: list[Any]) -> Codec | None:
    """Find the codec whose pipeline stands in an array's metadata; None if there is none."""
    # Entry points are loaded only where none of our own fits.
    found = next((codec for codec in _OWN if codec.pipeline == pipeline), None)
    return found or next((c for c in CODECS.values() if c.pipeline == pipeline), None)


@functools.cache
def _backend(name: str) -> Any:
    codec = find_codec(name)
    return codec.backend(codec)
