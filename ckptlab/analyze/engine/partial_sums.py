"""Partial results of one pass, and how two of them combine. This is what runs in dask tasks.

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

from ckptlab.analyze.engine.blocks import Block

Array = npt.NDArray[Any]


class Plan(NamedTuple):
    """What the kernel is told of a chunk.

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
    _plans: dict[tuple[int, int], Plan] = field(default_factory=dict, repr=False)

    def plan(self, start: int, stop: int) -> Plan:
        """Return what the kernel is told of a chunk."""
        # Every block asks for the same; tasks in threads share what one of them found.
        if (start, stop) not in self._plans:
            self._plans[start, stop] = self._plan(start, stop)
        return self._plans[start, stop]

    def _plan(self, start: int, stop: int) -> Plan:
        group = self.group[start:stop]
        order = np.flatnonzero(group >= 0).astype(np.int32)
        found = group[order]
        if (np.diff(found) < 0).any():
            order = order[np.argsort(found, kind="stable")]
            found = group[order]
        edges = np.flatnonzero(np.diff(found, prepend=-1, append=-1))
        segments = [(found[a], a, b) for a, b in pairwise(edges)]
        references = np.ascontiguousarray(self.references[:, start:stop])
        return Plan(order, np.array(segments, np.int64).reshape(-1, 3), references)


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
class Piece:
    """Sums over a stretch of parameters, for the wanted steps of a stretch of recorded steps.

    Parameters
    ----------
    start, stop : int
        The recorded steps covered, by position.
    columns : ndarray of int64, shape (wanted,)
        Those of them that sums are kept for.
    sums, products, counts, extremes : ndarray, shape (fields, groups, wanted)
        As `kernel.accumulate` makes them.
    nan : ndarray of int64, shape (groups, wanted)
        Number of weights that are NaN.
    first, last : ndarray of float32, shape (rows,)
        The snapshots at `start` and at `stop` − 1.
    spots : dict of int to NaNSpot
        By tensor.
    """

    start: int
    stop: int
    columns: npt.NDArray[np.int64]
    sums: Array
    products: Array
    counts: Array
    extremes: Array
    nan: Array
    first: Array
    last: Array
    spots: dict[int, NaNSpot] = field(default_factory=dict)


class Accumulator:
    """The sums of one task while it visits its blocks.

    Parameters
    ----------
    stretch : Stretch
        The parameters.
    columns : int
        Recorded steps of all its blocks.
    """

    def __init__(self, stretch: Stretch, columns: int) -> None:
        from ckptlab.analyze.engine.kernel import COUNTS, PRODUCTS, SUMS

        references, rows = stretch.references.shape
        shape = (stretch.groups, columns)
        self.stretch = stretch
        self.sums = np.zeros((SUMS + references, *shape))
        signed = PRODUCTS + references if stretch.products else 0
        self.products = np.zeros((signed, *shape))
        self.counts = np.zeros((COUNTS + references, *shape), np.int64)
        self.extremes = np.empty((2, *shape), np.float32)
        self.extremes[0] = np.inf
        self.extremes[1] = -np.inf
        self.nan = np.zeros(shape, np.int64)
        self.nan_by_tensor: dict[int, npt.NDArray[np.int64]] = {}
        self.carry = np.zeros(rows, np.float32)
        self.first = np.zeros(rows, np.float32)

    def visit(self, row: int, chunk: Array, column: int, width: int) -> None:
        """Add `width` steps of a chunk whose first row is `row` and first step is `column`."""
        from ckptlab.analyze.engine.kernel import LANES, accumulate

        stop = min(row + len(chunk), len(self.carry))
        plan = self.stretch.plan(row, stop)
        carry = self.carry[row:stop]
        if column == 0:
            self.first[row:stop] = chunk[: stop - row, 0]
        for offset in range(0, width, LANES):
            count = min(LANES, width - offset)
            part = slice(column + offset, column + offset + count)
            accumulate(
                chunk,
                offset,
                count,
                *plan,
                carry,
                self.sums[:, :, part],
                self.products[:, :, part],
                self.counts[:, :, part],
                self.extremes[:, :, part],
            )
        if np.isnan(self.sums[0, :, column : column + width]).any():
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
        stop = start + self.sums.shape[2]
        columns = wanted[(wanted >= start) & (wanted < stop)]
        kept = columns - start
        spots = {}
        for tensor, found in self.nan_by_tensor.items():
            cells = np.flatnonzero(found[kept])
            if len(cells):
                first, last = (int(columns[cells[k]]) for k in (0, -1))
                spots[tensor] = NaNSpot(first, last, int(found[kept].sum()))
        return Piece(
            start,
            stop,
            columns,
            self.sums[:, :, kept],
            self.products[:, :, kept],
            self.counts[:, :, kept],
            self.extremes[:, :, kept],
            self.nan[:, kept],
            self.first,
            self.carry,
            spots,
        )


