"""Capture one row per recorded step, and hand rows to the writer thread a block at a time."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from ckptlab.cores import count_cores
from ckptlab.errors import CkptlabError, RecordingError, UnsupportedTensorError
from ckptlab.record.pipeline.buffers import BlockBuffer
from ckptlab.record.pipeline.calibrate import choose_codec
from ckptlab.record.pipeline.gradients import Gradients, writes_into_gradients
from ckptlab.record.pipeline.graphs import CudaGraphs
from ckptlab.record.pipeline.observer import Observed, Observer
from ckptlab.record.pipeline.rows import GraphedRows, Rows
from ckptlab.record.pipeline.sharded_writer import ShardedWriter
from ckptlab.record.pipeline.writer_thread import Commit, WriterThread
from ckptlab.record.restore import refill
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.state.training import Training
from ckptlab.record.streams import copies_stream
from ckptlab.record.together import Together
from ckptlab.record.update_watch import Number
from ckptlab.store.format.block import Evaluation
from ckptlab.store.write.writer import StoreWriter

NICE = 10
"""How much lower than training's the writer's priority is where training leaves it a core."""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Numbers of an update's mini-batch, and whether an AMP scaler skipped it."""

    loss: Number | None = None
    accuracy: Number | None = None
    lr: Number | None = None
    skipped: bool | torch.Tensor = False
    scalars: Mapping[str, Number | None] = field(default_factory=dict)


