"""Lay the tensors of several checkpoints out as rows of the store, a stretch at a time."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ckptlab.errors import DataError
from ckptlab.record.convert.tensors import NUMPY, Array, LazyTensor
from ckptlab.store.format.block import LazyRows
from ckptlab.store.format.layout import Buffer, Layout, Tensor
from ckptlab.store.read.reader import StoredRun

State = Mapping[str, LazyTensor]


def array_types(layout: Layout) -> dict[str, tuple[int, np.dtype[np.generic]]]:
    """Return the length and type of each large array that is not empty."""
    sizes = {"weights": layout.parameters, **layout.buffer_sizes}
    return {
        name: (size, np.dtype(name.partition("_")[2] or "float32"))
        for name, size in sizes.items()
        if size
    }


def lazy_rows(
    layout: Layout,
    states: Sequence[tuple[str, State]],
    earlier: StoredRun | None = None,
    start: int = 0,
    progress: Callable[[float], None] | None = None,
) -> dict[str, LazyRows]:
    """Make the rows of a block: those stored already, from column `start` on, then checkpoints.

    `states` are the checkpoints' names and tensors. Each array is read while it is written;
    `progress` is called with the part of the weights that is.
    """
    rows: dict[str, LazyRows] = {}
    for name, (size, dtype) in array_types(layout).items():
        table = [row for row in layout.rows if row.array == name and row.size]
        stored = None if earlier is None else earlier.array(name)
        kept = 0 if earlier is None else len(earlier.steps) - start

        def read(
            first: int,
            stop: int,
            table: Sequence[Tensor | Buffer] = table,
            dtype: np.dtype[np.generic] = dtype,
            stored: object = stored,
            kept: int = kept,
        ) -> Array:
            found = np.empty((kept + len(states), stop - first), dtype)
            if kept:
                found[:kept] = stored[first:stop, start : start + kept].T  # type: ignore[index]
            for slot, (label, state) in enumerate(states, kept):
                _fill(found[slot], table, state, first, label)
            if progress is not None and table[0].array == "weights":
                progress(stop / layout.parameters)
            return found

        rows[name] = LazyRows((kept + len(states), size), dtype.itemsize, read)
    return rows


def _fill(
    out: Array, table: Sequence[Tensor | Buffer], state: State, first: int, label: str
) -> None:
    """Fill the stretch of an array's vector from `first` on, which is `out`."""
    stop = first + len(out)
    at = bisect.bisect_right(table, first, key=lambda row: row.offset) - 1
    for row in table[at:]:
        if row.offset >= stop:
            break
        start, end = max(first, row.offset), min(stop, row.offset + row.size)
        stretch = start - row.offset, end - row.offset
        tensor = state[row.name]
        values = tensor.elements(*stretch)
        for alias in row.aliases:
            other = state[alias]
            if not tensor.same(other) and not _same_bits(values, other.elements(*stretch)):
                raise DataError(
                    f"{label}: tensors {row.name!r} and {alias!r} differ and are one in the first; "
                    "all must be of one model",
                    file=label,
                )
        _convert(values, tensor.dtype, out[start - first : end - first])


def _same_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _convert(values: Array, dtype: str, out: Array) -> None:
    if dtype == "bfloat16":
        np.left_shift(values, 16, out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
    elif NUMPY[dtype] == out.dtype.name:
        out[:] = values
    else:
        # Float16 becomes float32 exactly, what is no number included; float64 is rounded.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            out[:] = values
