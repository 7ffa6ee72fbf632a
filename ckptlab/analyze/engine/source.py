"""What a measurement is made on: a stored run, or any Dataset opened from one.

Both faces say the same things; only blocks are read differently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.engine.blocks import MemoryBlock, StoredBlock
from ckptlab.errors import LayoutError, StoreError
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.zarr_metadata import CHUNK_PARAMETERS
from ckptlab.store.read.array_reader import StoredArray
from ckptlab.store.read.reader import StoredRun

if TYPE_CHECKING:
    import xarray as xr

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class BlockGrid:
    """How a large array is cut into blocks.

    Parameters
    ----------
    rows, columns : tuple of slice
        Stretches of parameters and of recorded steps, in order, without gaps.
    blocks : list of list
        ``blocks[i][j]`` is a Block, or a dask object that computes to one.
    """

    rows: tuple[slice, ...]
    columns: tuple[slice, ...]
    blocks: list[list[Any]]


class TensorRuns(NamedTuple):
    """The tensors of consecutive parameters: index of each, and how many of its parameters."""

    tensors: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]


class Source(Protocol):
    """A recording as the measurements see it."""

    @property
    def path(self) -> str:
        """Where it lies, for messages and attributes."""
        ...

    @property
    def state(self) -> str:
        """``recording``, ``complete`` or ``interrupted``."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Root attributes."""
        ...

    @property
    def layout(self) -> Layout:
        """The tensor table."""
        ...

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """Recorded steps, increasing."""
        ...

    @property
    def parameters(self) -> int:
        """How many weights it holds: those of the model, or of a part of it."""
        ...

    @property
    def tensor_index(self) -> npt.NDArray[np.int32]:
        """Shape (param,): the tensor each weight belongs to."""
        ...

    def has(self, name: str) -> bool:
        """Say whether an array is there."""
        ...

    def small(self, name: str) -> Array:
        """Read a small array; one over tensors is in the order of the tensor table."""
        ...

    def mask(self) -> npt.NDArray[np.bool_] | None:
        """Read which weights a sparse training kept, shape (param,); None if it was dense."""
        ...

    def tensor_runs(self, rows: slice) -> TensorRuns:
        """Return which tensors a stretch of parameters belongs to."""
        ...

    def column(self, name: str, position: int) -> Array:
        """Read one recorded step of a large array, shape (param,)."""
        ...

    def stored_array(self, name: str) -> StoredArray | None:
        """Return the stored array whose shards are the blocks, None where dask has the blocks."""
        ...

    def grid(self, name: str, pieces: int = 1) -> BlockGrid:
        """Cut a large array into blocks, each shard into some pieces; reads nothing."""
        ...


def as_source(recording: Any) -> Source:
    """Take a stored run, a run, or a Dataset opened from one.

    Parameters
    ----------
    recording : StoredRun, object with an attribute `stored`, Dataset or Source
        What to measure.

    Returns
    -------
    Source
        Nothing was read for it but coordinates.

    Raises
    ------
    LayoutError
        If a Dataset lacks the tensor table or the dims of a run.
    """
    if hasattr(recording, "data_vars"):
        return DatasetSource(recording)
    recording = getattr(recording, "stored", recording)
    if isinstance(recording, StoredRun):
        return StoredSource(recording)
    source: Source = recording
    return source


