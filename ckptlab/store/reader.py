"""Reading a run: what is committed, whole chunks at a time, checked.

Imports store only; never torch. `open_store` refuses what it cannot vouch for: metadata whose
digest is wrong, arrays that are not as format 1 says, committed shards that are missing.
"""

from __future__ import annotations

import json
import os
import struct
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import (
    CorruptError,
    FormatVersionError,
    MissingStepError,
    StoreError,
    unknown_name,
)
from ckptlab.store import schema
from ckptlab.store.arrays import Document, metadata_digest
from ckptlab.store.block import Anchor
from ckptlab.store.growing import read_all
from ckptlab.store.layout import Layout
from ckptlab.store.shards import Grid, Shard, is_sharded, shard_key
from ckptlab.store.storage import MissingObjectError, Storage, open_storage

if TYPE_CHECKING:
    import xarray as xr

STATES = ("recording", "complete", "interrupted")
MAX_ROOT_BYTES = 2**28


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
    return StoredRun(storage, attributes, metadata)


def read_root(storage: Storage) -> tuple[dict[str, Any], dict[str, Document]]:
    """Read and check the root metadata.

    Parameters
    ----------
    storage : Storage
        Where the run lies.

    Returns
    -------
    attributes : dict
        Root attributes.
    metadata : dict of str to dict
        Documents of the arrays, cut at what is committed.

    Raises
    ------
    StoreError
        If there is no run, it was written in a newer format, or the metadata is damaged.
    """
    root = _load_root(storage)
    attributes = root.get("attributes")
    if not isinstance(attributes, dict) or "format" not in attributes:
        raise StoreError(f"{storage.path} is a Zarr group, but no ckptlab run")
    version = attributes["format"]
    if not isinstance(version, int) or version > schema.FORMAT or version < 1:
        raise FormatVersionError(
            f"{storage.path} is of format {version!r:.40}; this ckptlab reads up to "
            f"{schema.FORMAT}. Update ckptlab."
        )
    try:
        metadata = root["consolidated_metadata"]["metadata"]
        digest = metadata_digest(attributes, metadata)
        if digest != attributes["metadata_digest"]:
            raise CorruptError(f"{storage.path}/zarr.json is damaged: its digest is wrong")
        _check_metadata(metadata, attributes)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise CorruptError(
            f"{storage.path}/zarr.json is not as format {schema.FORMAT} says: "
            f"{type(error).__name__} {error}"
        ) from error
    return attributes, metadata


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
    """

    def __init__(
        self, storage: Storage, attributes: dict[str, Any], metadata: dict[str, Document]
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
        self._require_shards()

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
        if name not in schema.SERIES or name not in self.metadata:
            raise unknown_name("array", name, [n for n in schema.SERIES if n in self.metadata])
        document = self.metadata[name]
        return read_all(self._storage, name, document, document["shape"][-1])

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
        """
        return self.array(array).read_column(self.column(step))

    def anchor(self, step: int) -> Anchor | None:
        """Read the optimizer's state at a step; None if the step is not an anchor."""
        anchors = [int(s) for s in self.anchors]
        return read_anchor(self._storage, self.metadata, anchors, step)

    def dataset(self) -> xr.Dataset:
        """Open the run with xarray: lazy, as ``xr.open_zarr`` on its path."""
        import xarray as xr

        with warnings.catch_warnings():
            # Zarr warns that pcodec is outside the core specification; docs/format.md says so.
            warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr")
            dataset: xr.Dataset = xr.open_zarr(
                self._storage.zarr_store(), consolidated=True, chunks={}
            )
        dataset.encoding["source"] = self.path
        return dataset

    def file_sizes(self) -> dict[str, int]:
        """List the files of the run with their sizes in bytes."""
        return self._storage.list()

    def _axis(self, name: str) -> npt.NDArray[np.int64]:
        values = self.small(name).astype(np.int64)
        if (values < 0).any() or (np.diff(values) <= 0).any():
            raise CorruptError(f"{self.path}: `{name}` does not increase; run ckptlab verify")
        return values

    def _require_shards(self) -> None:
        """Refuse a run with a committed shard gone: zarr would read it as NaN without a word."""
        for name, document in self.metadata.items():
            if not is_sharded(document):
                continue
            grid = Grid.of(document)
            rows, columns = grid.shard_grid
            if rows * columns > 2**24:
                raise CorruptError(f"{self.path}: `{name}` has an absurd shape {grid.shape}")
            if name.startswith(schema.OPTIMIZER):
                continue  # a state that appeared later has no shards at earlier anchors
            sizes = self._storage.list(name)
            for key, _, _ in grid.keys(name):
                if not sizes.get(key):
                    raise CorruptError(f"{self.path}/{key} is missing or empty; run ckptlab verify")


