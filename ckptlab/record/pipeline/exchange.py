"""Exchange the parts of a sharded model so that each rank gets whole shards of the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import ConfigError
from ckptlab.record.state.sharding import Indices, Ranges
from ckptlab.record.together import Channel
from ckptlab.store.format.layout import Layout
from ckptlab.store.read.array_reader import StoredArray

WINDOW = 2**20
"""Parameters that are read at once of a run that is resumed."""


@dataclass(frozen=True)
class _Transfer:
    """Stretches of one segment: `places` in a rank's vector, `positions` in the segment."""

    places: Indices
    positions: Indices
    lengths: Indices

    @property
    def size(self) -> int:
        return int(self.lengths.sum())


@dataclass(frozen=True)
class _Round:
    """One exchange: what is sent to each rank, and what comes from each for `segment`, if any."""

    sent: list[_Transfer]
    received: list[_Transfer]
    segment: int
    length: int


class Exchange:
    """Which stretches go from which rank to which, found out once.

    Segment i, the parameters of shard i, is written by rank i modulo ranks: in each round every
    rank gets one. Of parts that several ranks hold, a rank's own is taken where it has one.

    `own` are the ranges of each tensor that this rank holds, `digests` hashes of their values, and
    `size` is the length of a segment. ConfigError, on all ranks, if the parts do not make up the
    whole, or differ where they are copies.
    """

    def __init__(
        self,
        channel: Channel,
        layout: Layout,
        own: Sequence[Ranges],
        digests: Sequence[str],
        size: int,
    ) -> None:
        self._channel = channel
        self._size, self._parameters = size, layout.parameters
        self.ranges = Ranges.join(own)
        told = channel.collect(([(r.starts, r.lengths) for r in own], list(digests)))
        held = [[Ranges(*pair) for pair in pairs] for pairs, _ in told]
        offsets = [np.cumsum([0, *(r.size for r in ranges)]) for ranges in held]
        self._pieces: list[list[tuple[list[int], Ranges]]] = []
        for t, tensor in enumerate(layout.tensors):
            pieces: dict[tuple[bytes, bytes], list[int]] = {}
            for rank, ranges in enumerate(held):
                part = ranges[t]
                pieces.setdefault((part.starts.tobytes(), part.lengths.tobytes()), []).append(rank)
            for first, *others in pieces.values():
                for other in others:
                    if told[first][1][t] != told[other][1][t]:
                        raise ConfigError(
                            f"rank {other} has other values of {tensor.name!r} than rank {first}, "
                            "and both hold the same part of it; begin with the same weights"
                        )
            self._pieces.append([(ranks, held[ranks[0]][t]) for ranks in pieces.values()])
            if sum(part.size for _, part in self._pieces[-1]) != tensor.size:
                raise ConfigError(f"the parts of {tensor.name!r} overlap, or leave some of it out")
        self._offsets = offsets
        self._tensors = layout.offsets
        segments = -(-layout.parameters // size)
        self._rounds = [self._plan(first, segments) for first in range(0, segments, channel.ranks)]

    @property
    def counted(self) -> npt.NDArray[np.bool_]:
        """Whether this rank is the one that counts for its part of each tensor, shape (tensor,)."""
        mine = self._channel.rank
        return np.array([any(r[0] == mine for r, _ in pieces) for pieces in self._pieces], bool)

    def rounds(self, rows: npt.NDArray[np.float32]) -> Iterator[tuple[int, Any] | None]:
        """Yield, for each round, a segment and its rows, shape (steps, its parameters), or None.

        `rows` are of what this rank holds, shape (steps, its parameters).
        """
        steps = len(rows)
        for one in self._rounds:
            sent = np.empty(steps * sum(part.size for part in one.sent), np.float32)
            at = 0
            for part in one.sent:
                block = sent[at : at + steps * part.size].reshape(steps, part.size)
                _copy(rows, part.places, block, _following(part.lengths), part.lengths)
                at += steps * part.size
            counts = [[steps * part.size for part in way] for way in (one.sent, one.received)]
            got = self._channel.exchange(sent, *counts)
            del sent
            if one.segment < 0:
                yield None
                continue
            whole, at = np.empty((steps, one.length), np.float32), 0
            for part in one.received:
                block = got[at : at + steps * part.size].reshape(steps, part.size)
                _copy(block, _following(part.lengths), whole, part.positions, part.lengths)
                at += steps * part.size
            del got
            yield one.segment, whole

    def _plan(self, first: int, segments: int) -> _Round:
        ranks, mine = self._channel.ranks, self._channel.rank
        sent, received = [], [_transfer([]) for _ in range(ranks)]
        for owner in range(ranks):
            chosen = self._sources(first + owner) if first + owner < segments else {}
            sent.append(_transfer(chosen.get(mine, [])))
            if owner == mine:
                received = [_transfer(chosen.get(rank, [])) for rank in range(ranks)]
        segment = first + mine if first + mine < segments else -1
        length = min(self._size, self._parameters - segment * self._size)
        return _Round(sent, received, segment, length)

    def _sources(self, segment: int) -> dict[int, list[tuple[Indices, Indices, Indices]]]:
        """Return, by rank, which stretches of its vector a segment is made of."""
        start = segment * self._size
        stop, owner = start + self._size, segment % self._channel.ranks
        found: dict[int, list[tuple[Indices, Indices, Indices]]] = {}
        first = int(np.searchsorted(self._tensors, start, side="right")) - 1
        for t in range(first, len(self._pieces)):
            if self._tensors[t] >= stop:
                break
            for ranks, part in self._pieces[t]:
                rank = owner if owner in ranks else ranks[segment % len(ranks)]
                starts, places, lengths = part.clip(start, stop)
                if len(starts):
                    places = places + self._offsets[rank][t]
                    found.setdefault(rank, []).append((places, starts - start, lengths))
        return found


def read_ranges(array: StoredArray, columns: slice, ranges: Ranges) -> npt.NDArray[Any]:
    """Read some stretches of a large array at consecutive steps, shape (steps, their elements).

    Only chunks that hold some of them are decoded.
    """
    out = np.empty((columns.stop - columns.start, ranges.size), array.dtype)
    for start in range(0, array.shape[0], WINDOW):
        starts, places, lengths = ranges.clip(start, start + WINDOW)
        if len(starts):
            first, last = int(starts[0]), int(starts[-1] + lengths[-1])
            values = array.read(slice(first, last), columns)
            _copy(values.T, starts - first, out, places, lengths)
    return out


def _transfer(parts: list[tuple[Indices, Indices, Indices]]) -> _Transfer:
    columns = [np.concatenate(c) for c in zip(*parts, strict=True)] if parts else [_NONE] * 3
    return _Transfer(*columns)


_NONE: Indices = np.empty(0, np.int64)


def _following(lengths: Indices) -> Indices:
    return np.cumsum(lengths) - lengths


def _copy(
    source: npt.NDArray[Any],
    starts: Indices,
    target: npt.NDArray[Any],
    places: Indices,
    lengths: Indices,
) -> None:
    """Copy stretches of the last dim: few long ones one by one, many short ones by their index."""
    if not len(lengths):
        return
    if lengths.sum() >= 64 * len(lengths):
        for a, b, n in zip(starts.tolist(), places.tolist(), lengths.tolist(), strict=True):
            target[:, b : b + n] = source[:, a : a + n]
        return
    within = np.arange(lengths.sum()) - np.repeat(_following(lengths), lengths)
    target[:, np.repeat(places, lengths) + within] = source[:, np.repeat(starts, lengths) + within]
