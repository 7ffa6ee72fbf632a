"""Open the run that a recorder writes: a new one, or one that is resumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ckptlab.record.create_run import create_run
from ckptlab.record.distributed import Peers, digest_parameters
from ckptlab.record.restore import go_on_at, restore, restore_beside
from ckptlab.record.schedule import Schedule
from ckptlab.record.state.model_tensors import Capture, warn_of_extra_state
from ckptlab.record.state.training import Training
from ckptlab.store.backends.base import Storage
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

    def meet(self, peers: Peers, captured: Capture, *, first: bool) -> bool:
        """Have all ranks agree on what is recorded; return whether the first one finds a run."""
        facts = {
            "path": self.storage.path,
            "steps": self.schedule.text,
            "start": self.start,
            "resume": self.resume,
            "at": self.at,
            "tensors": captured.layout.to_attributes()["tensors"],
            "weights": digest_parameters(captured.parameters),
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
        if not found:
            writer = create_run(
                self.storage,
                captured,
                self.schedule,
                sync_seconds=self.sync_seconds,
                observed=self.observe is not None,
                **self.create,
            )
        else:
            writer = StoreWriter.resume(self.storage, sync_seconds=self.sync_seconds)
        start = step = self.start
        try:
            warn_of_extra_state(captured.model)
            if found and self.at is not None:
                start = go_on_at(writer, captured, self.at, self.schedule, self.observe, self.plan)
                step = self.at
            elif found:
                start, step = restore(
                    writer, captured, training, self.schedule, self.observe, self.plan
                )
        except BaseException:
            writer.abandon()
            raise
        return writer, start, step