class StoredSource:
    """A run read shard by shard.

    Parameters
    ----------
    run : StoredRun
        As `open_store` gives it.
    """

    def __init__(self, run: StoredRun) -> None:
        self.run = run
        self.path = run.path
        self.state = run.state
        self.attributes: Mapping[str, Any] = run.attributes
        self.layout = run.layout
        self.parameters = run.layout.parameters
        self.steps = run.steps

    @cached_property
    def tensor_index(self) -> npt.NDArray[np.int32]:
        """Shape (param,): the tensor each weight belongs to."""
        return self.layout.tensor_index()

    @cached_property
    def _edges(self) -> npt.NDArray[np.int64]:
        return np.cumsum([0, *(tensor.size for tensor in self.layout.tensors)])

    def tensor_runs(self, rows: slice) -> TensorRuns:
        """Return which tensors a stretch of parameters belongs to."""
        first, last = np.searchsorted(self._edges, [rows.start, rows.stop - 1], side="right") - 1
        edges = np.clip(self._edges[first : last + 2], rows.start, rows.stop)
        return TensorRuns(np.arange(first, last + 1, dtype=np.int32), np.diff(edges))

    def has(self, name: str) -> bool:
        """Say whether an array is there."""
        return name in self.run.arrays

    def small(self, name: str) -> Array:
        """Read a small array."""
        return self.run.small(name)

    def mask(self) -> npt.NDArray[np.bool_] | None:
        """Read which weights a sparse training kept."""
        return self.run.mask()

    def column(self, name: str, position: int) -> Array:
        """Read one recorded step of a large array."""
        return self.run.snapshot(int(self.steps[position]), name)

    def stored_array(self, name: str) -> StoredArray | None:
        """Return the stored array."""
        return self.run.array(name)

    def grid(self, name: str, pieces: int = 1) -> BlockGrid:
        """One block a shard, or some pieces of each."""
        array = self.run.array(name)
        columns = _stretches(array.shape[1], array.shard[1])
        height, per_shard = array.chunk[0], array.grid.chunks_per_shard
        chunks = -(-per_shard // pieces)
        rows, blocks = [], []
        for i, shard in enumerate(_stretches(array.shape[0], array.shard[0])):
            for first in range(0, -(-(shard.stop - shard.start) // height), chunks):
                start = shard.start + first * height
                stop = min(start + chunks * height, shard.stop)
                part = range(first, first + -(-(stop - start) // height)) if pieces > 1 else None
                rows.append(slice(start, stop))
                blocks.append([StoredBlock(array, i, j, part) for j in range(len(columns))])
        return BlockGrid(tuple(rows), columns, blocks)


class DatasetSource:
    """A Dataset as ``xr.open_zarr`` opens a run, whole or subset by steps or parameters.

    Parameters
    ----------
    dataset : Dataset
        With `weights` (param, step), the coordinates of a run and its attributes.

    Raises
    ------
    LayoutError
        If something of that is missing.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        missing = [n for n in ("weights", "tensor_index", "step") if n not in dataset.variables]
        if missing or "tensors" not in dataset.attrs:
            what = ", ".join(missing) or "tensor table in its attributes"
            raise LayoutError(
                f"the dataset has no {what}; open a run with xr.open_zarr, and keep attributes"
            )
        self.dataset = dataset
        self.path = str(dataset.encoding.get("source", "dataset"))
        self.state = str(dataset.attrs.get("state", "complete"))
        self.attributes: Mapping[str, Any] = dataset.attrs
        self.layout = Layout.from_attributes(dataset.attrs)
        self.steps: npt.NDArray[np.int64] = np.atleast_1d(dataset["step"].values).astype(np.int64)

    @property
    def parameters(self) -> int:
        """How many weights it holds."""
        return len(self.tensor_index)

    @cached_property
    def tensor_index(self) -> npt.NDArray[np.int32]:
        """Shape (param,): the tensor each weight belongs to."""
        index = np.atleast_1d(self.dataset["tensor_index"].values)
        return index.astype(np.int32)

    def has(self, name: str) -> bool:
        """Say whether an array is there."""
        return name in self.dataset.variables

    def small(self, name: str) -> Array:
        """Read a small array; tensors that were dropped from the dataset are NaN."""
        array = self.dataset[name]
        if "tensor" not in array.dims:
            return array.values
        positions = [self.layout.names.index(str(n)) for n in self.dataset["tensor"].values]
        table = np.full((len(self.layout.names), array.sizes["step"]), np.nan)
        table[positions] = array.transpose("tensor", "step").values
        return table

    def mask(self) -> npt.NDArray[np.bool_] | None:
        """Compute which weights a sparse training kept."""
        return self.dataset["mask"].values.astype(bool) if self.has("mask") else None

    def tensor_runs(self, rows: slice) -> TensorRuns:
        """Return which tensors a stretch of parameters belongs to."""
        index = self.tensor_index[rows]
        starts = np.flatnonzero(np.diff(index, prepend=index[0] - 1))
        return TensorRuns(index[starts], np.diff(starts, append=len(index)))

    def column(self, name: str, position: int) -> Array:
        """Compute one recorded step of a large array."""
        array = self.dataset[name]
        values = array.isel(step=position) if "step" in array.dims else array
        return np.atleast_1d(values.values)

    def stored_array(self, name: str) -> StoredArray | None:  # noqa: ARG002
        """Return None: dask decides what is in memory."""
        return None

    def grid(self, name: str, pieces: int = 1) -> BlockGrid:  # noqa: ARG002
        """One block a dask block; values that are in memory are cut as a store would be."""
        from dask.delayed import delayed

        data = self._large(name).data
        if not hasattr(data, "to_delayed"):
            rows = _stretches(data.shape[0], 8 * CHUNK_PARAMETERS)
            columns = _stretches(data.shape[1], 32)
            return BlockGrid(
                rows, columns, [[MemoryBlock(data[r, c]) for c in columns] for r in rows]
            )
        wrap = delayed(MemoryBlock)
        blocks = [[wrap(block) for block in line] for line in data.to_delayed()]
        return BlockGrid(_runs(data.chunks[0]), _runs(data.chunks[1]), blocks)

    def _large(self, name: str) -> xr.DataArray:
        array = self.dataset[name]
        for dim in ("param", "step"):
            if dim not in array.dims:
                array = array.expand_dims(dim)
        return array.transpose("param", "step")


def require_arrays(source: Source, metric: str, names: tuple[str, ...]) -> None:
    """Raise unless the arrays a metric needs were recorded.

    Parameters
    ----------
    source : Source
        The recording.
    metric : str
        Name of the metric, for the message.
    names : tuple of str
        Arrays it needs.

    Raises
    ------
    StoreError
        If one is missing; names the flag that records it.
    """
    for name in names:
        if source.has(name):
            continue
        advice = (
            "Record it with: --arrays weights,gradients"
            if name == "gradients"
            else "It is part of every complete run"
        )
        raise StoreError(f"{metric} needs the array `{name}`, which {source.path} lacks. {advice}.")


def _stretches(length: int, width: int) -> tuple[slice, ...]:
    return tuple(slice(a, min(a + width, length)) for a in range(0, length, width))


def _runs(sizes: tuple[int, ...]) -> tuple[slice, ...]:
    ends = np.cumsum(sizes).tolist()
    return tuple(slice(b - n, b) for b, n in zip(ends, sizes, strict=True))
