"""Open the run that a recorder writes: a new one, or one that is resumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckptlab.errors import RecordingError
from ckptlab.record.create_run import create_run
from ckptlab.record.distributed import Peers, digest_parameters
from ckptlab.record.pipeline.exchange import Exchange
from ckptlab.record.pipeline.sharded_writer import ShardedWriter, View
from ckptlab.record.restore import (
    cut_after,
    cut_at,
    require_at,
    require_resumable,
    restore,
    restore_beside,
)
from ckptlab.record.schedule import Schedule
from ckptlab.record.state.model_tensors import Capture, warn_of_extra_state
from ckptlab.record.state.training import Training
from ckptlab.record.together import Together
from ckptlab.store.backends.base import ROOT, Storage
from ckptlab.store.format.zarr_metadata import shard_rows
from ckptlab.store.read.reader import StoredRun
from ckptlab.store.write.target import is_free
from ckptlab.store.write.writer import StoreWriter


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a recorder was told of the run, checked; arguments are those of the Recorder.

    `plan` replaces attributes of a run that is resumed, `create` are the arguments of `create_run`
    for a new one.
    """

    storage: Storage
    schedule: Schedule
    observe: Schedule | None
    start: int
    resume: bool | str
    at: int | None
    sync_seconds: float
    plan: dict[str, Any]
    create: dict[str, Any]

    def finds_run(self) -> bool:
        """Return whether there is a run to resume."""
        return self.resume is True or (self.resume == "auto" and not is_free(self.storage))

    def meet(self, peers: Peers, captured: Capture, training: Training, *, first: bool) -> bool:
        """Have all ranks agree on what is recorded; return whether the first one finds a run."""
        facts = {
            "path": self.storage.path,
            "steps": self.schedule.text,
            "start": self.start,
            "resume": self.resume,
            "at": self.at,
            "tensors": captured.layout.to_attributes()["tensors"],
            "optimizer": training.kinds(),
            # Parts of a sharded model are compared where ranks hold the same ones.
            "weights": "" if captured.parts else digest_parameters(captured.parameters),
        }
        # What the others find may already be what the first one writes.
        return bool(peers.agree({**facts, "found": self.finds_run()} if first else facts)["found"])

    def open_beside(self, captured: Capture, training: Training, *, found: bool) -> int:
        """Restore model and optimizers on a rank that does not write; return its step."""
        if not found:
            return self.start
        if self.at is not None:
            return self.at
        return restore_beside(self.storage, captured, training)

    def open_writer(
        self, captured: Capture, training: Training, *, found: bool
    ) -> tuple[StoreWriter, int, int]:
        """Begin the run, or restore from it; return its writer, its first step and its step."""
        writer = self._begin(captured, found=found)
        step = self.start
        try:
            warn_of_extra_state(captured.model)
            if found:
                step = self._restore(writer.stored(), captured, training)
                self._cut(writer, step)
        except BaseException:
            writer.abandon()
            raise
        start = int(writer.attributes["start_step"]) if found else self.start
        return writer, start, step

    def _begin(self, captured: Capture, *, found: bool) -> StoreWriter:
        if found:
            return StoreWriter.resume(self.storage, sync_seconds=self.sync_seconds)
        return create_run(
            self.storage,
            captured,
            self.schedule,
            sync_seconds=self.sync_seconds,
            observed=self.observe is not None,
            **self.create,
        )

    def open_together(
        self, captured: Capture, training: Training, together: Together, *, found: bool
    ) -> tuple[ShardedWriter, int, int]:
        """Do as `open_writer` on every rank that holds a part of a sharded model."""
        channel, first, parts = together.steps, None, captured.parts
        if parts is None:
            raise RecordingError("the model is not sharded")

        def begin() -> None:
            nonlocal first
            if together.is_first:
                first = self._begin(captured, found=found)

        digests = [digest_parameters([tensor]) for tensor in captured.tensors]
        size = shard_rows(captured.layout.parameters)
        exchange = Exchange(together.blocks, captured.layout, parts.ranges, digests, size)
        channel.do(begin)
        try:
            view, step = channel.share(first and View.of(first)), self.start
            channel.do(self._require_seen)
            if found:
                stored = StoredRun(self.storage, view.attributes, view.metadata)
                steps: list[int] = []
                channel.do(lambda: steps.append(self._restore(stored, captured, training)))
                step = steps[0]
                channel.do(lambda: None if first is None else self._cut(first, step))
                view = channel.share(first and View.of(first))
        except BaseException:
            if first is not None:
                first.abandon()
            raise
        layouts = captured.layout, captured.local
        writer = ShardedWriter(self.storage, first, view, exchange, together.blocks, *layouts)
        return writer, int(view.attributes.get("start_step", 0)), step

    def _require_seen(self) -> None:
        """Raise RecordingError on a rank that does not see the run that the first one writes."""
        if self.storage.size(ROOT) is None:
            raise RecordingError(
                f"{self.storage.path} is not there, though the first rank writes it; give a path "
                "that all ranks share, or a bucket"
            )

    def _restore(self, stored: StoredRun, captured: Capture, training: Training) -> int:
        require_resumable(stored, captured, self.schedule, self.observe)
        if self.at is None:
            return restore(stored, captured, training)
        require_at(stored, captured, self.at, self.schedule)
        return self.at

    def _cut(self, writer: StoreWriter, step: int) -> None:
        cut = cut_after if self.at is None else cut_at
        cut(writer, step, self.schedule, self.plan)
