"""Copy past the caches: what is recorded is read much later, and training needs the caches.

An ordinary store first reads the line that it is to overwrite, and drives the weights of the next
update out of the cache; a streaming ("non-temporal") store does neither.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

WORD = 4
"""What is copied is a number of words of so many bytes, and begins at one."""

_LANES = 8
_LINE = np.uintp(_LANES * WORD)
_ONE, _WORD, _MANY = np.uintp(1), np.uintp(WORD), np.uintp(_LANES)


def _store(lanes: int) -> Any:
    """Make the function that copies so many words from an address to another; several stream."""

    def make(typing: Any, to: Any, source: Any) -> Any:
        del typing, to, source

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            del signature
            word = ir.IntType(8 * WORD)
            pointer = (word if lanes == 1 else ir.VectorType(word, lanes)).as_pointer()
            place, origin = (builder.inttoptr(value, pointer) for value in values)
            loaded = builder.load(origin, align=WORD)
            stored = builder.store(loaded, place, align=lanes * WORD)
            if lanes > 1:
                node = builder.module.add_metadata([ir.IntType(32)(1)])
                stored.set_metadata("nontemporal", node)
            return context.get_dummy_value()

        return types.none(types.uintp, types.uintp), generate

    return intrinsic(make)


def _make_fence(typing: Any) -> Any:
    """Make what is streamed visible to whoever is handed the memory, in whatever thread."""
    del typing

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        del signature, values
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), generate


_put_word: Any = _store(1)
_stream_line: Any = _store(_LANES)
_fence: Any = intrinsic(_make_fence)


@numba.njit(nogil=True, cache=True)
def _copy(to: Any, source: Any, words: Any) -> None:
    done = np.uintp(0)
    while done < words and (to + _WORD * done) % _LINE != 0:
        _put_word(to + _WORD * done, source + _WORD * done)
        done += _ONE
    while done + _MANY <= words:
        _stream_line(to + _WORD * done, source + _WORD * done)
        done += _MANY
    while done < words:
        _put_word(to + _WORD * done, source + _WORD * done)
        done += _ONE


@numba.njit(nogil=True, cache=True)
def gather_at(to: Any, sources: npt.NDArray[np.uintp], words: npt.NDArray[np.uintp]) -> None:
    """Copy stretches of memory to address `to`, one behind the other; lengths are in words."""
    for i in range(len(sources)):
        _copy(to, sources[i], words[i])
        to += _WORD * words[i]
    _fence()


@numba.njit(nogil=True, cache=True)
def _copy_rows(
    to: Any, to_stride: Any, source: Any, source_stride: Any, rows: Any, words: Any
) -> None:
    for i in range(rows):
        _copy(to + np.uintp(i * to_stride), source + np.uintp(i * source_stride), words)
    _fence()


def copy_rows(to: npt.NDArray[Any], source: npt.NDArray[Any]) -> None:
    """Copy a two-dimensional array to another of the same type.

    Rows that are contiguous, of elements of a multiple of `WORD` bytes, are streamed; others are
    copied as NumPy does.
    """
    size = to.itemsize
    rows, columns = source.shape
    if to.shape != source.shape or to.dtype != source.dtype:
        raise ValueError(f"{source.dtype} {source.shape} does not go into {to.dtype} {to.shape}")
    if not source.size or size % WORD or {to.strides[1], source.strides[1]} != {size}:
        np.copyto(to, source)
        return
    _copy_rows(
        np.uintp(to.ctypes.data),
        np.intp(to.strides[0]),
        np.uintp(source.ctypes.data),
        np.intp(source.strides[0]),
        rows,
        np.uintp(columns * size // WORD),
    )
