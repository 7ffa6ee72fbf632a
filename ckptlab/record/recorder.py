"""Record dense snapshots of any PyTorch training loop: three lines added to it (see `Recorder`)."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import CkptlabError, RecordingError
from ckptlab.record import arguments, defaults
from ckptlab.record.create_run import create_run
from ckptlab.record.distributed import rank, ranks
from ckptlab.record.left_open import LeftOpenError, close_left_open, forget, remember
from ckptlab.record.memory import parse_memory
from ckptlab.record.pipeline.step_capture import StepCapture, StepInfo
from ckptlab.record.restore import restore, restore_beside
from ckptlab.record.signals import Interrupts
from ckptlab.record.state.model_tensors import capture, warn_of_extra_state
from ckptlab.record.stats import RecorderStats
from ckptlab.record.update_watch import Number, UpdateWatch
from ckptlab.store.backends.base import Storage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Evaluation
from ckptlab.store.format.codecs import require_public
from ckptlab.store.write.writer import StoreWriter


class Recorder:
    """Record every scheduled step of a training loop into a Zarr store.

    Use it as a context manager: entering records the step it starts at, leaving commits what is
    left. An exception or a signal in between commits what was recorded and marks the run
    interrupted. In a notebook call `open` and `close` instead.

    Parameters
    ----------
    path : str, path-like or Storage
        Where the run is written: a local path or a URL such as ``s3://bucket/run.zarr``.
    model : Module
        Any module; compiled and DistributedDataParallel ones are unwrapped, and of several ranks
        only the first writes.
    optimizer : Optimizer, optional
        The one that trains the model; stored after every block, so that training can resume.
    steps : str
        Which steps: ``"0:2000, 2000:20000:100"``, ``"log:20"``. The last state is always recorded.
    arrays : str or sequence of str
        Large arrays: ``weights``, which always are recorded, and optionally ``gradients``.
    codec : str
        ``dense``, ``fast`` or ``raw`` (not compressed): the smaller, the more it costs.
    memory : int or str
        Upper bound for the buffers; sets the steps of a block.
    flush_seconds : float
        The next `step` commits steps that have waited this long for their block to fill.
    sync_seconds : float
        How much a power loss may cost: while blocks wait to be written, commits share syncs for so
        long. 0 syncs every commit, as is done where there are several ranks.
    fsync : bool
        Whether commits survive a power loss at all.
    outage_seconds : float
        How long to retry an object store that stops answering; full buffers then stop training.
    include, exclude : str or sequence of str, optional
        Patterns of the names to record.
    resume : bool
        Continue the run at `path`, with its block, codec and arrays: restores model and optimizer.
    overwrite : bool
        Replace the run at `path`.
    total_steps : int, optional
        Planned updates, where known.
    steps_per_epoch : int, optional
        Lets `steps` use ``ep``.
    start : int
        Updates the model has had when recording begins.
    mask : ndarray of bool, shape (param,), optional
        Which weights a sparse training keeps. It is stored, not applied.
    config, seeds, attributes : mapping, namespace or dataclass, optional
        Stored in the root attributes, as JSON: paths become text, NumPy numbers numbers.

    Attributes
    ----------
    step_number : int
        Updates done so far.

    Raises
    ------
    ConfigError
        If an argument is not accepted.
    UnsupportedTensorError
        If a parameter or buffer cannot be stored exactly.
    StoreError
        If the path is taken, locked, or cannot be written.

    Examples
    --------
    >>> with Recorder("run.zarr", model, optimizer, steps="0:2000") as recorder:  # doctest: +SKIP
    ...     for x, y in loader:
    ...         loss = criterion(model(x), y)
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...         recorder.step(loss=loss)
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Storage,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        steps: str = defaults.STEPS,
        arrays: str | Sequence[str] = ("weights",),
        codec: str = defaults.CODEC,
        memory: int | str = defaults.MEMORY,
        flush_seconds: float = defaults.FLUSH_SECONDS,
        sync_seconds: float = defaults.SYNC_SECONDS,
        fsync: bool = True,
        outage_seconds: float = defaults.OUTAGE_SECONDS,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        start: int = 0,
        mask: npt.NDArray[np.bool_] | None = None,
        config: Any = None,
        seeds: Any = None,
        attributes: Any = None,
    ) -> None:
        require_public(codec)
        self.step_number = self._start = arguments.check_count("start", start)
        self._schedule = arguments.check_steps(steps, steps_per_epoch)
        self._flush_seconds = arguments.check_seconds("flush_seconds", flush_seconds)
        seconds = arguments.check_seconds("sync_seconds", sync_seconds)
        # What is synced must be the same to every rank, on whichever host: everything.
        self._sync_seconds = seconds if ranks() == 1 else 0.0
        if total_steps is not None:
            total_steps = arguments.check_count("total_steps", total_steps)
        self._total_steps = total_steps
        outage = arguments.check_seconds("outage_seconds", outage_seconds)
        self._storage = open_storage(arguments.check_path(path), fsync=fsync, outage_seconds=outage)
        self.path = self._storage.path
        names = arguments.check_names("include", include), arguments.check_names("exclude", exclude)
        # Again on opening: a model that is moved to a device until then has other buffers.
        self._capture = partial(capture, model, include=names[0], exclude=names[1])
        self._captured = self._capture()
        self._optimizer = arguments.check_optimizer(optimizer, model)
        self._resume = resume
        config = arguments.plain_mapping("config", config)
        self._plan = {"config": config, "total_steps": total_steps}
        self._settings: dict[str, Any] = {
            "arrays": arguments.check_arrays(arrays),
            "codec": codec,
            "memory": parse_memory(memory),
            "mask": mask,
            "overwrite": overwrite,
            "sync_seconds": self._sync_seconds,
            "total_steps": total_steps,
            "attributes": {
                **arguments.plain_mapping("attributes", attributes),
                **self._plan,
                "seeds": arguments.plain_mapping("seeds", seeds),
                "schedule": self._schedule.text,
                "steps_per_epoch": steps_per_epoch,
                "start_step": self._start,
            },
        }
        self._pid = os.getpid()
        self._writes = rank() == 0  # the others restore and count
        self._interrupts = Interrupts()
        self._watch = UpdateWatch(self._is_due)
        self._info = StepInfo()
        self._state = "new"

    def __enter__(self) -> Self:
        self._open(hold_signals=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state = "closed"
        forget(self.path)
        # A forked child that leaves this block did not open it.
        if not self._writes or os.getpid() != self._pid:
            return
        try:
            # Signals are still held back: the first must not tear what is being written.
            self._close(error)
        finally:
            self._interrupts.remove()
            self._watch.remove()
        if not self._interrupts.acted:
            self._interrupts.act()

    def open(self) -> Self:
        """Begin to record without a `with` block, as in a notebook, and return the recorder.

        Signals act as usual. Without a `close`, the run is marked interrupted when Python exits or
        another recorder opens at the same path.

        Returns
        -------
        Recorder
            Itself.
        """
        self._open(hold_signals=False)
        remember(self.path, lambda: self.__exit__(LeftOpenError, LeftOpenError(), None))
        return self

    def close(self) -> None:
        """Commit what is left and mark the run complete; does nothing if it is closed."""
        if self._state == "open":
            self.__exit__(None, None, None)

    @property
    def stats(self) -> RecorderStats:
        """Steps, bytes and waiting so far."""
        if not self._writes or self._state == "new":
            return RecorderStats(0, 0, 0, 0, 0.0)
        committed = len(self._writer.steps)
        raw = 4 * self._captured.layout.parameters * committed
        stored = self._writer.weight_bytes
        steps = self._steps
        return RecorderStats(steps.recorded, committed, raw, stored, steps.stall_seconds)

    @property
    def evaluated(self) -> set[int]:
        """Steps for which an evaluation is stored or about to be."""
        return self._steps.evaluated if self._writes else set()

    def begin_update(self) -> None:
        """Note that an update begins, of which the optimizer's hooks do not tell in a CUDA graph.

        An exception before the next `step` then leaves out the state that it may have torn.
        """
        self._watch.updating = True

    def step(
        self,
        *,
        loss: Number | None = None,
        accuracy: Number | None = None,
        lr: Number | None = None,
        skipped: bool | torch.Tensor | None = None,
    ) -> None:
        """Note that one update was done; record it if the schedule says so.

        Call it once per update, after it; without an optimizer, before gradients are zeroed.

        Parameters
        ----------
        loss, accuracy : float or Tensor, optional
            Of the mini-batch; tensors of one element are copied without waiting for the device.
        lr : float or Tensor, optional
            Learning rate of the update; by default that of the optimizer's group 0 when it stepped.
        skipped : bool or Tensor, optional
            Whether an AMP scaler skipped the update; by default found out from the optimizer.

        Raises
        ------
        RecordingError
            If the model no longer holds the tensors that are recorded; what was recorded is kept.
        WriteError
            If recording failed; what was committed stays readable.
        KeyboardInterrupt, SystemExit
            If SIGINT or SIGTERM came since the last step, once the state is recorded.
        """
        self._require_open()
        arguments.check_number("loss", loss)
        arguments.check_number("accuracy", accuracy)
        arguments.check_number("lr", lr)
        self.step_number += 1
        if not self._writes:
            return
        self._steps.check()
        seen = self._watch.finish_step()
        self._info = StepInfo(
            _detach(loss),
            _detach(accuracy),
            seen.lr if lr is None else _detach(lr),
            seen.skipped if skipped is None else skipped,
        )
        if self.step_number in self._schedule:
            self._steps.record(self.step_number, self._info, taken=seen.single)
        else:
            self._steps.flush_if_late()
        if self._interrupts.pending is not None:
            self._interrupts.act()

    def evaluate(self, *, loss: Number | None = None, accuracy: Number | None = None) -> None:
        """Add an evaluation on the test set at the current step, in one call or in several.

        Parameters
        ----------
        loss, accuracy : float or Tensor, optional
            Mean loss; fraction of examples classified correctly.
        """
        self._require_open()
        if self._writes:
            arguments.check_number("loss", loss)
            arguments.check_number("accuracy", accuracy)
            numbers = [float("nan") if v is None else float(v) for v in (loss, accuracy)]
            evaluation = Evaluation(step=self.step_number, loss=numbers[0], accuracy=numbers[1])
            self._steps.evaluate(evaluation)

    def _open(self, *, hold_signals: bool) -> None:
        if self._state != "new":
            raise RecordingError("this recorder was used already; make a new one")
        close_left_open(self.path)
        self._captured = self._capture()
        if self._writes:
            self._open_writer(hold_signals=hold_signals)
        elif self._resume:
            self.step_number = restore_beside(self._storage, self._captured, self._optimizer)
        self._state = "open"

    def _open_writer(self, *, hold_signals: bool) -> None:
        captured = self._captured
        self._writer = writer = (
            StoreWriter.resume(self._storage, sync_seconds=self._sync_seconds)
            if self._resume
            else create_run(self._storage, captured, self._schedule, **self._settings)
        )
        try:
            warn_of_extra_state(captured.model)
            if self._resume:
                self._start, self.step_number = restore(
                    writer, captured, self._optimizer, self._schedule, self._plan
                )
            self._steps = StepCapture(
                writer, captured, self._optimizer, flush_seconds=self._flush_seconds
            )
        except BaseException:
            writer.abandon()
            raise
        self._watch.attach(self._optimizer, self._steps.take_gradients)
        if hold_signals:
            self._interrupts.install()
        first = self._steps.last_step < 0 and self.step_number == self._start
        if first and self._start in self._schedule:
            try:
                self._steps.record(self._start, self._info)
            except BaseException as error:
                self.__exit__(type(error), error, None)
                raise

    def _is_due(self) -> bool:
        """Return whether the update that begins is recorded."""
        step = self.step_number + 1
        return step in self._schedule or step == self._total_steps

    def _close(self, error: BaseException | None) -> None:
        try:
            lost = self._steps.finish(self.step_number, self._info, exact=self._is_exact(error))
            self._steps.close()
            self._steps.check()
            self._writer.finish("complete" if error is None and lost is None else "interrupted")
        except BaseException as failure:
            self._steps.close()
            self._writer.abandon()
            if failure is error:
                return
            if error is None or isinstance(failure, CkptlabError):
                raise
            if not isinstance(failure, Exception):
                raise
            # Such as a lost device: what the loop failed of says more.
            warnings.warn(f"the last steps could not be recorded: {failure}", stacklevel=3)
            return
        if lost is not None and not isinstance(error, RecordingError):
            raise lost

    def _is_exact(self, error: BaseException | None) -> bool:
        """Return whether model and optimizer are in the state after the counted updates."""
        if self._watch.ahead or isinstance(error, RecordingError):
            return False
        if error is None or self._interrupts.acted:
            return True
        # A forward pass since the last update may have changed buffers that are not recorded yet.
        whole = self._steps.last_step == self.step_number or not self._captured.buffers
        return self._watch.attached and whole

    def _require_open(self) -> None:
        if self._state != "open":
            raise RecordingError("the recorder records inside its `with` block, or after open()")


def _detach(value: Number | None) -> Number | None:
    """Let go of the graph that a loss holds."""
    return value.detach() if isinstance(value, torch.Tensor) else value
