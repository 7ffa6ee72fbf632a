"""The hot path of recording: one row a step, handed over a block at a time."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch

from ckptlab.cores import count_cores
from ckptlab.record.pipeline.buffers import Buffer
from ckptlab.record.pipeline.flatten import Gather
from ckptlab.record.pipeline.gradients import (
    GradientNorms,
    write_gradients,
    writes_into_gradients,
)
from ckptlab.record.pipeline.writer_thread import Committer, Job
from ckptlab.record.restore import refill
from ckptlab.record.state.model_tensors import Capture
from ckptlab.record.state.optimizer import copy_state
from ckptlab.store.format.block import Evaluation
from ckptlab.store.format.codecs import CODECS
from ckptlab.store.write.writer import StoreWriter

NICE = 10
"""How much lower than training's the writer's priority is where training leaves it a core."""

Number = float | torch.Tensor


@dataclass(frozen=True, slots=True)
class Observed:
    """What the training loop says of an update, beside what is read from the model.

    Parameters
    ----------
    loss, accuracy, lr : float, Tensor or None
        Of the mini-batch; one number each.
    skipped : bool
        Whether an AMP scaler skipped the update.
    """

    loss: Number | None = None
    accuracy: Number | None = None
    lr: Number | None = None
    skipped: bool = False


class Filler:
    """Fills buffers and hands them to the writer thread; it runs in the training loop's thread.

    Parameters
    ----------
    writer : StoreWriter
        Of the run, at its committed end.
    captured : Capture
        The model's live tensors.
    optimizer : Optimizer or None
        Its state is copied at the end of every block.
    flush_seconds : float
        A block that takes longer to fill is committed as far as it is.

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
        writer: StoreWriter,
        captured: Capture,
        optimizer: torch.optim.Optimizer | None,
        *,
        flush_seconds: float,
    ) -> None:
        cuda = captured.device.type == "cuda"
        self._start = int(writer.attributes.get("start_step", 0))
        self.recorded = len(writer.steps)
        self._handed_over = writer.steps[-1] if writer.steps else -1
        self.evaluated = set(writer.evaluations)
        self.stall_seconds = 0.0
        self._writer = writer
        self._captured = captured
        self._optimizer = optimizer
        self._flush_seconds = flush_seconds
        self._evaluations: list[Evaluation] = []
        self._stall = 0.0
        self._base_time = _last_time(writer)
        self._warned = False
        self._side = torch.cuda.Stream(captured.device) if cuda else None
        # What is not compressed has nothing to give way with, and must be done before the next is.
        self._gives_way = not cuda and not CODECS[writer.attributes["codec"]].by_step
        self._norms = GradientNorms(captured.parameters)
        live = {"weights": captured.parameters, **captured.buffers}
        self._gathers = {array: Gather(tensors) for array, tensors in live.items()}
        self._taken = False
        gradients = "gradients" in writer.arrays
        buffers = [Buffer(captured, writer.block, gradients=gradients) for _ in range(2)]
        refill(buffers[0], writer)
        self._next_start = buffers[0].start + (writer.block if buffers[0].count else 0)
        self._committer = Committer(
            writer,
            buffers,
            threads=encoding_threads() if cuda else count_cores(),
            shared=not cuda,
            nice=NICE if self._gives_way else 0,
        )
        self._buffer = self._committer.take()[0] if buffers[0].count else None
        self._clock = self._block_began = time.perf_counter()

    @property
    def last_step(self) -> int:
        """The last step taken; -1 before the first."""
        buffer = self._buffer
        # Of the row that counts, so that an interrupt within `record` leaves no two opinions.
        return (
            int(buffer.series["step"][buffer.count - 1])
            if buffer and buffer.count
            else (self._handed_over)
        )

    @property
    def failed(self) -> bool:
        """Whether the writer thread died of an error."""
        return self._committer.error is not None

    def check(self) -> None:
        """Raise the error the writer thread died of, if it did."""
        self._committer.check()

    def evaluate(self, evaluation: Evaluation) -> None:
        """Add an evaluation; it is committed with the next block."""
        self.evaluated.add(evaluation.step)
        self._evaluations.append(evaluation)

    @torch.no_grad()
    def take_gradients(self) -> None:
        """Copy the gradients into the next row, before the optimizer writes into them."""
        buffer = self._buffer or self._next_buffer()
        self._record_gradients(buffer, buffer.count)
        self._taken = True

    @torch.no_grad()
    def record(
        self, step: int, observed: Observed, *, taken: bool = False, final: bool = False
    ) -> None:
        """Copy the model as it is now into the next row.

        Parameters
        ----------
        step : int
            Updates done.
        observed : Observed
            Of the last update.
        taken : bool
            Keep the gradients that `take_gradients` has copied for this update.
        final : bool
            The last state, recorded although the schedule leaves it out: nobody knew that its
            gradients would be asked for.
        """
        buffer = self._buffer or self._next_buffer()
        slot, rows = buffer.count, buffer.rows
        for array in self._captured.buffers:
            self._gathers[array].tensors = self._captured.live_buffers(array)
        for array, gather in self._gathers.items():
            gather.copy(rows[array][slot], buffer.views[array][slot])
        if step == self._start:  # before any update, there is no gradient of one
            self._leave_gradients_out(buffer, slot)
        elif not (taken and self._taken):
            if final and writes_into_gradients(self._optimizer):
                self._leave_gradients_out(buffer, slot)
            else:
                self._record_gradients(buffer, slot)
        self._taken = False
        _put(rows["loss"][slot], observed.loss)
        _put(rows["batch_accuracy"][slot], observed.accuracy)
        _put(rows["lr"][slot], observed.lr)
        now = time.perf_counter()
        buffer.series["step"][slot] = step
        buffer.series["wall_time"][slot] = self._base_time + now - self._clock
        buffer.series["stall_time"][slot], self._stall = self._stall, 0.0
        buffer.series["skipped"][slot] = observed.skipped
        buffer.count += 1
        self.recorded += 1
        full = buffer.count == self._writer.block
        if full or now - self._block_began > self._flush_seconds:
            job = self._submit(buffer)
            if not full:
                self._block_began = now
            if self._gives_way and torch.get_num_threads() >= count_cores():
                # A core taken from training stops its other cores, too, which wait for it at the
                # end of every operation: on all of them at once, compression costs the least.
                self._waited(self._committer.wait_encoded(job))

    def flush(self, *, exact: bool) -> None:
        """Hand over what is left; `exact` if the optimizer is at the last recorded step."""
        buffer = self._buffer
        # Past the last recorded step there is nothing that they could belong to.
        self._evaluations = [e for e in self._evaluations if e.step <= self.last_step]
        if buffer is not None and buffer.count > buffer.sent:
            self._submit(buffer, exact=exact)
        elif self._evaluations:
            self._committer.put(Job(None, 0, None, self._evaluations, last=False))
            self._evaluations = []

    def close(self) -> None:
        """Wait until everything handed over is committed, or has failed."""
        self._committer.close()

    def _leave_gradients_out(self, buffer: Buffer, slot: int) -> None:
        for name in ("gradient_norm", "gradient_mean_abs", "gradients"):
            if name in buffer.rows:
                buffer.rows[name][slot].fill_(torch.nan)

    def _record_gradients(self, buffer: Buffer, slot: int) -> None:
        rows = buffer.rows
        found = self._norms.write(rows["gradient_norm"][slot], rows["gradient_mean_abs"][slot])
        if (not found or self._committer.zeroed) and not self._warned:
            self._warned = True
            warnings.warn(
                "no gradient was there to record: call recorder.step() before zero_grad()",
                stacklevel=5,
            )
        if "gradients" in buffer.views:
            write_gradients(self._captured.parameters, buffer.views["gradients"][slot])

    def _next_buffer(self) -> Buffer:
        buffer, waited = self._committer.take()
        self._waited(waited)
        buffer.reuse()
        buffer.start = self._next_start
        self._next_start += self._writer.block
        self._buffer = buffer
        self._block_began = time.perf_counter()
        return buffer

    def _submit(self, buffer: Buffer, *, exact: bool = True) -> Job:
        self._captured.require_unchanged()
        state = copy_state(self._optimizer, self._captured, self.last_step) if exact else None
        buffer.send(buffer.count, self._side)
        full = buffer.count == self._writer.block
        evaluations, self._evaluations = self._evaluations, []
        buffer.sent = buffer.count
        job = Job(buffer, buffer.count, state, evaluations, full)
        self._committer.put(job)
        if full:
            self._handed_over = self.last_step
            self._buffer = None
        return job

    def _waited(self, seconds: float) -> None:
        self._stall += seconds
        self.stall_seconds += seconds


def _last_time(writer: StoreWriter) -> float:
    times = writer.stored().small("wall_time")
    known = times[~np.isnan(times)]  # a repair may have lost some
    return float(known[-1]) if len(known) else 0.0


def encoding_threads() -> int:
    """Return how many cores compress where training runs on a GPU."""
    return min(4, max(count_cores() - 1, 1))


def _put(row: torch.Tensor, value: Number | None) -> None:
    if isinstance(value, torch.Tensor):
        row.copy_(value.detach().reshape(1), non_blocking=True)
    else:
        row.fill_(float("nan") if value is None else float(value))
