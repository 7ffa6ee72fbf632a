"""Writing large arrays: a block of one encoded into shards, put, and counted.

Imports shards, sheet, arrays and storage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from ckptlab.store.arrays import Document, with_length
from ckptlab.store.shards import EncodeMap, Grid, encode_shard, shard_key
from ckptlab.store.sheet import Sheet
from ckptlab.store.storage import Storage


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
