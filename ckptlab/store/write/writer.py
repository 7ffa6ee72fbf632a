"""The one writer of a run: create or resume it, commit blocks, finish.

The commit protocol (see docs/format.md): data files first, then `step`, which is the commit, then
the root metadata, in which every step axis is cut at what is committed.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import StoreError
from ckptlab.store.backends.base import Storage
from ckptlab.store.backends.lock import Lock
from ckptlab.store.format import schema
from ckptlab.store.format.block import Block, Evaluation, Observations
from ckptlab.store.format.codecs import Codec
from ckptlab.store.format.constants import CONSTANTS, write_constants, write_mask
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.shards import EncodeMap
from ckptlab.store.format.zarr_metadata import OBSERVED, STEP_AXES, ArrayMetadata
from ckptlab.store.read.commits import read_markers
from ckptlab.store.read.power_loss import (
    SYNCED,
    PowerLossWarning,
    boot_id,
    surviving_lengths,
    synced_lengths,
    unsynced_keys,
)
from ckptlab.store.read.reader import StoredRun
from ckptlab.store.read.root import read_root
from ckptlab.store.write.block_writer import BlockWriter
from ckptlab.store.write.metadata import MetadataWriter, as_json, new_attributes
from ckptlab.store.write.recovery import delete_orphans
from ckptlab.store.write.target import require_free

IDLE_SYNC_SECONDS = 1.0
"""A sync costs the cores milliseconds: for each block of short steps, a tenth of training."""


class StoreWriter:
    """Commits blocks to one run, made by `create` or `resume`; used by one thread at a time.

    `steps`, `anchors` and the steps of `evaluations` are what is committed. With `sync_seconds`,
    commits share syncs: in a hurry, blocks committed sooner than this after a sync wait for the
    next one, and without a hurry for a second at most. They survive the death of the process at
    once, and a power loss after the sync.
    """

    def __init__(
        self,
        storage: Storage,
        lock: Lock,
        attributes: dict[str, Any],
        metadata: dict[str, ArrayMetadata],
        sync_seconds: float = 0.0,
    ) -> None:
        self.layout = Layout.from_attributes(attributes)
        self.steps, self.anchors = list[int](), list[int]()
        self.evaluations, self.observed = list[int](), list[int]()
        self.sync_seconds = sync_seconds
        self._synced_at = -math.inf
        self._synced = dict.fromkeys(schema.step_axes(metadata), 0)
        self._is_cut = self._power_was_lost = False
        self._storage = storage
        self._lock = lock
        self._metadata = MetadataWriter(storage, attributes, metadata)
        self._blocks = BlockWriter(storage, metadata)

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
        observed: bool = False,
        capacity: int = 1,
        overwrite: bool = False,
        sync_seconds: float = 0.0,
    ) -> StoreWriter:
        """Start a new run of no steps; the writer holds its lock.

        `block` is the steps of a block, `codec` a codec that users choose, `optional` names further
        large arrays, `mask`, shape (param,), tells which weights the training keeps. `capacity`
        steps are allocated at first. RunExistsError if something lies at the path and `overwrite`
        is not set, LockedError if another writer is at it.
        """
        # What cannot be stored must not cost the run that lies there.
        root = new_attributes(attributes, layout, block=block, codec=codec, mask=mask)
        chosen: dict[str, Any] = {"masked": mask is not None, "observed": observed}
        metadata = schema.array_metadata(
            layout, block=block, codec=codec, optional=optional, **chosen
        )
        require_free(storage, overwrite=overwrite)
        lock = storage.lock()
        try:
            require_free(storage, overwrite=overwrite)  # another writer may have come first
            writer = cls(storage, lock, root, metadata, sync_seconds)
            writer._begin(capacity, mask)
            return writer
        except BaseException:
            lock.release()
            raise

    @classmethod
    def resume(cls, storage: Storage, *, sync_seconds: float = 0.0) -> StoreWriter:
        """Resume an existing run at its last committed step; the writer holds its lock.

        Nothing is changed on disk yet but unfinished files. StoreError if there is no run, or it is
        damaged; LockedError if another writer is at it.
        """
        attributes, metadata = read_root(storage)
        lock = storage.lock()
        try:
            storage.sweep()
            attributes, metadata = read_root(storage)
            attributes.pop("metadata_digest")
            attributes["state"] = "recording"
            writer = cls(storage, lock, attributes, metadata, sync_seconds)
            writer._load_markers()
            return writer
        except BaseException:
            lock.release()
            raise

    @property
    def attributes(self) -> dict[str, Any]:
        """Root attributes."""
        return self._metadata.attributes

    @property
    def block(self) -> int:
        """Steps of a block."""
        return int(self.attributes["block"])

    @property
    def weight_bytes(self) -> int:
        """Size of the files of `weights`."""
        return self._blocks.weight_bytes

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of all arrays."""
        return tuple(self._metadata.arrays)

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the arrays of numbers that the training loop logged."""
        return schema.scalar_names(self._metadata.arrays)

    @property
    def unsynced(self) -> bool:
        """Whether something committed waits to be synced."""
        return self._in_groups() and self._synced != self._lengths()

    def sync_in(self, *, hurry: bool = True) -> float:
        """Return the seconds until what is committed is to be synced."""
        wanted = self.sync_seconds if hurry else min(self.sync_seconds, IDLE_SYNC_SECONDS)
        return self._synced_at + wanted - time.monotonic()

    def cut(self, steps: int, *, later: bool = False, observed: int | None = None) -> None:
        """Drop every committed step from position `steps` on, with all that belongs to it.

        So many `observed` steps stay; by default those up to the last one that does.

        `later` leaves the files as they are until the next commit: other ranks that resume the run
        may still be reading them.
        """
        self.steps = self.steps[:steps]
        last = self.steps[-1] if self.steps else -1
        self.anchors = [step for step in self.anchors if step <= last]
        self.evaluations = [step for step in self.evaluations if step <= last]
        kept = sum(step <= last for step in self.observed) if observed is None else observed
        self.observed = self.observed[:kept]
        self._blocks.open(self._lengths())
        self._is_cut = True
        if not later:
            self._settle()

    def write_block(
        self,
        block: Block,
        *,
        map_chunks: EncodeMap | None = None,
        encoded: Callable[[], None] | None = None,
        hurry: bool = True,
    ) -> None:
        """Commit a block: when this returns, readers see its steps, and they survive a crash.

        It starts at or before the committed end; steps already committed must be the same.
        `map_chunks` and `encoded` are those of `BlockWriter.write`; `hurry` tells that more blocks
        wait. WriteError if the storage fails or the lock is gone; what was committed stays.
        """
        block = self.prepare(block)
        column = block.start // self.block
        known = {name: len(getattr(self, name)) for name in ("anchors", "evaluations", "observed")}
        self._blocks.write(block, column, **known, map_chunks=map_chunks, encoded=encoded)
        durable = not self._in_groups() or self.sync_in(hurry=hurry) <= 0
        if durable:
            self._storage.sync()
        if block.evaluations or block.observations.steps:
            # They count as soon as they are marked, so what they are must be there before.
            self._mark(block.evaluations, block.observations)
            if durable:
                self._storage.sync()
        self._lock.check()
        steps = [int(step) for step in block.series["step"]]
        self._blocks.mark("step", block.start, steps)
        self.steps[block.start :] = steps
        self.anchors += [block.anchor.step] if block.anchor else []
        (self._publish_synced if durable else self._publish)()

    def prepare(self, block: Block) -> Block:
        """Make the files ready for a block, whose shards others may then write; return it."""
        self._settle()
        # A partial block that is closed without a new step has its anchor already.
        known = block.anchor and self.anchors and self.anchors[-1] >= block.anchor.step
        block = replace(block, anchor=None) if known else block
        self._make_room(block)
        return block

    def write_evaluations(
        self, evaluations: list[Evaluation], observations: Observations | None = None
    ) -> None:
        """Commit evaluations alone, at steps that are committed, and observations at any."""
        observations = observations or Observations()
        self._settle()
        self._metadata.grow("eval_step", len(self.evaluations) + len(evaluations))
        self._metadata.grow(OBSERVED, len(self.observed) + len(observations.steps))
        places = len(self.evaluations), len(self.observed)
        self._blocks.write_between(*places, evaluations, observations)
        self._storage.sync()
        self._lock.check()
        self._mark(evaluations, observations)
        self._publish_synced()

    def sync(self) -> None:
        """Have everything committed survive a power loss."""
        if self.unsynced:
            self._lock.check()
            self._publish_synced()

    @property
    def codec(self) -> Codec:
        """How the weights are compressed."""
        return self._metadata.codec

    def set_codec(self, codec: str) -> None:
        """Change the codec of a run of no steps."""
        self._metadata.set_codec(self.layout, codec)
        # Whoever resumes after the first marker but before the view must know of it.
        self._publish_synced()

    def set_attributes(self, **changes: Any) -> None:
        """Change root attributes; they are written with the next commit."""
        self.attributes.update(as_json(changes))

    def finish(self, state: str) -> None:
        """Trim to what is committed, set the state (complete or interrupted), release the lock."""
        try:
            self.attributes["state"] = state
            self._settle()
            self._lock.check()
            self._metadata.trim(self._lengths())
            self._storage.sync()
            self._publish()
            self._storage.sync()
        finally:
            self._lock.release()

    def abandon(self) -> None:
        """Release the lock and leave everything as it is."""
        self._lock.release()

    def stored(self) -> StoredRun:
        """Return what is committed, for reading."""
        return StoredRun(self._storage, self.attributes, self._metadata.view(self._lengths()))

    def _begin(self, capacity: int, mask: npt.NDArray[np.bool_] | None) -> None:
        """Write a run of no steps in place of what lies there, or leave nothing."""
        anchors = max(capacity // self.block, 1)
        try:
            self._storage.clear()
            write_constants(self._storage, self.layout)
            if mask is not None:
                write_mask(self._storage, mask)
            self._metadata.write_arrays(CONSTANTS if mask is None else (*CONSTANTS, schema.MASK))
            for axis, length in zip(STEP_AXES, (capacity, anchors, 1, 1), strict=True):
                self._metadata.grow(axis, length)
            self._blocks.open(self._lengths())
            self._storage.sync()
            self._publish()
            self._storage.sync()
        except BaseException:
            with contextlib.suppress(StoreError):
                self._storage.clear()
            raise

    def _lengths(self) -> dict[str, int]:
        found = map(len, (self.steps, self.anchors, self.evaluations, self.observed))
        lengths = dict(zip(STEP_AXES, found, strict=True))
        return {axis: lengths[axis] for axis in schema.step_axes(self._metadata.arrays)}

    def _in_groups(self) -> bool:
        """Return whether commits share syncs: only where a power loss can be told afterwards."""
        return self.sync_seconds > 0 and self._storage.syncs and boot_id() is not None

    def _publish(self) -> None:
        """Show readers what is committed."""
        shared = self._in_groups() and self.attributes["state"] == "recording"
        if not shared:
            self._synced_at = -math.inf  # the next block waits for no other's sync
        self._metadata.write_root(self.steps, self._lengths(), self._synced if shared else None)

    def _publish_synced(self) -> None:
        """Sync, then show it: after a power loss the view must not name what has no marker."""
        self._storage.sync()
        self._synced, self._synced_at = self._lengths(), time.monotonic()
        self._publish()
        if self._in_groups():
            # How far it is synced must stand there before anything that is not.
            self._storage.sync()

    def _settle(self) -> None:
        """Make the files what `cut` left of the run."""
        if not self._is_cut:
            return
        self._lock.check()
        self._metadata.mend()
        if self._power_was_lost:
            # Markers of what did not survive go while the root still says that they do not count.
            self._blocks.put_markers()
        # View, markers, files: whenever a process or the power goes, nothing names what is gone.
        self._publish_synced()
        self._storage.sync()
        self._blocks.put_markers()
        delete_orphans(self._storage, self._metadata.view(self._lengths()))
        self._storage.sync()
        self._is_cut = False

    def _make_room(self, block: Block) -> None:
        self._metadata.grow("step", block.stop)
        self._metadata.grow("anchor", len(self.anchors) + (block.anchor is not None))
        self._metadata.grow("eval_step", len(self.evaluations) + len(block.evaluations))
        self._metadata.grow(OBSERVED, len(self.observed) + len(block.observations.steps))
        new = [name for name in block.series if name not in self._metadata.arrays]
        self._metadata.add({name: schema.scalar_metadata() for name in new})
        for name in new:
            self._blocks.add_scalar(name, len(self.steps))
        added = bool(new)
        if block.anchor is not None:
            added |= self._metadata.add_states(block.anchor, self.layout.parameters)
        if added:
            # Whoever resumes after the marker but before the view must know of them.
            self._publish_synced()

    def _mark(self, evaluations: list[Evaluation], observations: Observations) -> None:
        for axis, known, steps in (
            ("eval_step", self.evaluations, [evaluation.step for evaluation in evaluations]),
            (OBSERVED, self.observed, observations.steps),
        ):
            if steps:
                self._blocks.mark(axis, len(known), steps)
                known.extend(steps)

    def _load_markers(self) -> None:
        metadata = self._metadata.arrays
        survived, synced = surviving_lengths(self.attributes), synced_lengths(self.attributes)
        markers = read_markers(self._storage, metadata, ahead=survived is None)
        self.steps, self.anchors = markers.steps, markers.anchors
        self.evaluations = markers.evaluations
        self.observed = markers.observed or []
        self._metadata.look_up_capacity(self._lengths())
        self._blocks.measure(len(self.steps))
        self.attributes.pop(SYNCED, None)
        self._power_was_lost = survived is not None
        if survived is not None:
            warnings.warn(
                f"{self._storage.path}: the machine has booted since this was written; what was "
                f"not synced before is left out, and {len(self.steps):,} steps are left",
                PowerLossWarning,
                stacklevel=3,
            )
        elif synced is not None:
            # Its writer died before it synced them.
            self._storage.unsure(unsynced_keys(metadata, synced, self._lengths()))
