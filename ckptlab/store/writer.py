"""The one writer of a run: create or resume it, commit blocks, finish.

Imports store only. The commit protocol (see docs/format.md): data files first, then `step`, which
is the commit, then the root metadata, in which every step axis is cut at what is committed.
"""

from __future__ import annotations

import json
import math
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ckptlab.store import schema
from ckptlab.store.arrays import Document, root_document, with_length
from ckptlab.store.block import Anchor, Block, Evaluation
from ckptlab.store.constants import CONSTANTS, mask_digest, write_constants, write_mask
from ckptlab.store.growing import GrowingArray
from ckptlab.store.layout import Layout
from ckptlab.store.lock import Lock
from ckptlab.store.markers import read_markers
from ckptlab.store.mend import (
    delete_orphans,
    mend_documents,
    read_own_document,
    write_document,
)
from ckptlab.store.reader import StoredRun
from ckptlab.store.root import read_root
from ckptlab.store.shards import EncodeMap, Grid, encode_shard, shard_key
from ckptlab.store.storage import ROOT, Storage
from ckptlab.store.vacancy import require_free

SERIES = schema.SERIES


class StoreWriter:
    """Commits blocks to one run; used by one thread at a time.

    Made by `create` or `resume`.

    Attributes
    ----------
    steps : list of int
        Committed steps.
    anchors : list of int
        Committed anchors.
    evaluations : list of int
        Steps of the committed evaluations.
    weight_bytes : int
        Size of the files under ``weights/``.
    sync_seconds : float
        Blocks committed sooner than this after a sync wait for the next one with theirs; what they
        hold survives a crash of the process, but not yet a power loss.
    """

    def __init__(
        self,
        storage: Storage,
        lock: Lock,
        attributes: dict[str, Any],
        documents: dict[str, Document],
    ) -> None:
        self.attributes = attributes
        self.layout = Layout.from_attributes(attributes)
        self.steps: list[int] = []
        self.anchors: list[int] = []
        self.evaluations: list[int] = []
        self.weight_bytes = 0
        self.map_chunks: EncodeMap | None = None
        self.sync_seconds = 0.0
        self._synced = -math.inf
        self._storage = storage
        self._lock = lock
        self._documents = documents
        self._capacity = dict.fromkeys(("step", "anchor", "eval_step"), 0)
        self._growing: dict[str, GrowingArray] = {}
        self._shard_bytes: dict[str, int] = {}

    @classmethod
    def create(
        cls,
        storage: Storage,
        layout: Layout,
        *,
        block: int,
        codec: str,
        attributes: Mapping[str, Any],
        optional: Iterable[str] = (),
        mask: npt.NDArray[np.bool_] | None = None,
        capacity: int = 1,
        overwrite: bool = False,
    ) -> StoreWriter:
        """Start a new run of no steps.

        Parameters
        ----------
        storage : Storage
            Where.
        layout : Layout
            The tensor table.
        block : int
            Steps of a block.
        codec : str
            Public codec name.
        attributes : mapping
            Further root attributes, JSON.
        optional : iterable of str
            Optional large arrays.
        mask : ndarray of bool, shape (param,), optional
            Which weights the training keeps.
        capacity : int
            Steps to allocate; more are allocated when it is full.
        overwrite : bool
            Whether what lies there may be deleted.

        Returns
        -------
        StoreWriter
            Holding the lock.

        Raises
        ------
        RunExistsError
            If something lies at the path and `overwrite` is not set.
        LockedError
            If another writer is at it.
        """
        require_free(storage, overwrite=overwrite)
        lock = storage.lock()
        try:
            require_free(storage, overwrite=overwrite)  # another writer may have come first
            storage.clear()
            root = {
                **attributes,
                "format": schema.FORMAT,
                "coordinates": "tensor_index",
                **layout.to_attributes(),
                "block": block,
                "codec": codec,
                "state": "recording",
            }
            if mask is not None:
                root["mask_digest"] = mask_digest(mask)
            documents = schema.documents(
                layout, block=block, codec=codec, optional=optional, masked=mask is not None
            )
            writer = cls(storage, lock, json.loads(json.dumps(root, allow_nan=False)), documents)
            write_constants(storage, layout)
            if mask is not None:
                write_mask(storage, mask)
            for name in CONSTANTS if mask is None else (*CONSTANTS, schema.MASK):
                writer._write_document(name)
            writer._open_growing()
            writer._grow("step", capacity)
            writer._grow("anchor", max(capacity // block, 1))
            writer._grow("eval_step", 1)
            storage.sync()
            writer._write_root()
            storage.sync()
            return writer
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, storage: Storage) -> StoreWriter:
        """Take an existing run up again, at its last committed step.

        Parameters
        ----------
        storage : Storage
            Where it lies.

        Returns
        -------
        StoreWriter
            Holding the lock; nothing is changed on disk yet but unfinished files.

        Raises
        ------
        StoreError
            If there is no run, or it is damaged.
        LockedError
            If another writer is at it.
        """
        attributes, documents = read_root(storage)
        lock = storage.lock()
        try:
            storage.sweep()
            attributes, documents = read_root(storage)
            attributes.pop("metadata_digest")
            writer = cls(storage, lock, attributes, documents)
            writer._load_markers()
            return writer
        except BaseException:
            lock.release()
            raise

    @property
    def block(self) -> int:
        """Steps of a block."""
        return int(self.attributes["block"])

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of all arrays."""
        return tuple(self._documents)

    def cut(self, steps: int) -> None:
        """Drop every committed step from position `steps` on, with what belongs to it.

        Parameters
        ----------
        steps : int
            How many steps stay.
        """
        self.steps = self.steps[:steps]
        last = self.steps[-1] if self.steps else -1
        self.anchors = [step for step in self.anchors if step <= last]
        self.evaluations = [step for step in self.evaluations if step <= last]
        mend_documents(self._storage, self._documents, self._capacity)
        self._open_growing()
        # The view shrinks first: a reader or a crash in between sees fewer steps, never wrong ones.
        self._write_root()
        for name in ("step", "anchor", "eval_step"):
            self._growing[name].flush()
        delete_orphans(self._storage, self._view())
        self._count_shards()
        self._storage.sync()

    def write_block(self, block: Block) -> None:
        """Commit a block: when this returns, its steps are seen, and survive a crash.

        Parameters
        ----------
        block : Block
            Starts at or before the committed end; steps already committed must be the same.

        Raises
        ------
        WriteError
            If the storage fails; what was committed stays.
        """
        self._make_room(block)
        for name, rows in block.rows.items():
            self._write_rows(name, rows, block.start // self.block)
        for name, array in self._growing.items():
            if SERIES[name].axis == "step" and name not in ("step", "digest"):
                array.write(block.start, block.series.get(name, array.blank(block.count)))
        digests = [xxhash.xxh3_64_intdigest(_little(row).data) for row in block.rows["weights"]]
        self._growing["digest"].write(block.start, np.array(digests, "<u8"))
        self._append_evaluations(block.evaluations)
        if block.anchor is not None:
            self._write_anchor(block.anchor)
        durable = time.monotonic() - self._synced >= self.sync_seconds
        if durable:
            self._storage.sync()
        steps = block.series["step"]
        self._growing["step"].write(block.start, steps)
        self.steps[block.start :] = [int(step) for step in steps]
        if durable:
            # Before the view: after a power loss it must not name steps that have no marker.
            self._storage.sync()
            self._synced = time.monotonic()
        self._write_root()

    def write_evaluations(self, evaluations: list[Evaluation]) -> None:
        """Commit evaluations alone.

        Parameters
        ----------
        evaluations : list of Evaluation
            At steps that are committed.
        """
        self._grow("eval_step", len(self.evaluations) + len(evaluations))
        self._append_evaluations(evaluations)
        self._storage.sync()
        self._write_root()

    def set_attributes(self, **changes: Any) -> None:
        """Change root attributes; they are written with the next commit."""
        self.attributes.update(json.loads(json.dumps(changes, allow_nan=False)))

    def finish(self, state: str) -> None:
        """Trim to what is committed, set the state, release the lock.

        Parameters
        ----------
        state : str
            ``complete`` or ``interrupted``.
        """
        try:
            self.attributes["state"] = state
            self._capacity = self._lengths()
            for name in self._documents:
                self._write_document(name)
            self._storage.sync()
            self._write_root()
            self._storage.sync()
        finally:
            self._lock.release()

    def abandon(self) -> None:
        """Release the lock and leave everything as it is."""
        self._lock.release()

    def stored(self) -> StoredRun:
        """Return what is committed, for reading."""
        return StoredRun(self._storage, self.attributes, self._view())

    # How it is done.

    def _lengths(self) -> dict[str, int]:
        return {
            "step": len(self.steps),
            "anchor": len(self.anchors),
            "eval_step": len(self.evaluations),
        }

    def _view(self) -> dict[str, Document]:
        lengths = self._lengths()
        return {name: with_length(doc, lengths) for name, doc in self._documents.items()}

    def _write_root(self) -> None:
        span = {"start": self.steps[0], "end": self.steps[-1]} if self.steps else {}
        self.attributes = {k: v for k, v in self.attributes.items() if k not in ("start", "end")}
        self.attributes |= span
        root = root_document(self.attributes, self._view())
        self._storage.put(ROOT, [json.dumps(root, allow_nan=False).encode()])

    def _write_document(self, name: str) -> None:
        write_document(self._storage, name, with_length(self._documents[name], self._capacity))

    def _open_growing(self) -> None:
        lengths = self._lengths()
        self._growing = {
            name: GrowingArray(self._storage, name, self._documents[name], lengths[series.axis])
            for name, series in SERIES.items()
            if name in self._documents
        }

    def _grow(self, axis: str, length: int) -> None:
        """Allocate at least `length` entries: never fewer than double, so that it is rare."""
        if length <= self._capacity[axis]:
            return
        self._capacity[axis] = max(length, 2 * self._capacity[axis])
        for name, document in self._documents.items():
            if document["dimension_names"][-1] == axis:
                self._write_document(name)

    def _make_room(self, block: Block) -> None:
        self._grow("step", block.stop)
        self._grow("anchor", len(self.anchors) + (block.anchor is not None))
        self._grow("eval_step", len(self.evaluations) + len(block.evaluations))
        if block.anchor is not None and self._add_states(block.anchor):
            # Whoever resumes after the marker but before the view must know of them.
            self._storage.sync()
            self._write_root()

    def _write_rows(self, name: str, rows: npt.NDArray[Any], column: int) -> None:
        grid = Grid.of(self._documents[name])
        for i in range(grid.shard_grid[0]):
            key = shard_key(name, i, column)
            parts = encode_shard(rows, grid, i, self.map_chunks)
            self._storage.put(key, parts)
            if name == "weights":
                size = sum(map(len, parts))
                self.weight_bytes += size - self._shard_bytes.get(key, 0)
                self._shard_bytes[key] = size

    def _write_anchor(self, anchor: Anchor) -> None:
        if self.anchors and self.anchors[-1] >= anchor.step:
            return  # a partial block that is closed without a new step
        column = len(self.anchors)
        for key, values in anchor.states.items():
            self._write_rows(schema.OPTIMIZER + key, values[None], column)
        row = struct.pack("<Q", len(anchor.row)) + anchor.row
        width = self._documents[schema.OPTIMIZER_ROW]["shape"][0]
        padded = np.frombuffer(row.ljust(width, b"\0"), np.uint8)
        self._write_rows(schema.OPTIMIZER_ROW, padded[None], column)
        self._growing["anchor"].write(column, np.array([anchor.step], "<i8"))
        self.anchors.append(anchor.step)

    def _add_states(self, anchor: Anchor) -> bool:
        """Describe optimizer states that are new, and byte rows that are longer than any before."""
        found = {schema.OPTIMIZER_ROW: schema.optimizer_row_document(8 + len(anchor.row))}
        for key in anchor.states:
            found[schema.OPTIMIZER + key] = schema.optimizer_document(
                self.layout.parameters, self.attributes["codec"]
            )
        added = {
            name: document
            for name, document in found.items()
            if name not in self._documents
            or self._documents[name]["shape"][0] < document["shape"][0]
        }
        self._documents |= added
        for name in added:
            self._write_document(name)
        return bool(added)

    def _append_evaluations(self, evaluations: list[Evaluation]) -> None:
        if not evaluations:
            return
        start = len(self.evaluations)
        self._growing["eval_loss"].write(start, np.array([e.loss for e in evaluations]))
        self._growing["eval_accuracy"].write(start, np.array([e.accuracy for e in evaluations]))
        self._growing["eval_step"].write(start, np.array([e.step for e in evaluations], "<i8"))
        self.evaluations += [e.step for e in evaluations]

    def _load_markers(self) -> None:
        markers = read_markers(self._storage, self._documents)
        self.steps, self.anchors = markers.steps, markers.anchors
        self.evaluations = markers.evaluations
        for axis, length in markers.lengths().items():
            own = read_own_document(self._storage, axis, self._documents[axis])
            self._capacity[axis] = max(length, own["shape"][-1] if own else 0)
        self._count_shards()

    def _count_shards(self) -> None:
        listed = self._storage.list("weights").items()
        self._shard_bytes = {key: size for key, size in listed if not key.endswith(ROOT)}
        self.weight_bytes = sum(self._shard_bytes.values())


def _little(row: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(row, "<f4")
