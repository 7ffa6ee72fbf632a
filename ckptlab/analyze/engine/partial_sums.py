"""Sum one stretch of parameters, and combine such pieces. This is what runs in dask tasks.

A piece covers a stretch of parameters and of consecutive recorded steps. Pieces form a monoid:
`join` puts two together along steps, `add` along parameters. Each block is decoded once: what the
first step of a piece needs of the step before it is kept at the border, as two snapshots.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.engine.blocks import Block, take_snapshots
from ckptlab.analyze.engine.fields import PREVIOUS, Key, combine, empty_arrays, keys
from ckptlab.analyze.engine.selection import Rows

Array = npt.NDArray[Any]


class Layout(NamedTuple):
    """What the kernel needs to know of a chunk.

    Parameters
    ----------
    order : ndarray of int32, shape (selected,)
        Selected rows, those of a group together.
    segments : ndarray of int64, shape (segments, 3)
        Group, and the stretch of `order` that belongs to it.
    references : ndarray of float32, shape (references, rows)
        Snapshots to compare with.
    """

    order: npt.NDArray[np.int32]
    segments: npt.NDArray[np.int64]
    references: npt.NDArray[np.float32]


@dataclass(frozen=True)
class NaNSpot:
    """Where a tensor has NaN: positions of the first and last step, how many values in all."""

    first: int
    last: int
    values: int

    def merge(self, other: NaNSpot) -> NaNSpot:
        """Put two stretches of steps or parameters together."""
        return NaNSpot(
            min(self.first, other.first), max(self.last, other.last), self.values + other.values
        )


@dataclass(frozen=True)
class Stretch:
    """What every task on one stretch of parameters needs.

    Parameters
    ----------
    group : ndarray of int32, shape (rows,)
        Group of each weight, −1 where it is not selected.
    tensor : ndarray of int32, shape (rows,)
        Tensor of each weight, to name those with NaN.
    references : ndarray of float32, shape (references, rows)
        Snapshots to compare with.
    groups : int
        Number of groups.
    products : bool
        Whether signed sums (Σw, Σw·w_prev, Σw·r) are wanted.
    """

    group: npt.NDArray[np.int32]
    tensor: npt.NDArray[np.int32]
    references: npt.NDArray[np.float32]
    groups: int
    products: bool = False
    _layouts: dict[tuple[int, int], Layout] = field(default_factory=dict, repr=False)

    def layout(self, start: int, stop: int) -> Layout:
        """Return what the kernel needs to know of a chunk."""
        # Every block asks for the same; tasks in threads share what one of them found.
        if (start, stop) not in self._layouts:
            self._layouts[start, stop] = self._layout(start, stop)
        return self._layouts[start, stop]

    def _layout(self, start: int, stop: int) -> Layout:
        group = self.group[start:stop]
        order = np.flatnonzero(group >= 0).astype(np.int32)
        found = group[order]
        if (np.diff(found) < 0).any():
            order = order[np.argsort(found, kind="stable")]
            found = group[order]
        edges = np.flatnonzero(np.diff(found, prepend=-1, append=-1))
        segments = [(found[a], a, b) for a, b in pairwise(edges)]
        references = np.ascontiguousarray(self.references[:, start:stop])
        return Layout(order, np.array(segments, np.int64).reshape(-1, 3), references)


@dataclass(frozen=True)
class Origin:
    """Sums of one reference snapshot over a stretch, shape (groups,), and its NaN by tensor."""

    total: Array
    square: Array
    nan: npt.NDArray[np.int64]
    tensors: dict[int, int]


@dataclass(frozen=True)
class Piece:
    """Sums over a stretch of parameters, for the wanted steps of a stretch of recorded steps.

    Parameters
    ----------
    start, stop : int
        The recorded steps covered, by position.
    columns : ndarray of int64, shape (wanted,)
        Those of them that sums are kept for.
    sums : dict of Key to ndarray, shape (groups, wanted)
        The fields of `fields.FIELDS`, and ``nan``, the number of weights that are NaN.
    first, last : ndarray of float32, shape (rows,)
        The snapshots at `start` and at `stop` − 1.
    spots : dict of int to NaNSpot
        By tensor.
    """

    start: int
    stop: int
    columns: npt.NDArray[np.int64]
    sums: dict[Key, Array]
    first: Array
    last: Array
    spots: dict[int, NaNSpot] = field(default_factory=dict)


class Accumulator:
    """The sums of one task while it visits its blocks of `columns` recorded steps in all."""

    def __init__(self, stretch: Stretch, columns: int) -> None:
        references, rows = stretch.references.shape
        self.stretch = stretch
        self.arrays = empty_arrays(stretch.groups, columns, references, stretch.products)
        self.magnitude = self.arrays["sums"][0]
        self.nan = np.zeros((stretch.groups, columns), np.int64)
        self.nan_by_tensor: dict[int, npt.NDArray[np.int64]] = {}
        self.carry = np.zeros(rows, np.float32)
        self.first = np.zeros(rows, np.float32)

    def visit(self, row: int, chunk: Array, column: int, width: int) -> None:
        """Add `width` steps of a chunk whose first row is `row` and first step is `column`."""
        from ckptlab.analyze.engine.kernel import accumulate
        from ckptlab.analyze.engine.lanes import LANES

        stop = min(row + len(chunk), len(self.carry))
        layout = self.stretch.layout(row, stop)
        carry = self.carry[row:stop]
        if column == 0:
            self.first[row:stop] = chunk[: stop - row, 0]
        for offset in range(0, width, LANES):
            count = min(LANES, width - offset)
            part = slice(column + offset, column + offset + count)
            arrays = [array[:, :, part] for array in self.arrays.values()]
            accumulate(chunk, offset, count, *layout, carry, *arrays)
        if np.isnan(self.magnitude[:, column : column + width]).any():
            self._find_nan(row, chunk[: stop - row, :width], column)

    def _find_nan(self, row: int, chunk: Array, column: int) -> None:
        rows, columns = np.nonzero(np.isnan(chunk))
        chosen = self.stretch.group[row + rows] >= 0
        rows, columns = rows[chosen], columns[chosen] + column
        np.add.at(self.nan, (self.stretch.group[row + rows], columns), 1)
        tensors = self.stretch.tensor[row + rows]
        for tensor in np.unique(tensors):
            found = np.bincount(columns[tensors == tensor], minlength=self.nan.shape[1])
            before = self.nan_by_tensor.get(int(tensor), 0)
            self.nan_by_tensor[int(tensor)] = before + found

    def piece(self, start: int, wanted: npt.NDArray[np.int64]) -> Piece:
        """Keep the wanted steps; `start` is the position of the first."""
        stop = start + self.nan.shape[1]
        columns = wanted[(wanted >= start) & (wanted < stop)]
        kept = columns - start
        spots = {}
        for tensor, found in self.nan_by_tensor.items():
            cells = np.flatnonzero(found[kept])
            if len(cells):
                first, last = (int(columns[cells[k]]) for k in (0, -1))
                spots[tensor] = NaNSpot(first, last, int(found[kept].sum()))
        references = len(self.stretch.references)
        sums: dict[Key, Array] = {("nan", None): self.nan[:, kept]}
        for name, array in self.arrays.items():
            # Without products their array has no rows.
            sums |= {
                key: row[:, kept] for key, row in zip(keys(name, references), array, strict=False)
            }
        return Piece(start, stop, columns, sums, self.first, self.carry, spots)


def open_stretch(
    rows: Rows,
    references: list[tuple[Block, Array]],
    order: Array,
    groups: int,
    products: bool,
) -> Stretch:
    """Read the reference snapshots of one stretch of parameters.

    `references` are blocks, and which of their steps to read; `order` sorts what is read.
    """
    group = rows.group()
    snapshots = [take_snapshots(block, len(group), columns) for block, columns in references]
    read = np.concatenate(snapshots) if snapshots else np.empty((0, len(group)), np.float32)
    if (order != np.arange(len(order))).any():
        read = read[order]
    return Stretch(group, rows.tensor(), read, groups, products)


def measure_origins(stretch: Stretch) -> list[Origin]:
    """Sum each reference snapshot over a stretch of parameters."""
    return [_origin(stretch, snapshot) for snapshot in stretch.references]


def _origin(stretch: Stretch, snapshot: Array) -> Origin:
    groups = stretch.groups
    total, square = np.zeros(groups), np.zeros(groups)
    for start in range(0, len(snapshot), 2**20):
        part = slice(start, start + 2**20)
        chosen = stretch.group[part] >= 0
        group = stretch.group[part][chosen]
        values = snapshot[part][chosen].astype(float)
        total += np.bincount(group, values, groups)
        square += np.bincount(group, values * values, groups)
    bad = np.flatnonzero(np.isnan(snapshot) & (stretch.group >= 0))
    tensors, counts = np.unique(stretch.tensor[bad], return_counts=True)
    return Origin(
        total,
        square,
        np.bincount(stretch.group[bad], minlength=groups).astype(np.int64),
        dict(zip(tensors.tolist(), counts.tolist(), strict=True)),
    )


def add_origins(left: list[Origin], right: list[Origin]) -> list[Origin]:
    """Put the sums of the same snapshots over two stretches of parameters together."""
    return [
        Origin(
            one.total + other.total,
            one.square + other.square,
            one.nan + other.nan,
            {
                t: one.tensors.get(t, 0) + other.tensors.get(t, 0)
                for t in {**one.tensors, **other.tensors}
            },
        )
        for one, other in zip(left, right, strict=True)
    ]


def measure(
    blocks: Iterable[Block],
    widths: list[int],
    start: int,
    wanted: npt.NDArray[np.int64],
    stretch: Stretch,
) -> Piece:
    """Visit consecutive blocks of one stretch of parameters, each chunk once.

    `widths` are the recorded steps of each block, `start` is the position of the first, `wanted`
    are the positions to keep sums for. The first step knows no step before it.
    """
    accumulator = Accumulator(stretch, sum(widths))
    column = 0
    for block, width in zip(blocks, widths, strict=True):
        for row, chunk in block.chunks():
            accumulator.visit(row, chunk, column, width)
        column += width
    return accumulator.piece(start, wanted)


def join(left: Piece, right: Piece, stretch: Stretch) -> Piece:
    """Put two pieces of the same parameters together, `right` holding the later steps.

    If the two touch, the first step of `right` is compared with the last of `left`.
    """
    if left.stop == right.start and right.start in right.columns[:1]:
        right = _with_border(left.last, right, stretch)
    return Piece(
        left.start,
        right.stop,
        np.concatenate([left.columns, right.columns]),
        {
            key: np.concatenate([values, right.sums[key]], axis=1)
            for key, values in left.sums.items()
        },
        left.first,
        right.last,
        merge_spots(left.spots, right.spots),
    )


def add(left: Piece, right: Piece) -> Piece:
    """Put two pieces of the same steps together along parameters; their borders are dropped."""
    none = np.zeros(0, np.float32)
    return replace(
        left,
        sums={key: combine(key[0], values, right.sums[key]) for key, values in left.sums.items()},
        first=none,
        last=none,
        spots=merge_spots(left.spots, right.spots),
    )


def without_border(piece: Piece) -> Piece:
    """Drop the snapshots that only `join` needs, which are as large as the stretch."""
    none = np.zeros(0, np.float32)
    return replace(piece, first=none, last=none)


def _with_border(before: Array, piece: Piece, stretch: Stretch) -> Piece:
    from ckptlab.analyze.engine.join_kernel import compare

    order, segments, _ = stretch.layout(0, len(before))
    found = {
        "distance": np.zeros(stretch.groups),
        "product": np.zeros(stretch.groups),
        "flips": np.zeros(stretch.groups, np.int64),
    }
    compare(before, piece.first, order, segments, *found.values())
    sums = dict(piece.sums)
    for name, values in found.items():
        key = (name, PREVIOUS)
        if key in sums:
            sums[key] = sums[key].copy()
            sums[key][:, 0] = values
    return replace(piece, sums=sums)


def merge_spots(left: dict[int, NaNSpot], right: dict[int, NaNSpot]) -> dict[int, NaNSpot]:
    """Put the spots of two pieces together, by tensor."""
    merged = dict(left)
    for tensor, spot in right.items():
        merged[tensor] = merged[tensor].merge(spot) if tensor in merged else spot
    return merged
