"""Read a series once, and keep a few numbers of each tensor at each step.

The numbers are a digest, counts, and a *sketch*: sums over random signs (Charikar, Chen &
Farach-Colton 2002, count sketch), so that the distance of any two snapshots is known to about a
tenth without reading them again. Weights are read a stretch at a time: memory grows by some hundred
bytes a step, not with the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from ckptlab.analyze.health.kernel import LANES, SIGNS, add_stretch, by_step
from ckptlab.analyze.health.series import Series
from ckptlab.errors import ConfigError
from ckptlab.store.format.layout import Tensor

Array = npt.NDArray[Any]

BUCKETS = 61
"""Length of a tensor's sketch: a prime, which no layer's width is a multiple of."""

WHOLE = 251
"""Length of the sketch of a whole snapshot."""

_COPIES = 8
"""Arrays as large as what was read that are held at a time."""
_LEAST = 2**12
"""Weights that are read at once, at least."""

_TILE = 2**14
"""Weights that are looked at together."""

_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(eq=False)
class Numbers:
    """What is kept of a tensor, or of the whole snapshot, each of shape (step, ...).

    `digest` is of the values, with −0 as 0; `changed` counts those that differ from the step
    before; `squares` add up to Σw², `broken` says how many are not finite, `zero_rows` how many
    rows are all zero that were not before.
    """

    name: str
    size: int
    digest: Array
    changed: Array
    sketch: Array
    squares: Array
    broken: Array
    zero_rows: Array
    trainable: bool = True
    kind: str = ""
    dead_rows: int = 0
    rows: int = 0

    @classmethod
    def empty(cls, tensor: Tensor | None, size: int, steps: int, width: int) -> Numbers:
        """Return the numbers before anything was read; of the whole snapshot without a tensor."""
        return cls(
            name=tensor.name if tensor else "",
            size=size,
            digest=np.zeros(steps, np.uint64),
            changed=np.zeros(steps, np.int64),
            sketch=np.zeros((steps, width)),
            squares=np.zeros((steps, LANES)),
            broken=np.zeros(steps, np.int64),
            zero_rows=np.zeros(steps, np.int64),
            trainable=tensor.trainable if tensor else True,
            kind=tensor.kind if tensor else "",
        )

    @property
    def square(self) -> Array:
        """Σw² of each step."""
        return np.asarray(self.squares.sum(axis=1))

    def add(
        self, columns: slice, values: Array, previous: Array, start: int, whole: Numbers, place: int
    ) -> None:
        """Take in a stretch of the values, shape (step, elements), from element `start` on.

        The whole snapshot's sketch takes them in too, from `place` on.
        """
        digests = [xxhash.xxh3_64_intdigest(row) for row in values]
        self.digest[columns] = self.digest[columns] * _MIX + np.array(digests, np.uint64)
        counts = np.zeros((len(values), 2), np.int64)
        sketches = self.sketch[columns], whole.sketch[columns]
        sums = self.squares[columns]
        add_stretch(values, previous, start, place, SIGNS, *sketches, counts, sums)
        self.changed[columns] += counts[:, 0]
        self.broken[columns] += counts[:, 1]

    def add_rows(self, columns: slice, values: Array, row: int, alive: Array | None) -> Array:
        """Take in whole rows of `row` elements; return which have ever been other than zero."""
        nonzero = (values != 0).reshape(len(values), -1, row).any(axis=2)
        before = np.zeros(nonzero.shape[1], bool) if alive is None else alive
        seen = np.logical_or.accumulate(np.vstack([before, nonzero]), axis=0)
        self.zero_rows[columns] += (seen[1:] & ~nonzero).sum(axis=1)
        return np.asarray(seen[-1])


@dataclass(frozen=True)
class _Piece:
    """A stretch of one tensor: elements `start` to `stop` of it, at `rows` of the vector."""

    tensor: int
    start: int
    stop: int
    rows: slice

    def tiles(self, row: int, first: int) -> Iterator[_Tile]:
        """Cut it into whole rows that stay in the cache; `first` is where its window begins."""
        size = row * max(_TILE // row, 1)
        for start in range(self.start, self.stop, size):
            place = self.rows.start - first + start - self.start
            yield _Tile(start, slice(place, place + min(size, self.stop - start)))


class _Tile(NamedTuple):
    """A few rows of a piece: the first element, and its place in the window that was read."""

    start: int
    place: slice


def scan(
    series: Series, memory: int, progress: Callable[[int, int], None] | None = None
) -> Iterator[Numbers]:
    """Yield the numbers of each tensor once it was read, and those of the whole snapshot last.

    Parameters
    ----------
    series : Series
        What to read.
    memory : int
        Bytes that may be held at a time, beside the interpreter.
    progress : callable, optional
        Called with the weights read and all of them.
    """
    steps = len(series.steps)
    total = sum(tensor.size for tensor in series.tensors)
    whole = Numbers.empty(None, total, steps, WHOLE)
    kept = steps * 8 * (BUCKETS + LANES + 7)
    weight = 4 * series.width * _COPIES
    most = memory // weight
    least = 2 * kept + _LEAST * weight
    if memory < least:
        raise ConfigError(
            f"memory of {memory / 2**20:.0f} MiB is too little to look at {steps:,} snapshots; "
            f"give at least {least // 2**20 + 1}MiB",
            parameter="memory",
            fix=f"{least // 2**20 + 1}MiB",
        )
    held: dict[int, Numbers] = {}
    for pieces in _windows(series.tensors, most, max(memory // kept // 2, 1)):
        for piece in pieces:
            if piece.tensor not in held:
                tensor = series.tensors[piece.tensor]
                held[piece.tensor] = Numbers.empty(tensor, tensor.size, steps, BUCKETS)
        _read(series, pieces, held, whole)
        if progress is not None:
            progress(pieces[-1].rows.stop, total)
        for piece in pieces:
            if piece.stop == series.tensors[piece.tensor].size:
                done = held.pop(piece.tensor)
                whole.digest = whole.digest * _MIX + done.digest
                whole.changed += done.changed
                whole.squares += done.squares
                whole.broken += done.broken
                yield done
    yield whole


def _read(series: Series, pieces: list[_Piece], held: dict[int, Numbers], whole: Numbers) -> None:
    """Read the pieces of one window at all steps, a few steps at a time."""
    rows = slice(pieces[0].rows.start, pieces[-1].rows.stop)
    before: Array | None = None
    alive: dict[int, Array] = {}
    for columns, values in _ahead(series, rows):
        previous = values[0] + np.float32(0) if before is None else before
        before = values[-1] + np.float32(0)
        for piece in pieces:
            numbers, tensor = held[piece.tensor], series.tensors[piece.tensor]
            row = tensor.size // tensor.shape[0] if len(tensor.shape) > 1 else 1
            rows_seen: list[Array] = []
            known = alive.get(piece.tensor)
            for part in piece.tiles(row, rows.start):
                tile = by_step(values[:, part.place])
                place = part.place.start + rows.start
                numbers.add(columns, tile, previous[part.place], part.start, whole, place)
                if row > 1 and not (piece.start % row or piece.stop % row):
                    first = (part.start - piece.start) // row
                    count = tile.shape[1] // row
                    earlier = None if known is None else known[first : first + count]
                    rows_seen.append(numbers.add_rows(columns, tile, row, earlier))
            if rows_seen:
                alive[piece.tensor] = np.concatenate(rows_seen)
    for t, seen in alive.items():
        held[t].dead_rows += int((~seen).sum())
        held[t].rows += len(seen)


def _ahead(series: Series, rows: slice) -> Iterator[tuple[slice, Array]]:
    """Yield a few steps at a time; the next are read meanwhile."""
    parts = [
        slice(start, min(start + series.width, len(series.steps)))
        for start in range(0, len(series.steps), series.width)
    ]
    with ThreadPoolExecutor(1, "ckptlab-health") as pool:
        following = pool.submit(series.read, rows, parts[0])
        for number, columns in enumerate(parts, 1):
            values = following.result()
            if number < len(parts):
                following = pool.submit(series.read, rows, parts[number])
            yield columns, values


def _windows(tensors: Any, most: int, together: int) -> Iterator[list[_Piece]]:
    """Cut the vector into windows of at most `most` weights and `together` tensors.

    A tensor that does not fit is cut between its rows where these fit.
    """
    window: list[_Piece] = []
    room = most
    for t, tensor in enumerate(tensors):
        row = tensor.size // tensor.shape[0] if tensor.shape and tensor.size else 1
        at = 0
        while at < tensor.size:
            if window and (len(window) >= together or (tensor.size - at > room and at == 0)):
                yield window
                window, room = [], most
            count = min(tensor.size - at, room)
            if count < tensor.size - at and row <= count:
                count -= count % row
            rows = slice(tensor.offset + at, tensor.offset + at + count)
            window.append(_Piece(t, at, at + count, rows))
            at, room = at + count, room - count
            if at < tensor.size:
                yield window
                window, room = [], most
    if window:
        yield window
