"""Write the data of a run: the shards and chunks of blocks, evaluations, and their markers.

`StoreWriter` decides in which order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.store.backends.base import Storage
from ckptlab.store.format import schema
from ckptlab.store.format.block import Anchor, Block, Evaluation, LazyRows, Observations
from ckptlab.store.format.digest import segment_digest
from ckptlab.store.format.shard_buffer import Sheet
from ckptlab.store.format.shards import EncodeMap, Grid, encode_shard, shard_key
from ckptlab.store.format.small_arrays import GrowingArray
from ckptlab.store.format.zarr_metadata import ArrayMetadata, with_length

Objects = dict[str, list[bytes]]


class BlockWriter:
    """Writes the data of one run; `metadata` of its arrays is looked up at every write."""

    def __init__(self, storage: Storage, metadata: Mapping[str, ArrayMetadata]) -> None:
        self._storage = storage
        self._metadata = metadata
        self._small: dict[str, GrowingArray] = {}
        self._sheet = Sheet()
        self._weight_files: dict[str, int] = {}

    @property
    def weight_bytes(self) -> int:
        """Size of the files of `weights`."""
        return sum(self._weight_files.values())

    def open(self, lengths: Mapping[str, int]) -> None:
        """Continue after these lengths of the step axes; what lies past them is forgotten."""
        self._small = {
            name: GrowingArray(self._storage, name, metadata, lengths[schema.axis(metadata)])
            for name, metadata in self._metadata.items()
            if schema.is_small(metadata)
        }
        self.measure(lengths["step"])

    def add_scalar(self, name: str, steps: int) -> None:
        """Begin an array of numbers that were not logged at the first `steps` steps."""
        array = self._small[name] = GrowingArray(self._storage, name, self._metadata[name])
        array.write(0, array.blank(steps))

    def measure(self, steps: int) -> None:
        """Look up the sizes of the files of `weights` that hold the first `steps` steps."""
        weights = with_length(self._metadata["weights"], {"step": steps})
        kept = {key for key, _, _ in Grid.of(weights).keys("weights")}
        listed = self._storage.list("weights").items()
        self._weight_files = {key: size for key, size in listed if key in kept}

    def write(
        self,
        block: Block,
        column: int,
        *,
        anchors: int,
        evaluations: int,
        observed: int,
        map_chunks: EncodeMap | None = None,
        encoded: Callable[[], None] | None = None,
    ) -> None:
        """Write all of a block but the markers of its steps and evaluations.

        `column` is its position among the blocks; `anchors`, `evaluations` and `observed` count
        those before it. `map_chunks` is like `map` and encodes the chunks of a shard, on several
        cores if it likes. `encoded` is called once the large arrays are encoded: nearly all of the
        work.
        """
        rows: dict[str, npt.NDArray[Any] | LazyRows] = {**block.rows, **block.lazy}
        names = sorted(rows, key=lambda name: rows[name].nbytes)
        for name in names:
            last = encoded if name == names[-1] else None
            self._write_shards(name, rows[name], column, map_chunks, last)
        objects: Objects = {}
        for name, array in self._small.items():
            if schema.axis(self._metadata[name]) == "step" and name not in ("step", "digest"):
                values = block.series.get(name, array.blank(block.count))
                objects |= array.changed(block.start, values)
        self.note_weights(block.sizes)
        digests = self._digests(block, map_chunks)
        objects |= self._small["digest"].changed(block.start, digests)
        objects |= self._evaluation_chunks(evaluations, block.evaluations)
        objects |= self._observation_chunks(observed, block.observations)
        if block.anchor is not None:
            objects |= self._anchor_chunks(anchors, block.anchor, map_chunks)
        self._storage.put_all(objects)

    def write_between(
        self,
        evaluated: int,
        observed: int,
        evaluations: list[Evaluation],
        observations: Observations,
    ) -> None:
        """Write what needs no block, from these positions on."""
        objects = self._evaluation_chunks(evaluated, evaluations)
        self._storage.put_all(objects | self._observation_chunks(observed, observations))

    def mark(self, axis: str, start: int, steps: Iterable[int]) -> None:
        """Write step numbers on an axis, which commits what they stand for."""
        self._small[axis].write(start, np.array([*steps], "<i8"))

    def put_markers(self) -> None:
        """Write the markers as they are after `open`: fewer, and each synced."""
        for axis in schema.step_axes(self._metadata):
            # Steps first: the others, without them, would be missing from committed steps.
            self._storage.put_all(self._small[axis].chunk())
            self._storage.sync()

    def write_shard(
        self, key: str, grid: Grid, part: npt.NDArray[Any], map_chunks: EncodeMap | None = None
    ) -> int:
        """Write one shard from its rows, shape (steps, its parameters); return its size."""
        data = encode_shard(part, grid, 0, map_chunks, self._sheet)
        self._storage.put(key, [data])
        return len(data)

    def note_weights(self, sizes: Mapping[str, int]) -> None:
        """Count files of `weights` that other processes wrote."""
        self._weight_files.update(sizes)

    def _digests(self, block: Block, map_chunks: EncodeMap | None) -> npt.NDArray[np.uint64]:
        """Return the digest of each segment of each row, shape (segment, steps)."""
        if block.digests is not None:
            return block.digests
        if "weights" in block.lazy:
            return block.lazy["weights"].digests()
        rows, grid = block.rows["weights"], Grid.of(self._metadata["weights"])
        size = grid.shard[0]

        def digest(i: int) -> list[int]:
            return [segment_digest(row[i * size : (i + 1) * size]) for row in rows]

        return np.array(list((map_chunks or map)(digest, range(grid.shard_grid[0]))), np.uint64)

    def _write_shards(
        self,
        name: str,
        rows: npt.NDArray[Any] | LazyRows,
        column: int,
        map_chunks: EncodeMap | None,
        encoded: Callable[[], None] | None = None,
    ) -> None:
        """Write a block of a large array, from its rows as recorded, shape (steps, param)."""
        grid = Grid.of(self._metadata[name])
        for i in range(grid.shard_grid[0]):
            key = shard_key(name, i, column)
            if isinstance(rows, LazyRows):
                part = rows.stretch(i * grid.shard[0], (i + 1) * grid.shard[0])
                data = encode_shard(part, grid, 0, map_chunks, self._sheet)
            else:
                data = encode_shard(rows, grid, i, map_chunks, self._sheet)
            if encoded is not None and i == grid.shard_grid[0] - 1:
                encoded()
            self._storage.put(key, [data])
            if name == "weights":
                self._weight_files[key] = len(data)

    def _anchor_chunks(
        self, position: int, anchor: Anchor, map_chunks: EncodeMap | None
    ) -> Objects:
        """Write an anchor's shards; return its marker, which counts once its step does."""
        for key, values in anchor.states.items():
            self._write_shards(schema.OPTIMIZER + key, values[None], position, map_chunks)
        row = struct.pack("<Q", len(anchor.row)) + anchor.row
        width = self._metadata[schema.OPTIMIZER_ROW]["shape"][0]
        padded = np.frombuffer(row.ljust(width, b"\0"), np.uint8)
        self._write_shards(schema.OPTIMIZER_ROW, padded[None], position, map_chunks)
        return self._small["anchor"].changed(position, np.array([anchor.step], "<i8"))

    def _observation_chunks(self, start: int, observations: Observations) -> Objects:
        objects: Objects = {}
        for name, values in observations.arrays.items():
            objects |= self._small[name].changed(start, values)
        return objects

    def _evaluation_chunks(self, start: int, evaluations: list[Evaluation]) -> Objects:
        columns = {
            "eval_loss": [e.loss for e in evaluations],
            "eval_accuracy": [e.accuracy for e in evaluations],
        }
        objects: Objects = {}
        for name, column in columns.items():
            objects |= self._small[name].changed(start, np.array(column, "<f8"))
        return objects