class StoredArray:
    """One large array, read whole shards at a time. Small and picklable.

    Parameters
    ----------
    path : str
        Of the run.
    name : str
        Of the array.
    document : dict
        Its metadata.
    storage : Storage, optional
        Opened from `path` if not given.
    """

    def __init__(
        self, path: str, name: str, document: Document, storage: Storage | None = None
    ) -> None:
        self.path = path
        self.name = name
        self._document = document
        self._storage = storage
        self.grid = Grid.of(document)

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredArray, (self.path, self.name, self._document)

    @property
    def shape(self) -> tuple[int, int]:
        """Parameters and recorded steps."""
        return self.grid.shape

    @property
    def chunk(self) -> tuple[int, int]:
        """Parameters and steps of an inner chunk."""
        return self.grid.chunk

    @property
    def shard(self) -> tuple[int, int]:
        """Parameters and steps of a shard."""
        return self.grid.shard

    def read_shard(self, i: int, j: int) -> Shard:
        """Read the shard at row `i` along the parameters and block `j`; CorruptError if damaged."""
        if self._storage is None:
            self._storage = open_storage(self.path)
        key = shard_key(self.name, i, j)
        label = f"{self.path}/{key}"
        try:
            return Shard(self._storage.get(key), self.grid, i, j, label)
        except MissingObjectError as error:
            raise CorruptError(f"{label} is missing; run ckptlab verify") from error

    def read_block(self, j: int) -> npt.NDArray[Any]:
        """Read block `j` whole, shape (steps, param): step by step, as it was recorded."""
        columns = slice(j * self.shard[1], min((j + 1) * self.shard[1], self.shape[1]))
        rows = np.empty((columns.stop - columns.start, self.shape[0]), self.grid.dtype)
        for start, chunk in self._chunks(j):
            part = rows[:, start : start + self.chunk[0]]
            np.copyto(part, chunk[: part.shape[1], : part.shape[0]].T)
        return rows

    def read_column(self, column: int) -> npt.NDArray[Any]:
        """Read one step, shape (param,)."""
        j, within = divmod(column, self.shard[1])
        values = np.empty(self.shape[0], self.grid.dtype)
        for start, chunk in self._chunks(j):
            part = values[start : start + self.chunk[0]]
            np.copyto(part, chunk[: len(part), within])
        return values

    def _chunks(self, j: int) -> Any:
        out = np.empty(self.chunk, self.grid.dtype)
        for i in range(self.grid.shard_grid[0]):
            shard = self.read_shard(i, j)
            for c in range(shard.chunk_count):
                yield shard.rows.start + c * self.chunk[0], shard.decode(c, out)


def read_anchor(
    storage: Storage,
    metadata: Mapping[str, Document],
    anchors: list[int],
    step: int,
) -> Anchor | None:
    """Read the optimizer's state at an anchor.

    Parameters
    ----------
    storage : Storage
        Where the run lies.
    metadata : mapping of str to dict
        Documents of the arrays.
    anchors : list of int
        Steps of the committed anchors.
    step : int
        Which one.

    Returns
    -------
    Anchor or None
        None if the step is no anchor.

    Raises
    ------
    CorruptError
        If it is damaged.
    """
    if step not in anchors or schema.OPTIMIZER_ROW not in metadata:
        return None
    column = anchors.index(step)

    def read(name: str) -> npt.NDArray[Any]:
        return StoredArray(storage.path, name, metadata[name], storage).read_column(column)

    row = read(schema.OPTIMIZER_ROW).tobytes()
    (length,) = struct.unpack_from("<Q", row)
    if length + 8 > len(row):
        raise CorruptError(f"{storage.path}: the optimizer's row at step {step} is damaged")
    sizes = storage.list()
    states = {}
    for name in metadata:
        key = name.removeprefix(schema.OPTIMIZER)
        is_state = name != key and name != schema.OPTIMIZER_ROW
        if is_state and shard_key(name, 0, column) in sizes:
            states[key] = read(name)
    return Anchor(step=step, states=states, row=row[8 : 8 + length])


def _load_root(storage: Storage) -> dict[str, Any]:
    try:
        data = storage.get("zarr.json")
    except MissingObjectError as error:
        what = "is no ckptlab run" if storage.exists() else "does not exist"
        raise StoreError(f"{storage.path} {what}; record one with: ckptlab record") from error
    if len(data) > MAX_ROOT_BYTES:
        raise CorruptError(f"{storage.path}/zarr.json has {len(data):,} bytes; that is no run")
    try:
        root = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{storage.path}/zarr.json is damaged: {error}") from error
    if not isinstance(root, dict) or root.get("node_type") != "group":
        raise StoreError(f"{storage.path} is no Zarr group")
    return root


def _check_metadata(metadata: dict[str, Document], attributes: dict[str, Any]) -> None:
    """Raise what the caller turns into CorruptError unless the arrays are as format 1 says."""
    if attributes["state"] not in STATES:
        raise ValueError(f"state {attributes['state']!r:.40} is none of {', '.join(STATES)}")
    layout = Layout.from_attributes(attributes)
    expected = schema.documents(
        layout,
        block=int(attributes["block"]),
        codec=attributes["codec"],
        optional=["gradients"] if "gradients" in metadata else [],
    )
    for name, document in expected.items():
        _require_like(name, metadata[name], document)
    for name, document in metadata.items():
        if name in expected:
            continue
        if name == schema.OPTIMIZER_ROW:
            like = schema.optimizer_row_document(document["shape"][0])
        elif name.startswith(schema.OPTIMIZER) and "/" not in name and ".." not in name:
            like = schema.optimizer_document(layout.parameters, attributes["codec"])
        else:
            raise ValueError(f"array {name!r:.80} is not of format {schema.FORMAT}")
        _require_like(name, document, like)
    lengths = schema.committed_lengths(metadata)
    for name, document in metadata.items():
        axis = document["dimension_names"][-1]
        if axis in lengths and document["shape"][-1] != lengths[axis]:
            raise ValueError(f"array {name!r:.80} is not as long as its axis {axis}")
    if any(not 0 <= length <= 2**40 for length in lengths.values()):
        raise ValueError("a step axis has an absurd length")


def _require_like(name: str, document: Document, expected: Document) -> None:
    for key in ("data_type", "chunk_grid", "codecs", "fill_value", "dimension_names"):
        if document[key] != expected[key]:
            raise ValueError(f"array {name!r:.80} has another {key}")
    free = 1 if expected["dimension_names"][-1] in ("step", "anchor", "eval_step") else 0
    cut = len(expected["shape"]) - free
    if document["shape"][:cut] != expected["shape"][:cut] or len(document["shape"]) != cut + free:
        raise ValueError(f"array {name!r:.80} has another shape")