def measure(
    blocks: Iterable[Block],
    widths: list[int],
    start: int,
    wanted: npt.NDArray[np.int64],
    stretch: Stretch,
) -> Piece:
    """Visit consecutive blocks of one stretch of parameters, each chunk once.

    Parameters
    ----------
    blocks : iterable of Block
        In the order of steps.
    widths : list of int
        Recorded steps of each.
    start : int
        Position of the first recorded step.
    wanted : ndarray of int64
        Positions to keep sums for.
    stretch : Stretch
        The parameters.

    Returns
    -------
    Piece
        Its first step knows no step before it.
    """
    accumulator = Accumulator(stretch, sum(widths))
    column = 0
    for block, width in zip(blocks, widths, strict=True):
        for row, chunk in block.chunks():
            accumulator.visit(row, chunk, column, width)
        column += width
    return accumulator.piece(start, wanted)


def join(left: Piece, right: Piece, stretch: Stretch) -> Piece:
    """Put two pieces of the same parameters together along steps.

    Parameters
    ----------
    left, right : Piece
        `right` holds later steps.
    stretch : Stretch
        The parameters.

    Returns
    -------
    Piece
        If the two touch, the first step of `right` is compared with the last of `left`.
    """
    if left.stop == right.start and right.start in right.columns[:1]:
        right = _with_border(left.last, right, stretch)
    return Piece(
        left.start,
        right.stop,
        np.concatenate([left.columns, right.columns]),
        np.concatenate([left.sums, right.sums], axis=2),
        np.concatenate([left.products, right.products], axis=2),
        np.concatenate([left.counts, right.counts], axis=2),
        np.concatenate([left.extremes, right.extremes], axis=2),
        np.concatenate([left.nan, right.nan], axis=1),
        left.first,
        right.last,
        merge_spots(left.spots, right.spots),
    )


def add(left: Piece, right: Piece) -> Piece:
    """Put two pieces of the same steps together along parameters.

    Parameters
    ----------
    left, right : Piece
        Complete along steps: their border snapshots are dropped.

    Returns
    -------
    Piece
        Sums over the parameters of both.
    """
    none = np.zeros(0, np.float32)
    low = np.minimum(left.extremes[0], right.extremes[0])
    high = np.maximum(left.extremes[1], right.extremes[1])
    return replace(
        left,
        sums=left.sums + right.sums,
        products=left.products + right.products,
        counts=left.counts + right.counts,
        extremes=np.stack([low, high]),
        nan=left.nan + right.nan,
        first=none,
        last=none,
        spots=merge_spots(left.spots, right.spots),
    )


def _with_border(before: Array, piece: Piece, stretch: Stretch) -> Piece:
    from ckptlab.analyze.engine.join_kernel import compare

    order, segments, _ = stretch.plan(0, len(before))
    distance, product = np.zeros((2, stretch.groups))
    flips = np.zeros(stretch.groups, np.int64)
    compare(before, piece.first, order, segments, distance, product, flips)
    sums, products, counts = piece.sums.copy(), piece.products.copy(), piece.counts.copy()
    sums[CHANGE, :, 0] = distance
    if stretch.products:
        products[PRODUCT, :, 0] = product
    counts[FLIPS, :, 0] = flips
    return replace(piece, sums=sums, products=products, counts=counts)


CHANGE = 2
"""Position of Σ(w−w_prev)² among the sums."""

PRODUCT = 1
"""Position of Σw·w_prev among the products."""

FLIPS = 1
"""Position of the flips since the previous step among the counts."""


def merge_spots(left: dict[int, NaNSpot], right: dict[int, NaNSpot]) -> dict[int, NaNSpot]:
    """Put the spots of two pieces together, by tensor."""
    merged = dict(left)
    for tensor, spot in right.items():
        merged[tensor] = merged[tensor].merge(spot) if tensor in merged else spot
    return merged


def spots_of(tensors: npt.NDArray[np.integer[Any]], position: int) -> dict[int, NaNSpot]:
    """Describe NaN at one recorded step, given the tensor of each."""
    found, counts = np.unique(tensors, return_counts=True)
    return {
        int(tensor): NaNSpot(position, position, int(count))
        for tensor, count in zip(found, counts, strict=True)
    }
