"""Encode and decode inner chunks: codecs by name, with their Zarr v3 metadata.

A codec is one entry of `CODECS`; its bytes are exactly what Zarr's own pipeline of that metadata
writes and reads (a test compares them), produced without Zarr's overhead.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ckptlab.errors import unknown_name
from ckptlab.registry import Registry, allow, is_reference, name_of
from ckptlab.store.format.checksum import Bytes, checksummed, verified

Array = npt.NDArray[Any]
Metadata = Mapping[str, Any]

CRC32C: Metadata = {"name": "crc32c"}
LITTLE: Metadata = {"name": "bytes", "configuration": {"endian": "little"}}
BYTES: Metadata = {"name": "bytes"}
INDEX_CODECS: tuple[Metadata, ...] = (LITTLE, CRC32C)


@dataclass(frozen=True, kw_only=True)
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

    @functools.cached_property
    def _backend(self) -> Any:
        return self.backend(self)

    def encode(self, chunk: Array) -> bytes:
        """Compress one C-contiguous chunk and append its checksum."""
        return checksummed(self.compress(chunk))

    def compress(self, chunk: Array) -> bytes:
        """Compress one C-contiguous chunk."""
        return bytes(self._backend.encode(chunk))

    def decode(self, data: Bytes, out: Array) -> None:
        """Decompress into `out`, which has the chunk's shape and dtype; ValueError if damaged."""
        # numcodecs leaves the rest of `out` as it was where a stream is too short.
        if not self.decompress(self._backend, verified(data), out):
            raise ValueError("a chunk has another length than its metadata says")


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


_NUMCODECS = ("shuffle", "blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd")
"""Those of numcodecs that compress bytes, lose nothing and that Zarr's readers know."""

_ZARR_NAMES = {f"numcodecs.{name}": name for name in _NUMCODECS}


class _Chain:
    """Compressors of numcodecs, one after the other."""

    def __init__(self, codec: Codec) -> None:
        import numcodecs

        self.parts = [
            numcodecs.get_codec({"id": _ZARR_NAMES[part["name"]], **part["configuration"]})
            for part in codec.metadata[1:]
        ]

    def encode(self, chunk: Array) -> Any:
        """Compress the little-endian bytes."""
        data: Any = chunk.reshape(-1).view(np.uint8)
        for part in self.parts:
            data = part.encode(data)
        return data


def _decode_chain(chain: _Chain, body: Any, out: Array) -> bool:
    try:
        for part in reversed(chain.parts):
            body = part.decode(body)
    except Exception as error:  # each compressor has errors of its own
        raise ValueError(f"a chunk cannot be decompressed: {error}") from error
    values = np.frombuffer(body, np.uint8)
    if values.nbytes != out.nbytes:
        return False
    np.copyto(out, values.view(out.dtype).reshape(out.shape))
    return True


def _chain(name: str, summary: str, metadata: Sequence[Metadata]) -> Codec:
    parts = (LITTLE, *metadata)
    return Codec(
        name=name, summary=summary, metadata=parts, backend=_Chain, decompress=_decode_chain
    )


Function = TypeVar("Function", bound=Callable[[], Any])


def codec(*, name: str | None = None, summary: str = "") -> Callable[[Function], Function]:
    """Register how snapshots are compressed: ``-S record.codec=NAME``, ``repack --codec NAME``.

    Parameters
    ----------
    name : str, optional
        What users write; by default the function's name with dashes.
    summary : str
        One line of documentation; the docstring's first by default.

    Returns
    -------
    decorator
        Returns the function unchanged. It takes nothing and returns one or several of numcodecs'
        lossless codecs of bytes (Shuffle, Blosc, BZ2, GZip, LZ4, LZMA, Zlib, Zstd), applied in that
        order. Whoever reads the run needs numcodecs, not the function.

    Raises
    ------
    PluginError
        If the name is taken.
    TypeError
        If the function returns anything else.

    Examples
    --------
    >>> @ckptlab.codec()  # doctest: +SKIP
    ... def small_bytes():
    ...     "zlib after a shuffle of bytes."
    ...     return numcodecs.Shuffle(elementsize=4), numcodecs.Zlib(level=9)
    """

    def register(function: Function) -> Function:
        return CODECS.decorate(function, _user_codec(name or name_of(function), function, summary))

    return register


def _user_codec(name: str, function: Callable[[], Any], summary: str = "") -> Codec:
    """Make the codec of what a user's function returns."""
    made = function()
    parts = made if isinstance(made, (list, tuple)) else [made]
    for part in parts:
        if getattr(part, "codec_id", None) not in _NUMCODECS:
            raise TypeError(
                f"{part!r:.80} is not one of numcodecs' lossless codecs of bytes: "
                + ", ".join(_NUMCODECS)
            )
    configurations = [part.get_config() for part in parts]
    metadata = [
        {"name": f"numcodecs.{configuration.pop('id')}", "configuration": configuration}
        for configuration in configurations
    ]
    return _chain(name, summary or (function.__doc__ or "").partition("\n")[0], metadata)


def _adapt(name: str, found: Any) -> Codec:
    """Take the codec that an entry point or ``module:object`` names."""
    entry = CODECS.entry_of(found) or found
    if isinstance(entry, Codec):
        return replace(entry, name=name)
    if not callable(entry):
        raise TypeError(f"{found!r:.80} is not a function that returns codecs of numcodecs")
    return _user_codec(name, entry)


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

OWN_CODECS = frozenset(codec.name for codec in _OWN)

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
    """Raise UnknownNameError, which lists them, unless a user may choose the codec they named."""
    if is_reference(name):
        allow(name)
    if not CODECS.knows(name) or not CODECS.find(name, "record.codec").public:
        raise unknown_name("codec", name, public_codecs())


def codec_of(pipeline: list[Any], name: str = "stored") -> Codec | None:
    """Find the codec whose pipeline stands in an array's metadata; None if there is none.

    One that is not our own is made of the metadata, under the given name: reading a run takes no
    code of whoever recorded it.
    """
    found = next((codec for codec in _OWN if codec.pipeline == pipeline), None)
    if found is not None:
        return found
    parts = pipeline[1:-1]
    ends = [pipeline[0], pipeline[-1]] if parts else []
    if ends == [LITTLE, CRC32C] and all(part["name"] in _ZARR_NAMES for part in parts):
        return _chain(name, "", parts)
    return next((c for c in CODECS.values() if c.pipeline == pipeline), None)