class StepCapture:
    """Fill a double buffer row by row, in the training loop's thread.

    A block that takes longer than `flush_seconds` to fill is committed as far as it is.

    Attributes
    ----------
    recorded : int
        Steps taken so far.
    evaluated : set of int
        Steps for which an evaluation is stored or about to be.
    stall_seconds : float
        Time spent waiting for a free buffer, or for all cores to compress.
    """

    def __init__(
        self,
        writer: StoreWriter | ShardedWriter,
        captured: Capture,
        training: Training,
        *,
        flush_seconds: float,
        choose_codec: bool = False,
        observer: Observer | None = None,
        together: Together | None = None,
    ) -> None:
        cuda = captured.device.type == "cuda"
        self._start = int(writer.attributes.get("start_step", 0))
        self.recorded = len(writer.steps)
        self._handed_over = writer.steps[-1] if writer.steps else -1
        self.evaluated = set(writer.evaluations)
        self.stall_seconds = 0.0
        self._writer = writer
        self._captured = captured
        self._training = training
        self._flush_seconds = flush_seconds
        self._codec_is_open = choose_codec
        self._observer = observer
        self._together = together
        self.late = False  # what ranks that go together agreed on
        self._evaluations: list[Evaluation] = []
        self._stall = 0.0
        self._base_time = _last_time(writer)
        self._warned = False
        self._side = copies_stream(captured.device)
        # Without compression there is nothing to give way with: it must be done before the next.
        self._gives_way = not cuda and not writer.codec.by_step
        self._gradients = Gradients(captured, training.optimizers)
        self._rows: Rows = Rows(captured, self._gradients)
        self._taken = False
        gradients = "gradients" in writer.arrays
        buffers = [BlockBuffer(captured, writer.block, gradients=gradients) for _ in range(2)]
        refill(buffers[0], writer, captured)
        self._next_start = buffers[0].start + (writer.block if buffers[0].count else 0)
        self._thread = WriterThread(
            writer,
            buffers,
            threads=encoding_threads() if cuda else count_cores(),
            shared=not cuda,
            nice=NICE if self._gives_way else 0,
            **({"everywhere": writer.everywhere} if isinstance(writer, ShardedWriter) else {}),
        )
        self._buffer = self._thread.take()[0] if buffers[0].count else None
        self._clock = self._block_began = time.perf_counter()

    @property
    def last_step(self) -> int:
        """The last step taken; -1 before the first."""
        buffer = self._buffer
        # Read from the last counted row, so that an interrupt within `record` cannot split them.
        if buffer and buffer.count:
            return int(buffer.series["step"][buffer.count - 1])
        return self._handed_over

    @property
    def overdue(self) -> bool:
        """Whether what was taken has waited longer than it may, in this process."""
        return time.perf_counter() - self._block_began > self._flush_seconds

    @property
    def failed(self) -> bool:
        """Whether the writer thread died of an error."""
        return self._thread.error is not None

    def check(self) -> None:
        """Raise the error the writer thread died of, if it did."""
        self._thread.check()

    def evaluate(self, evaluation: Evaluation) -> None:
        """Add an evaluation to the next commit, or what it adds to one that is not handed over."""
        for place, known in enumerate(self._evaluations):
            if known.step == evaluation.step:
                self._evaluations[place] = _merge(known, evaluation)
                return
        if evaluation.step not in self.evaluated:
            self.evaluated.add(evaluation.step)
            self._evaluations.append(evaluation)

    def expect_repeats(self) -> None:
        """Expect the tensors of a step where those of an earlier one were, as in CUDA graphs."""
        if self._side is None or isinstance(self._rows, GraphedRows):
            return
        gradients = "gradients" in self._writer.arrays
        staging = BlockBuffer(self._captured, 1, gradients=gradients)
        self._rows = GraphedRows(self._captured, self._gradients, staging, CudaGraphs())

    @torch.no_grad()
    def take_gradients(self, optimizer: str) -> None:
        """Copy an optimizer's gradients into the next row, before it writes into them."""
        self._captured.refresh()
        buffer = self._buffer or self._next_buffer()
        if len(self._training.optimizers) > 1 and not self._taken:
            self._gradients.leave_out(buffer, buffer.count)
        self._warn_of_zeroed(self._gradients.record(buffer, buffer.count, optimizer))
        self._captured.release()
        self._taken = True

    @torch.no_grad()
    def record(
        self, step: int, info: StepInfo, *, taken: bool = False, final: bool = False
    ) -> None:
        """Copy the model as it is now into the next row.

        With `taken`, the row keeps the gradients that `take_gradients` copied for this update.
        `final` marks a last state that the schedule leaves out, whose gradients nobody took.
        Raises RecordingError, with nothing recorded, if the model no longer holds its tensors.
        """
        self._captured.require_unchanged()
        buffer = self._buffer or self._next_buffer()
        slot, taken = buffer.count, taken and self._taken
        lost = final and any(map(writes_into_gradients, self._training.optimizers.values()))
        # Before any update, there is no gradient of one.
        out = not taken and (lost or step == self._start)
        if out:
            self._gradients.leave_out(buffer, slot)
        numbers = {
            "loss": info.loss,
            "batch_accuracy": info.accuracy,
            "lr": info.lr,
            **info.scalars,
        }
        on_device = buffer.put(slot, numbers)
        self._warn_of_zeroed(
            self._rows.write(buffer, slot, on_device, gradients=not (taken or out))
        )
        self._captured.release()
        self._taken = False
        now = time.perf_counter()
        buffer.series["step"][slot] = step
        buffer.series["wall_time"][slot] = self._base_time + now - self._clock
        buffer.series["stall_time"][slot], self._stall = self._stall, 0.0
        if isinstance(info.skipped, torch.Tensor):
            buffer.skips[slot] = info.skipped
        else:
            buffer.series["skipped"][slot] = info.skipped
        buffer.count += 1
        self.recorded += 1
        full = buffer.count == self._writer.block
        if full or self._is_late():
            commit = self._submit(buffer)
            if not full:
                self._block_began = now
            if self._gives_way and torch.get_num_threads() >= count_cores():
                # A core taken from training stops its other cores, too, which wait for it at the
                # end of every operation: on all of them at once, compression costs the least.
                self._waited(self._thread.wait_encoded(commit))

    def flush_if_late(self) -> None:
        """Commit what has waited longer than `flush_seconds`, at a step not recorded."""
        buffer, now, late = self._buffer, time.perf_counter(), self._is_late()
        if buffer is not None and buffer.count > buffer.sent and late:
            self._submit(buffer, exact=False)
            self._block_began = now
        elif late and self._observer is not None and self._observer.steps:
            # Evaluations wait for a block: they count at steps that are committed.
            self._thread.put(Commit(None, 0, None, [], last=False, observed=self._take_observed()))
            self._block_began = now

    def _is_late(self) -> bool:
        return self.overdue if self._together is None else self.late

    def _take_observed(self) -> Observed:
        return Observed() if self._observer is None else self._observer.take()

    def commit_observed(self) -> None:
        """Commit what was observed, without a block, once there is no more room."""
        if self._observer is not None and self._observer.full:
            self._thread.put(Commit(None, 0, None, [], last=False, observed=self._take_observed()))

    def flush(self, *, exact: bool) -> None:
        """Hand over what is left; `exact` if the optimizer is at the last recorded step."""
        buffer = self._buffer
        # Evaluations past the last recorded step belong to no state that is kept.
        self._evaluations = [e for e in self._evaluations if e.step <= self.last_step]
        if buffer is not None and buffer.count > buffer.sent:
            self._submit(buffer, exact=exact)
        elif self._evaluations or (self._observer is not None and self._observer.steps):
            evaluations, self._evaluations = self._evaluations, []
            observed = self._take_observed()
            self._thread.put(Commit(None, 0, None, evaluations, last=False, observed=observed))

    def finish(self, step: int, info: StepInfo, *, exact: bool) -> CkptlabError | None:
        """Record the last state if it is `exact`, and flush; return why it could not be stored."""
        if self._thread.error is not None:
            return None
        try:
            if exact and self.last_step != step:
                self.record(step, info, taken=True, final=True)
            self.flush(exact=exact)
        except (RecordingError, UnsupportedTensorError) as error:
            # The optimizer cannot be stored, or the model was rebuilt; the weights so far can.
            self.flush(exact=False)
            return error
        return None

    def drain(self, *, exact: bool) -> None:
        """Flush, and wait until everything handed over is committed and synced."""
        self.flush(exact=exact)
        last = Commit(None, 0, None, [], last=False)
        self._thread.put(last)
        self._waited(self._thread.wait_encoded(last))

    def close(self, seconds: float | None = None) -> None:
        """Wait until everything handed over is committed, or has failed; or for some time only."""
        self._thread.close(seconds)

    def _warn_of_zeroed(self, found: bool) -> None:
        if (not found or self._thread.zeroed) and not self._warned:
            self._warned = True
            warnings.warn(
                "no gradient was there to record: call recorder.step() before zero_grad()",
                stacklevel=5,
            )

    def _next_buffer(self) -> BlockBuffer:
        buffer, waited = self._thread.take()
        self._waited(waited)
        buffer.reuse()
        buffer.start = self._next_start
        self._next_start += self._writer.block
        self._buffer = buffer
        self._block_began = time.perf_counter()
        return buffer

    def _choose_codec(self, buffer: BlockBuffer) -> None:
        """Choose by the time between the first recorded steps, before any of them is written."""
        self._codec_is_open = False
        seconds = np.diff(buffer.series["wall_time"][: buffer.count])
        if not len(seconds):
            return
        spare = max(count_cores() - torch.get_num_threads(), 0)
        codec = choose_codec(
            self._captured.local.parameters,
            float(np.median(seconds)),
            threads=spare if self._side is None else encoding_threads(),
        )
        if self._together is not None:
            codec = self._together.steps.share(codec)
        self._writer.set_codec(codec)
        self._gives_way &= not self._writer.codec.by_step

    def _submit(self, buffer: BlockBuffer, *, exact: bool = True) -> Commit:
        if self._codec_is_open:
            self._choose_codec(buffer)
        state = self._training.copy(self._captured, self.last_step) if exact else None
        buffer.send(buffer.count, self._side)
        full = buffer.count == self._writer.block
        evaluations, self._evaluations = self._evaluations, []
        buffer.sent = buffer.count
        observed = self._take_observed()
        commit = Commit(buffer, buffer.count, state, evaluations, full, observed)
        self._thread.put(commit)
        if full:
            self._handed_over = self.last_step
            self._buffer = None
        return commit

    def _waited(self, seconds: float) -> None:
        self._stall += seconds
        self.stall_seconds += seconds


def encoding_threads() -> int:
    """Return how many cores compress where training runs on a GPU, for all recordings together.

    One is left to the thread that trains, and one to those that write.
    """
    return max(count_cores() - 2, 1)


def _merge(known: Evaluation, added: Evaluation) -> Evaluation:
    """Fill in what the first evaluation at a step left out."""
    loss = added.loss if np.isnan(known.loss) else known.loss
    accuracy = added.accuracy if np.isnan(known.accuracy) else known.accuracy
    return replace(known, loss=loss, accuracy=accuracy)


def _last_time(writer: StoreWriter | ShardedWriter) -> float:
    times = writer.stored().small("wall_time")
    known = times[~np.isnan(times)]  # a repair may have lost some
    return float(known[-1]) if len(known) else 0.0
