"""A recording in progress, on the process that writes it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from ckptlab.errors import CkptlabError, RecordingError
from ckptlab.record import defaults
from ckptlab.record.opening import Opening
from ckptlab.record.pipeline.observer import Observer
from ckptlab.record.pipeline.sharded_writer import ShardedWriter
from ckptlab.record.pipeline.step_capture import StepCapture, StepInfo
from ckptlab.record.restore import read_vector
from ckptlab.record.signals import Interrupts
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.state.sharding import whole_number
from ckptlab.record.state.training import Training
from ckptlab.record.stats import RecorderStats
from ckptlab.record.together import LEAVING_SECONDS, ApartError, Place, Together, lost_rank
from ckptlab.record.update_watch import Number, UpdateWatch
from ckptlab.store.write.writer import StoreWriter


class Session:
    """Records the steps of one training loop, from opening a run to leaving it.

    `step_number` counts the updates; `found` tells whether there is a run to resume.
    """

    def __init__(
        self,
        opening: Opening,
        captured: Capture,
        training: Training,
        flush_seconds: float,
        *,
        found: bool,
        together: Together | None = None,
    ) -> None:
        self._opening = opening
        self._captured = captured
        self._training = training
        self._together = together
        self._writer: StoreWriter | ShardedWriter
        if together is None:
            opened = opening.open_writer(captured, training, found=found)
            self._writer, self._start, self.step_number = opened
        else:
            parts = opening.open_together(captured, training, together, found=found)
            self._writer, self._start, self.step_number = parts
        try:
            self.observer = self._make_observer()
            self.steps = StepCapture(
                self._writer,
                captured,
                training,
                flush_seconds=flush_seconds,
                choose_codec=opening.create["codec"] == defaults.AUTO and not found,
                observer=self.observer,
                together=together,
            )
        except BaseException:
            self._writer.abandon()
            raise
        self.interrupts = Interrupts(opening.storage.hurry)
        self.watch = UpdateWatch(self._is_due)
        self.watch.attach(training.optimizers, self._take_gradients)
        self._info = StepInfo()

    def begin(self) -> None:
        """Record the first state of a new run."""
        first = self.steps.last_step < 0 and self.step_number == self._start
        if first and self._start in self._opening.schedule:
            self._observe(gradients=False)
            self.steps.record(self._start, self._info)

    def step(
        self,
        loss: Number | None,
        accuracy: Number | None,
        lr: Number | None,
        skipped: bool | torch.Tensor | None,
        scalars: Mapping[str, Number],
    ) -> None:
        """Count an update, and record it if the schedule says so; see `Recorder.step`."""
        self.step_number += 1
        act = True if self._together is None else self._meet(self._together)
        self.steps.check()
        seen = self.watch.finish_step()
        self._training.attached.warn_of_missing()
        self._info = StepInfo(
            _detach(loss),
            _detach(accuracy),
            seen.lr if lr is None else _detach(lr),
            seen.skipped if skipped is None else skipped,
            {**seen.scalars, **{name: _detach(value) for name, value in scalars.items()}},
        )
        self._observe(gradients=True)
        if self.step_number in self._opening.schedule:
            self.steps.record(self.step_number, self._info, taken=seen.taken)
        else:
            self.steps.flush_if_late()
        if act and self.interrupts.pending is not None:
            self.interrupts.act()

    def _meet(self, together: Together) -> bool:
        """Agree with the other ranks on what this step does; return whether signals count now."""
        place = Place(
            step=self.step_number,
            before=-self.step_number,
            signal=self.interrupts.pending or 0,
            late=int(self.steps.overdue),
            failed=int(self.steps.failed),
            staying=1,
        )
        found = together.meet(place)
        self.steps.late = bool(found.late)
        if found.failed:
            self.steps.close(LEAVING_SECONDS)  # it may wait for the rank that failed
            self.steps.check()
            raise RecordingError("recording failed on another rank, which says why")
        if found.signal and self.interrupts.pending is None:
            self.interrupts.pending = found.signal
        return bool(found.signal)

    def _leave(self, together: Together, error: BaseException | None) -> tuple[bool, bool]:
        """Agree on how to leave; return whether states are exact, and whether no rank failed."""
        alone = error is not None and not self.interrupts.acted
        found = together.meet(
            Place(
                step=self.step_number,
                before=-self.step_number,
                failed=int(self.steps.failed),
                error=int(error is not None),
                leaving=1,
                inexact=int(not self._is_exact(error)),
            ),
            LEAVING_SECONDS if alone else None,
        )
        if found.failed and not self.steps.failed:
            raise RecordingError("recording failed on another rank, which says why")
        return not found.inexact, not found.error

    def flush(self) -> None:
        """Commit what is recorded so far, and wait until it survives a power loss."""
        self.steps.drain(exact=self._is_exact(None))

    def end(self, error: BaseException | None) -> None:
        """Commit what is left; the run is complete unless an error ends it."""
        try:
            # Signals are still held back: the first must not tear what is being written.
            self._close(error)
        finally:
            self.interrupts.remove()
            self.watch.remove()
        if not self.interrupts.acted:
            self.interrupts.act()

    def stats(self) -> RecorderStats:
        """Count steps, bytes and waiting so far."""
        committed = len(self._writer.steps)
        raw = 4 * self._captured.layout.parameters * committed
        stored, stalled = self._writer.weight_bytes, self.steps.stall_seconds
        return RecorderStats(self.steps.recorded, committed, raw, stored, stalled)

    def _is_due(self) -> bool:
        """Return whether the update that begins is recorded or observed."""
        step = self.step_number + 1
        return self._is_recorded(step) or self._is_observed(step)

    def _is_recorded(self, step: int) -> bool:
        return step in self._opening.schedule or step == self._opening.create["total_steps"]

    def _is_observed(self, step: int) -> bool:
        return self._opening.observe is not None and step in self._opening.observe

    def _take_gradients(self, optimizer: str) -> None:
        step = self.step_number + 1
        if self._is_recorded(step):
            self.steps.take_gradients(optimizer)
        if self.observer is not None and self._is_observed(step):
            self.observer.take_gradients(optimizer)

    def _make_observer(self) -> Observer | None:
        if self._opening.observe is None:
            return None
        stored = self._writer.stored()
        resumed = bool(len(stored.steps))
        return Observer(
            self._captured,
            self._training.optimizers,
            read_vector(self._captured, stored, self._start) if resumed else None,
            knows_previous=not resumed or self.step_number in self._writer.observed[-1:],
        )

    def _observe(self, *, gradients: bool) -> None:
        if self.observer is None or not self._is_observed(self.step_number):
            return
        info = self._info
        numbers = {"loss": info.loss, "batch_accuracy": info.accuracy, "lr": info.lr}
        self.observer.observe(self.step_number, numbers, gradients=gradients)
        self.steps.commit_observed()

    def _close(self, error: BaseException | None) -> None:
        try:
            exact, whole = self._is_exact(error), error is None
            if self._together is not None:
                exact, whole = self._leave(self._together, error)
            lost = self.steps.finish(self.step_number, self._info, exact=exact)
            self.steps.close()
            self.steps.check()
            self._writer.finish("complete" if whole and lost is None else "interrupted")
            if self._together is not None:
                self._together.close()
        except BaseException as failure:
            self.steps.close(None if self._together is None else LEAVING_SECONDS)
            self._writer.abandon()
            if failure is error:
                return
            apart = isinstance(failure, ApartError)  # because of the loop's error, which says why
            if error is None or (isinstance(failure, CkptlabError) and not apart):
                raise
            died = None if self._together is None else lost_rank(error)
            if died is not None:
                raise died from error
            if not isinstance(failure, Exception):
                raise
            # Such as a lost device: what the loop failed of says more.
            warnings.warn(f"the last steps could not be recorded: {failure}", stacklevel=4)
            return
        if lost is not None and not isinstance(error, RecordingError):
            raise lost

    def _is_exact(self, error: BaseException | None) -> bool:
        """Return whether model and optimizer are in the state after the counted updates."""
        if self.watch.ahead or isinstance(error, RecordingError):
            return False
        if error is None or self.interrupts.acted:
            return True
        # A forward pass since the last update may have changed buffers that are not recorded yet.
        whole = self.steps.last_step == self.step_number or not self._captured.buffers
        return self.watch.attached and whole


def _detach(value: Any) -> Any:
    """Let go of the graph that a loss holds."""
    return whole_number(value).detach() if isinstance(value, torch.Tensor) else value
