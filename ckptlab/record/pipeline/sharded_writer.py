"""Commit blocks of a sharded model: every rank writes whole shards, and the first one commits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import WriteError
from ckptlab.record.pipeline.buffers import BY_TENSOR
from ckptlab.record.pipeline.exchange import Exchange
from ckptlab.record.together import Channel
from ckptlab.store.backends.base import Storage
from ckptlab.store.format import schema
from ckptlab.store.format.block import Block, Evaluation, Observations
from ckptlab.store.format.codecs import find_codec
from ckptlab.store.format.digest import segment_digest
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.schema import OBSERVED_SERIES, OPTIMIZER
from ckptlab.store.format.shards import EncodeMap, Grid, shard_key
from ckptlab.store.format.zarr_metadata import ArrayMetadata
from ckptlab.store.read.reader import StoredRun
from ckptlab.store.write.block_writer import BlockWriter
from ckptlab.store.write.writer import StoreWriter

EXTREMES = "observed_extremes"


@dataclass
class _Share:
    """What the first rank is told of a block: digests by segment, sizes of files, sums."""

    digests: dict[int, list[int]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    sums: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    observed: dict[str, npt.NDArray[Any]] = field(default_factory=dict)


@dataclass
class View:
    """What the first rank tells the others of the run as it is opened."""

    attributes: dict[str, Any]
    metadata: dict[str, ArrayMetadata]
    steps: list[int]
    anchors: list[int]
    evaluations: list[int]
    observed: list[int]

    @classmethod
    def of(cls, writer: StoreWriter) -> View:
        """Describe what a writer has committed."""
        stored = writer.stored()
        lists = writer.steps, writer.anchors, writer.evaluations, writer.observed
        return cls(stored.attributes, stored.metadata, *(list(values) for values in lists))


class ShardedWriter:
    """Stands for a `StoreWriter` on every rank; the first one has it as `first`.

    `local` is the tensor table of what this rank holds.
    """

    unsynced = False

    def __init__(
        self,
        storage: Storage,
        first: StoreWriter | None,
        view: View,
        exchange: Exchange,
        channel: Channel,
        layout: Layout,
        local: Layout,
    ) -> None:
        self.attributes = view.attributes
        self.steps, self.anchors = view.steps, view.anchors
        self.evaluations, self.observed = view.evaluations, view.observed
        self.layout = layout
        self.codec = schema.stored_codec(view.metadata, view.attributes["codec"])
        self._metadata = view.metadata
        self._first = first
        self._storage = storage
        self._exchange = exchange
        self._channel = channel
        self._kept = len(view.steps)
        self._blocks = BlockWriter(storage, view.metadata)
        sizes = [[tensor.size for tensor in one.tensors] for one in (local, layout)]
        self._local_sizes, self._sizes = (np.maximum(np.array(s), 1)[:, None] for s in sizes)
        self._counted = exchange.counted[:, None]

    @property
    def block(self) -> int:
        """Steps of a block."""
        return int(self.attributes["block"])

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of all arrays, as the run was opened."""
        return tuple(self._metadata)

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the arrays of numbers that the training loop logged, as the run was opened."""
        return schema.scalar_names(self._metadata)

    @property
    def weight_bytes(self) -> int:
        """Size of the files of `weights`, as far as this rank knows."""
        return self._blocks.weight_bytes if self._first is None else self._first.weight_bytes

    def stored(self) -> StoredRun:
        """Return what was committed as the run was opened."""
        return StoredRun(self._storage, self.attributes, self._metadata)

    def set_codec(self, codec: str) -> None:
        """Change the codec of a run of no steps."""
        if self._first is not None:
            self._first.set_codec(codec)
        self.attributes, self.codec = {**self.attributes, "codec": codec}, find_codec(codec)

    def sync(self) -> None:
        """Do nothing: every commit is synced."""

    def sync_in(self, *, hurry: bool = True) -> float:
        """Return the seconds until what is committed is to be synced."""
        del hurry
        return 0.0

    def everywhere(self, flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Return which flags are set on all ranks."""
        return ~np.array(self._channel.largest((~flags).astype(int).tolist()), bool)

    def write_block(
        self,
        block: Block,
        *,
        map_chunks: EncodeMap | None = None,
        encoded: Callable[[], None] | None = None,
        hurry: bool = True,
    ) -> None:
        """Commit a block of which each rank holds a part, as `StoreWriter.write_block` does."""
        if block.anchor and self.anchors and self.anchors[-1] >= block.anchor.step:
            block = replace(block, anchor=None)
        keys = sorted(block.anchor.states) if block.anchor else None
        if any(others != keys for others in self._channel.collect(keys)):
            raise WriteError("ranks have optimizers of other states; build the same on every rank")
        # What lies past the end goes before others write there.
        self._on_first(lambda first: first.prepare(block))
        shares = self._channel.do(lambda: self._write(block, map_chunks))
        if encoded is not None:
            encoded()
        self._on_first(lambda first: first.write_block(self._join(block, shares), hurry=hurry))
        self.steps[block.start :] = [int(step) for step in block.series["step"]]
        self.anchors += [block.anchor.step] if block.anchor else []

    def write_evaluations(
        self, evaluations: list[Evaluation], observations: Observations | None = None
    ) -> None:
        """Commit evaluations alone, which the first rank made, and observations of all."""
        found = observations or Observations()
        if not found.steps:
            if self._first is not None:
                self._first.write_evaluations(evaluations)
            return
        shares = self._channel.do(lambda: _Share(observed=self._partial(found)))
        self._on_first(
            lambda first: first.write_evaluations(evaluations, self._observed(found, shares))
        )

    def finish(self, state: str) -> None:
        """Trim to what is committed, set the state, release the lock."""
        self._on_first(lambda first: first.finish(state))

    def abandon(self) -> None:
        """Release the lock and leave everything as it is."""
        if self._first is not None:
            self._first.abandon()

    def _on_first(self, work: Callable[[StoreWriter], object]) -> None:
        """Do something on the first rank, which fails on all if it does there."""
        first = self._first
        self._channel.do(lambda: None if first is None else (work(first), None)[1])

    def _grid(self, name: str) -> Grid:
        if not name.startswith(OPTIMIZER):
            metadata = schema.array_metadata(
                self.layout, block=self.block, codec=self.codec, optional=[name]
            )[name]
        else:
            metadata = schema.optimizer_metadata(self.layout.parameters, self.codec)
        return Grid.of(metadata)

    def _write(self, block: Block, map_chunks: EncodeMap | None) -> _Share:
        """Write this rank's shards; what fails does so once all have exchanged everything."""
        share, problem = _Share(), None
        column, position = block.start // self.block, len(self.anchors)
        large = [(name, block.rows[name], column) for name in _LARGE if name in block.rows]
        for key, values in sorted(block.anchor.states.items()) if block.anchor else ():
            large.append((OPTIMIZER + key, values[None], position))
        for name, rows, j in large:
            grid = self._grid(name)
            for found in self._exchange.rounds(rows):
                if found is None or problem is not None:
                    continue
                i, part = found
                try:
                    if name == "weights":
                        share.digests[i] = [segment_digest(row) for row in part]
                    key = shard_key(name, i, j)
                    size = self._blocks.write_shard(key, grid, part, map_chunks)
                    share.sizes |= {key: size} if name == "weights" else {}
                except Exception as error:
                    problem = error
        if problem is not None:
            raise problem
        self._storage.sync()
        for name in BY_TENSOR:
            values = block.series[name].astype(np.float64)
            values = values**2 if name == "gradient_norm" else values * self._local_sizes
            share.sums[name] = np.where(self._counted, values, 0.0)
        share.observed = self._partial(block.observations)
        if self._first is None:
            self._blocks.note_weights(share.sizes)
        return share

    def _partial(self, observations: Observations) -> dict[str, npt.NDArray[Any]]:
        """Return what this rank adds to what was observed."""
        found = {}
        for name, values in observations.arrays.items():
            if name == EXTREMES:
                found[name] = values
            elif name in schema.SUMS:
                found[name] = np.where(self._counted[None], values, 0)
            elif name.removeprefix(OBSERVED_SERIES) in BY_TENSOR:
                exact = values.astype(np.float64)
                exact = exact**2 if name.endswith("_norm") else exact * self._local_sizes
                found[name] = np.where(self._counted, exact, 0.0)
        return found

    def _join(self, block: Block, shares: list[_Share]) -> Block:
        """Return the block as the first rank commits it."""
        digests = np.zeros((schema.segments(self.layout.parameters), block.count), np.uint64)
        for share in shares:
            for i, values in share.digests.items():
                digests[i] = values
        series = dict(block.series)
        # Rows that were there as the run was opened are whole already.
        known = max(self._kept - block.start, 0)
        for name in BY_TENSOR:
            total = self._whole(name, sum(share.sums[name] for share in shares))
            series[name] = np.concatenate([series[name][:, :known], total[:, known:]], axis=1)
        return replace(
            block,
            rows={name: rows for name, rows in block.rows.items() if name not in _LARGE},
            series=series,
            digests=digests,
            sizes={key: size for share in shares for key, size in share.sizes.items()},
            anchor=replace(block.anchor, states={}) if block.anchor else None,
            observations=self._observed(block.observations, shares),
        )

    def _observed(self, observations: Observations, shares: list[_Share]) -> Observations:
        arrays = dict(observations.arrays)
        for name, values in arrays.items():
            parts = [share.observed[name] for share in shares if name in share.observed]
            if name == EXTREMES:
                low, high = (np.stack(parts)[:, i] for i in range(2))
                arrays[name] = np.stack([low.min(axis=0), high.max(axis=0)])
            elif name in schema.SUMS:
                arrays[name] = sum(parts[1:], parts[0]).astype(values.dtype)
            elif parts:
                arrays[name] = self._whole(name.removeprefix(OBSERVED_SERIES), sum(parts))
        return Observations(steps=observations.steps, arrays=arrays)

    def _whole(self, name: str, total: Any) -> npt.NDArray[np.float32]:
        found = np.sqrt(total) if name == "gradient_norm" else total / self._sizes
        return np.ascontiguousarray(found, np.float32)


_LARGE = ("weights", "gradients")
"""Arrays of which each rank holds a part."""
