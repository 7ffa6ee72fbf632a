"""The data of a run that is being written: blocks, evaluations, and the markers of both.

The writer decides in which order they are put.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.store.backends.base import Storage
from ckptlab.store.format import schema
from ckptlab.store.format.block import Anchor, Block, Evaluation
from ckptlab.store.format.digest import snapshot_digest
from ckptlab.store.format.shard_buffer import Sheet
from ckptlab.store.format.shards import EncodeMap, Grid, encode_shard, shard_key
from ckptlab.store.format.small_arrays import GrowingArray
from ckptlab.store.format.zarr_metadata import STEP_AXES, Document, with_length


class ShardWriter:
    """Puts the shards of one run.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    documents : mapping of str to dict
        Metadata of the arrays; looked up at every write.

    Attributes
    ----------
    map_chunks : callable or None
        Like `map`; encodes the chunks of a shard on several cores.
    """

    def __init__(self, storage: Storage, documents: Mapping[str, Document]) -> None:
        self.map_chunks: EncodeMap | None = None
        self._storage = storage
        self._documents = documents
        self._sheet = Sheet()
        self._weights: dict[str, int] = {}

    @property
    def weight_bytes(self) -> int:
        """Size of the files of `weights`."""
        return sum(self._weights.values())

    def write(
        self,
        name: str,
        rows: npt.NDArray[Any],
        column: int,
        encoded: Callable[[], None] | None = None,
    ) -> None:
        """Put a block.

        Parameters
        ----------
        name : str
            Of the array.
        rows : ndarray, shape (steps, param)
            As recorded.
        column : int
            Position of the block.
        encoded : callable, optional
            Called once all of it is encoded; the last of it is yet to be put.
        """
        grid = Grid.of(self._documents[name])
        for i in range(grid.shard_grid[0]):
            key = shard_key(name, i, column)
            data = encode_shard(rows, grid, i, self.map_chunks, self._sheet)
            if encoded is not None and i == grid.shard_grid[0] - 1:
                encoded()
            self._storage.put(key, [data])
            if name == "weights":
                self._weights[key] = len(data)

    def count(self, steps: int) -> None:
        """Look up the sizes of the files of `weights` that hold the first `steps` steps."""
        document = with_length(self._documents["weights"], {"step": steps})
        kept = {key for key, _, _ in Grid.of(document).keys("weights")}
        listed = self._storage.list("weights").items()
        self._weights = {key: size for key, size in listed if key in kept}


SERIES = schema.SERIES

Objects = dict[str, list[bytes]]


class Contents:
    """Puts the data of one run.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    documents : mapping of str to dict
        Metadata of the arrays; looked up at every write.

    Attributes
    ----------
    shards : ShardWriter
        Puts the large arrays.
    """

    def __init__(self, storage: Storage, documents: Mapping[str, Document]) -> None:
        self.shards = ShardWriter(storage, documents)
        self._storage = storage
        self._documents = documents
        self._growing: dict[str, GrowingArray] = {}

    def open(self, lengths: Mapping[str, int]) -> None:
        """Go on behind these lengths of the step axes; what lies past them is forgotten."""
        self._growing = {
            name: GrowingArray(self._storage, name, self._documents[name], lengths[series.axis])
            for name, series in SERIES.items()
            if name in self._documents
        }
        self.shards.count(lengths["step"])

    def write(
        self,
        block: Block,
        column: int,
        anchors: int,
        evaluations: int,
        encoded: Callable[[], None] | None = None,
    ) -> None:
        """Put everything of a block but what marks its steps and evaluations.

        Parameters
        ----------
        block : Block
            What was recorded.
        column : int
            Its position among the blocks.
        anchors, evaluations : int
            How many there are before it.
        encoded : callable, optional
            Called once the large arrays are encoded, which is nearly all of the work.
        """
        *others, largest = sorted(block.rows, key=lambda name: block.rows[name].nbytes)
        for name in others:
            self.shards.write(name, block.rows[name], column)
        self.shards.write(largest, block.rows[largest], column, encoded)
        objects: Objects = {}
        for name, array in self._growing.items():
            if SERIES[name].axis == "step" and name not in ("step", "digest"):
                values = block.series.get(name, array.blank(block.count))
                objects |= array.changed(block.start, values)
        digests = [snapshot_digest(row) for row in block.rows["weights"]]
        objects |= self._growing["digest"].changed(block.start, np.array(digests, "<u8"))
        objects |= self._evaluations(evaluations, block.evaluations)
        if block.anchor is not None:
            objects |= self._anchor(anchors, block.anchor)
        self._storage.put_all(objects)

    def write_evaluations(self, start: int, evaluations: list[Evaluation]) -> None:
        """Put what was measured, from position `start` on."""
        self._storage.put_all(self._evaluations(start, evaluations))

    def mark(self, axis: str, start: int, steps: Iterable[int]) -> None:
        """Put step numbers on an axis: what they stand for counts from now on."""
        self._growing[axis].write(start, np.array([*steps], "<i8"))

    def put_markers(self) -> None:
        """Put the markers as they are after `open`: fewer, and each synced."""
        for axis in STEP_AXES:
            # Steps first: the others, without them, would be missing from steps that count.
            self._storage.put_all(self._growing[axis].chunk())
            self._storage.sync()

    def _anchor(self, position: int, anchor: Anchor) -> Objects:
        for key, values in anchor.states.items():
            self.shards.write(schema.OPTIMIZER + key, values[None], position)
        row = struct.pack("<Q", len(anchor.row)) + anchor.row
        width = self._documents[schema.OPTIMIZER_ROW]["shape"][0]
        padded = np.frombuffer(row.ljust(width, b"\0"), np.uint8)
        self.shards.write(schema.OPTIMIZER_ROW, padded[None], position)
        # It counts once its step does.
        return self._growing["anchor"].changed(position, np.array([anchor.step], "<i8"))

    def _evaluations(self, start: int, evaluations: list[Evaluation]) -> Objects:
        values = {
            "eval_loss": [e.loss for e in evaluations],
            "eval_accuracy": [e.accuracy for e in evaluations],
        }
        objects: Objects = {}
        for name, column in values.items():
            objects |= self._growing[name].changed(start, np.array(column, "<f8"))
        return objects
