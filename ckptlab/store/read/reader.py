"""Reading a run: what is committed, whole chunks at a time, checked.

`open_store` refuses what it cannot vouch for: metadata whose
digest is wrong, arrays that are not as format 1 says, committed shards that are missing.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import CorruptError, MissingStepError, unknown_name
from ckptlab.store.backends.base import Storage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format import schema
from ckptlab.store.format.block import Anchor
from ckptlab.store.format.constants import read_mask
from ckptlab.store.format.digest import segment_digest
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.shards import Grid, is_sharded, shard_key
from ckptlab.store.format.small_arrays import read_all
from ckptlab.store.format.zarr_metadata import OBSERVED, ArrayMetadata, with_length
from ckptlab.store.read.array_reader import StoredArray, absolute
from ckptlab.store.read.commits import committed_keys, read_markers
from ckptlab.store.read.optimizer_state import ReadColumn, read_anchor
from ckptlab.store.read.power_loss import surviving_lengths
from ckptlab.store.read.root import read_root

if TYPE_CHECKING:
    import xarray as xr

TASK_BYTES = 2**24
"""Decoded bytes of a dask task at most: smaller ones cost more than they decode."""

_ATTEMPTS = 3

__all__ = ["StoredArray", "StoredRun", "open_latest", "open_store", "read_root"]


def open_store(path: str | os.PathLike[str]) -> StoredRun:
    """Open a run for reading, as far as it is committed.

    Parameters
    ----------
    path : str or path-like
        Local path or URL.

    Returns
    -------
    StoredRun
        A view of what is committed now; open it again to see more.

    Raises
    ------
    StoreError
        If there is no run, it was written in a newer format, or it is damaged.
    """
    storage = open_storage(path)
    attributes, metadata = read_root(storage)
    for _ in range(_ATTEMPTS - 1):
        try:
            return StoredRun(storage, attributes, metadata)
        except CorruptError:
            # Who resumes a run, or replaces it, may have cut it meanwhile: damage is what stays.
            seen = attributes["metadata_digest"]
            attributes, metadata = read_root(storage)
            if attributes["metadata_digest"] == seen:
                raise
    return StoredRun(storage, attributes, metadata)


def open_latest(storage: Storage) -> StoredRun:
    """Open a run as far as its markers go, which is where it would be taken up again.

    Parameters
    ----------
    storage : Storage
        Where it lies.

    Returns
    -------
    StoredRun
        At most one block ahead of what `open_store` shows, and only after a crash.

    Raises
    ------
    StoreError
        If there is no run, it was written in a newer format, or it is damaged.
    """
    attributes, metadata = read_root(storage)
    ahead = surviving_lengths(attributes) is None
    lengths = read_markers(storage, metadata, ahead=ahead).lengths()
    latest = {name: with_length(document, lengths) for name, document in metadata.items()}
    return StoredRun(storage, attributes, latest)


class StoredRun:
    """The committed part of one run.

    Parameters
    ----------
    storage : Storage
        Where it lies.
    attributes : dict
        Root attributes.
    metadata : dict of str to dict
        Documents of the arrays.

    Attributes
    ----------
    path : str
        Local path or URL.
    layout : Layout
        The tensor table.
    steps : ndarray of int64, shape (step,)
        Recorded steps, increasing.
    anchors : ndarray of int64, shape (anchor,)
        Steps at which the optimizer's state is stored.
    observed : ndarray of int64, shape (observed_step,), or None
        Steps at which sums over the weights are stored; None where none are.
    """

    def __init__(
        self, storage: Storage, attributes: dict[str, Any], metadata: dict[str, ArrayMetadata]
    ) -> None:
        self.path = storage.path
        self.attributes = attributes
        self.metadata = metadata
        self.layout = Layout.from_attributes(attributes)
        self._storage = storage
        if self.layout.parameters != metadata["weights"]["shape"][0]:
            raise CorruptError(f"{self.path}: the tensor table does not cover `weights`")
        self.steps = self._axis("step")
        self.anchors = self._axis("anchor")
        self.observed = self._axis(OBSERVED) if OBSERVED in metadata else None
        self._require_files(large=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (absolute(self.path), self.attributes, self.metadata)

    @property
    def state(self) -> str:
        """``recording``, ``complete`` or ``interrupted``."""
        return str(self.attributes["state"])

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of all arrays."""
        return tuple(self.metadata)

    @property
    def weights(self) -> StoredArray:
        """Every recorded snapshot, dims (param, step)."""
        return self.array("weights")

    def array(self, name: str) -> StoredArray:
        """Return a large array, such as ``gradients`` or ``buffers``; it can be pickled."""
        large = [n for n, document in self.metadata.items() if is_sharded(document)]
        if name not in large:
            raise unknown_name("array", name, large)
        return StoredArray(self.path, name, self.metadata[name], storage=self._storage)

    def small(self, name: str) -> npt.NDArray[Any]:
        """Read a whole small array, such as ``loss`` (step) or ``gradient_norm`` (tensor, step)."""
        small = [n for n, document in self.metadata.items() if schema.is_small(document)]
        if name not in small:
            raise unknown_name("array", name, small)
        document = self.metadata[name]
        return read_all(self._storage, name, document, document["shape"][-1])

    def mask(self) -> npt.NDArray[np.bool_] | None:
        """Read which weights a sparse training kept, shape (param,); None if it was dense."""
        if schema.MASK not in self.metadata:
            return None
        return read_mask(self._storage, self.layout, self.attributes)

    def column(self, step: int) -> int:
        """Return the position of a recorded step; MissingStepError names the nearest."""
        position = int(np.searchsorted(self.steps, step))
        if position < len(self.steps) and self.steps[position] == step:
            return position
        if not len(self.steps):
            raise MissingStepError(f"step {step} was not recorded; {self.path} holds no step yet")
        nearest = int(self.steps[np.argmin(np.abs(self.steps - step))])
        raise MissingStepError(
            f"step {step} was not recorded; recorded: {len(self.steps)} steps from "
            f"{self.steps[0]} to {self.steps[-1]}. Use step={nearest}, the nearest."
        )

    def snapshot(self, step: int, array: str = "weights") -> npt.NDArray[Any]:
        """Read one snapshot.

        Parameters
        ----------
        step : int
            A recorded step.
        array : str
            A large array over the steps.

        Returns
        -------
        ndarray, shape (param,)
            The parameter vector, or the buffer vector.

        Raises
        ------
        CorruptError
            If it is damaged, or weights are not those whose digest was stored.
        """
        column = self.column(step)
        # The digest tells as much as checksums do.
        values = self.array(array).read_column(column, check=array != "weights")
        if array == "weights":
            size = self.weights.shard[0]
            for i, expected in enumerate(self._digests[:, column].tolist()):
                if segment_digest(values[i * size : (i + 1) * size]) != expected:
                    key = shard_key(array, i, column // self.weights.shard[1])
                    raise CorruptError(
                        f"{self.path}/{key}: the weights of step {step} have another digest than "
                        "was recorded; run ckptlab verify --deep"
                    )
        return values

    def anchor(self, step: int, read: ReadColumn = StoredArray.read_column) -> Anchor | None:
        """Read the optimizer's state at a step; None if the step is not an anchor.

        `read` may return a part of the column of an array.
        """
        anchors = [int(s) for s in self.anchors]
        return read_anchor(self._storage, self.metadata, anchors, step, read)

    def dataset(self) -> xr.Dataset:
        """Open the run with xarray, lazily: what ``xr.open_zarr`` gives, as far as it is seen.

        Large arrays are read by `StoredArray`: a selection decodes only the chunks it needs.
        CorruptError if a file is missing, which zarr would read as NaN.
        """
        import xarray as xr
        from dask.array import from_array

        self._require_files(large=False)
        with warnings.catch_warnings():
            # Zarr warns that pcodec is outside the core specification; docs/format.md says so.
            warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr")
            dataset: xr.Dataset = xr.open_zarr(
                self._storage.zarr_store(), consolidated=True, chunks={}
            )
        # It may have grown since, or hold what did not survive a power loss.
        lengths = schema.committed_lengths(self.metadata)
        longer = {axis: slice(n) for axis, n in lengths.items() if dataset.sizes.get(axis, n) > n}
        dataset = dataset.isel(longer) if longer else dataset
        for name, variable in dataset.data_vars.items():
            document = self.metadata.get(str(name))
            if document is None or not is_sharded(document) or not variable.size:
                continue
            if str(name).startswith(schema.OPTIMIZER):
                continue  # a state that appeared later lacks shards, which are fill to zarr
            array = self.array(str(name))
            (height, width), item = array.chunk, array.dtype.itemsize
            together = max(TASK_BYTES // (height * width * item), 1)
            chunks = min(together * height, array.shard[0]), width
            lazy = from_array(array, chunks=chunks, name=False)  # type: ignore[no-untyped-call]
            dataset[name] = variable.copy(data=lazy)
        dataset.encoding["source"] = self.path
        return dataset

    def file_sizes(self) -> dict[str, int]:
        """List the files of the run with their sizes in bytes."""
        return self._storage.list()

    @cached_property
    def _digests(self) -> npt.NDArray[np.uint64]:
        return self.small("digest")

    def _axis(self, name: str) -> npt.NDArray[np.int64]:
        values = self.small(name).astype(np.int64)
        if (values < 0).any() or (np.diff(values) <= 0).any():
            raise CorruptError(f"{self.path}: `{name}` does not increase; run ckptlab verify")
        return values

    def _require_files(self, *, large: bool) -> None:
        """Refuse a run with a committed file gone: zarr would read it as fill without a word."""
        listed = self._storage.list()
        for name, document in self.metadata.items():
            if is_sharded(document) != large:
                continue
            for key in self._required_keys(name, document):
                # Asked for again: a listing may miss a file that is being replaced.
                if not listed.get(key) and not self._storage.size(key):
                    raise CorruptError(f"{self.path}/{key} is missing or empty; run ckptlab verify")

    def _required_keys(self, name: str, document: ArrayMetadata) -> Iterable[str]:
        if not document["shape"][-1]:
            return ()
        if is_sharded(document):
            grid = Grid.of(document)
            rows, columns = grid.shard_grid
            if rows * columns > 2**24:
                raise CorruptError(f"{self.path}: `{name}` has an absurd shape {grid.shape}")
            if name == schema.OPTIMIZER_ROW:
                return (shard_key(name, 0, j) for j in range(columns))
            if name.startswith(schema.OPTIMIZER):
                return ()  # a state that appeared later has no shards at earlier anchors
        return committed_keys(name, document)


def _reopened(
    path: str, attributes: dict[str, Any], metadata: dict[str, ArrayMetadata]
) -> StoredRun:
    """Open a run in another process, as far as it was committed in the first."""
    return StoredRun(open_storage(path), attributes, metadata)
