"""The Recorder: dense snapshots of any PyTorch training loop.

Adding it to a loop takes three lines (see `Recorder`).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Self, SupportsFloat

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import (
    CkptlabError,
    ConfigError,
    RecordingError,
    UnsupportedTensorError,
    unknown_name,
)
from ckptlab.record.distributed import rank, ranks
from ckptlab.record.environment import describe_environment
from ckptlab.record.memory import parse_memory
from ckptlab.record.pipeline.buffers import block_size, bytes_per_step
from ckptlab.record.pipeline.step_capture import Filler, Number, Observed
from ckptlab.record.restore import require_resumable, restore, restore_beside
from ckptlab.record.schedule import parse_schedule
from ckptlab.record.signals import Interrupts
from ckptlab.record.state.model_tensors import capture
from ckptlab.store.backends.base import Storage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Evaluation
from ckptlab.store.format.codecs import require_public
from ckptlab.store.write.writer import StoreWriter


@dataclass(frozen=True, slots=True)
class RecorderStats:
    """How a recording is doing.

    Parameters
    ----------
    recorded, committed : int
        Steps taken so far, and steps that are safely in the store.
    raw_bytes, stored_bytes : int
        Committed weights as float32, and the files under ``weights/``.
    stall_seconds : float
        Time the training loop waited for recording.
    """

    recorded: int
    committed: int
    raw_bytes: int
    stored_bytes: int
    stall_seconds: float

    @property
    def ratio(self) -> float:
        """Compression: raw over stored bytes; NaN before the first commit."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else float("nan")


ARRAYS = ("weights", "gradients")
"""Large arrays that can be asked for; `weights` is always recorded."""

OPEN_ENDED_CAPACITY = 1024
"""Steps allocated at first for a schedule without an end."""


class Recorder:
    """Record every scheduled step of a training loop into a Zarr store.

    Use it as a context manager: entering records the step it starts at, leaving commits what is
    left. An exception or a signal in between commits what was recorded and marks the run
    interrupted.

    Parameters
    ----------
    path : str, path-like or Storage
        Where the run is written: a local path or a URL such as ``s3://bucket/run.zarr``.
    model : Module
        Any module; compiled and DistributedDataParallel ones are unwrapped, and of several ranks
        only the first writes.
    optimizer : Optimizer, optional
        Its state is stored at the end of every block, so that training can be taken up there.
    steps : str
        Which steps: ``"0:2000, 2000:20000:100"``, ``"log:20"``. The last state is always recorded.
    arrays : sequence of str
        Large arrays: ``weights``, and optionally ``gradients``.
    codec : str
        ``dense``, ``fast`` or ``raw`` (not compressed): the smaller, the more it costs.
    memory : int or str
        Upper bound for the buffers; sets the steps of a block.
    flush_seconds : float
        A block that takes longer to fill is also committed after this long.
    sync_seconds : float
        How much a power loss may cost: while blocks wait to be written, commits share syncs for so
        long. 0 syncs every commit, as is done where there are several ranks.
    fsync : bool
        Whether commits survive a power loss at all.
    outage_seconds : float
        How long to retry when an object store stops answering. Training goes on meanwhile, and
        waits once the buffers are full.
    include, exclude : sequence of str, optional
        Patterns of the names to record.
    resume : bool
        Take the run at `path` up: restores model and optimizer, sets `step_number`. Block, codec
        and arrays are the run's.
    overwrite : bool
        Replace the run at `path`.
    total_steps : int, optional
        Planned updates, where known.
    steps_per_epoch : int, optional
        Lets `steps` use ``ep``.
    start : int
        Updates the model has had when recording begins, where it is not at its initialisation.
    mask : ndarray of bool, shape (param,), optional
        Which weights a sparse training keeps; it is stored, and the training's to apply.
    config, seeds, attributes : mapping, optional
        JSON, stored in the root attributes.

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
        steps: str = "0:",
        arrays: Sequence[str] = ("weights",),
        codec: str = "dense",
        memory: int | str = "1GiB",
        flush_seconds: float = 60.0,
        sync_seconds: float = 10.0,
        fsync: bool = True,
        outage_seconds: float = 600.0,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        start: int = 0,
        mask: npt.NDArray[np.bool_] | None = None,
        config: Mapping[str, Any] | None = None,
        seeds: Mapping[str, int] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        for array in arrays:
            if array not in ARRAYS:
                raise unknown_name("array", array, ARRAYS)
        require_public(codec)
        self.step_number = self._start = start
        self._mask = mask
        self._schedule = parse_schedule(steps, steps_per_epoch)
        self._arrays = tuple(arrays)
        self._codec = codec
        self._memory = parse_memory(memory)
        self._flush_seconds = flush_seconds
        # What is synced must be the same to every rank, on whichever host: everything.
        self._sync_seconds = sync_seconds if ranks() == 1 else 0.0
        self._storage = open_storage(path, fsync=fsync, outage_seconds=outage_seconds)
        self.path = self._storage.path
        # Again on entering: what is moved to a device until then has other buffers.
        self._capture = partial(capture, model, include=include, exclude=exclude)
        self._captured = self._capture()
        self._optimizer = optimizer
        self._resume = resume
        self._overwrite = overwrite
        self._total_steps = total_steps
        self._plan = {"config": dict(config or {}), "total_steps": total_steps}
        self._attributes = {
            **(attributes or {}),
            **self._plan,
            "seeds": dict(seeds or {}),
            "schedule": steps,
            "steps_per_epoch": steps_per_epoch,
            "start_step": start,
        }
        self._pid = os.getpid()
        # Of several ranks one writes; the others restore and count.
        self._writes = rank() == 0
        self._interrupts = Interrupts()
        self._hooks: list[Any] = []
        self._updates = 0
        self._updating = False
        self._lr: Number | None = None
        self._observed = Observed()
        self._state = "new"

    def __enter__(self) -> Self:
        if self._state != "new":
            raise RecordingError("this recorder was used already; make a new one")
        self._captured = self._capture()
        if self._writes:
            self._open()
        elif self._resume:
            self.step_number = restore_beside(self._storage, self._captured, self._optimizer)
        self._state = "open"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state = "closed"
        # A forked child that leaves this block is not who opened it.
        if not self._writes or os.getpid() != self._pid:
            return
        try:
            # Signals are still held back: the first must not tear what is being written.
            self._close(error)
        finally:
            self._interrupts.remove()
            for hook in self._hooks:
                hook.remove()
        if not self._interrupts.acted:
            self._interrupts.act()

    @property
    def stats(self) -> RecorderStats:
        """Steps, bytes and waiting so far."""
        if not self._writes or self._state == "new":
            return RecorderStats(0, 0, 0, 0, 0.0)
        committed = len(self._writer.steps)
        raw = 4 * self._captured.layout.parameters * committed
        stored = self._writer.shards.weight_bytes
        filler = self._filler
        return RecorderStats(filler.recorded, committed, raw, stored, filler.stall_seconds)

    @property
    def evaluated(self) -> set[int]:
        """Steps for which an evaluation is stored or about to be."""
        return self._filler.evaluated if self._writes else set()

    def begin_update(self) -> None:
        """Note that an update begins, where the optimizer does not say so, as in a CUDA graph.

        An exception before the next `step` then leaves the state out that it may have torn.
        """
        self._updating = True

    def step(
        self,
        *,
        loss: Number | None = None,
        accuracy: Number | None = None,
        lr: Number | None = None,
        skipped: bool | None = None,
    ) -> None:
        """Note that one update was done; record it if the schedule says so.

        Call it once per update, after it; without an optimizer, before gradients are zeroed.

        Parameters
        ----------
        loss, accuracy : float or Tensor, optional
            Of the mini-batch; tensors of one element are copied without waiting for the device.
        lr : float or Tensor, optional
            Learning rate of the update; by default that of the optimizer's group 0 when it stepped.
        skipped : bool, optional
            Whether an AMP scaler skipped the update; noticed by itself if the optimizer is known.

        Raises
        ------
        WriteError
            If recording failed; what was committed stays readable.
        KeyboardInterrupt, SystemExit
            If SIGINT or SIGTERM came since the last step: the state is recorded first.
        """
        self._require_open()
        _require_number("loss", loss)
        _require_number("accuracy", accuracy)
        _require_number("lr", lr)
        self.step_number += 1
        if not self._writes:
            return
        self._filler.check()
        if skipped is None:
            skipped = bool(self._hooks) and not self._updates
        # Several updates since the last step, as when a CUDA graph is made, were not this one.
        taken = self._updates == 1
        self._updates = 0
        self._updating = False
        self._observed = Observed(loss, accuracy, self._lr if lr is None else lr, skipped)
        if self.step_number in self._schedule:
            self._filler.record(self.step_number, self._observed, taken=taken)
        if self._interrupts.pending is not None:
            self._interrupts.act()

    def evaluate(self, *, loss: Number | None = None, accuracy: Number | None = None) -> None:
        """Add an evaluation on the test set at the current step.

        Parameters
        ----------
        loss, accuracy : float or Tensor, optional
            Mean loss; fraction of examples classified correctly.
        """
        self._require_open()
        if self._writes and self.step_number not in self.evaluated:
            _require_number("loss", loss)
            _require_number("accuracy", accuracy)
            numbers = [float("nan") if v is None else float(v) for v in (loss, accuracy)]
            evaluation = Evaluation(step=self.step_number, loss=numbers[0], accuracy=numbers[1])
            self._filler.evaluate(evaluation)

    # How it is done: opening.

    def _open(self) -> None:
        writer = StoreWriter.resume(self._storage) if self._resume else self._create()
        self._writer = writer
        writer.sync_seconds = self._sync_seconds
        try:
            if self._resume:
                self._take_up(writer)
            self._filler = Filler(
                writer, self._captured, self._optimizer, flush_seconds=self._flush_seconds
            )
        except BaseException:
            writer.abandon()
            raise
        if isinstance(self._optimizer, torch.optim.Optimizer):
            self._hooks = [
                self._optimizer.register_step_pre_hook(self._before_update),
                self._optimizer.register_step_post_hook(self._after_update),
            ]
        self._interrupts.install()
        first = self._filler.last_step < 0 and self.step_number == self._start
        if first and self._start in self._schedule:
            try:
                self._filler.record(self._start, self._observed)
            except BaseException as error:
                self.__exit__(type(error), error, None)
                raise

    def _create(self) -> StoreWriter:
        layout = self._captured.layout
        gradients = [name for name in self._arrays if name != "weights"]
        step_bytes = bytes_per_step(layout, gradients=bool(gradients))
        end = self._schedule.end
        if self._total_steps is not None:
            end = min(self._total_steps + 1, end) if end is not None else self._total_steps + 1
        capacity = OPEN_ENDED_CAPACITY if end is None else len(self._schedule.steps(end)) + 1
        return StoreWriter.create(
            self._storage,
            layout,
            block=block_size(step_bytes, self._memory, None if end is None else capacity),
            codec=self._codec,
            attributes={**self._attributes, **describe_environment(self._captured.device)},
            optional=gradients,
            mask=self._mask,
            capacity=capacity,
            overwrite=self._overwrite,
        )

    def _take_up(self, writer: StoreWriter) -> None:
        require_resumable(writer, self._captured, self._schedule)
        self.step_number = self._start = int(writer.attributes.get("start_step", 0))
        kept = 0
        if writer.anchors:
            self.step_number = writer.anchors[-1]
            kept = restore(writer, self._captured, self._optimizer, self._schedule)
        plan = {key: value for key, value in self._plan.items() if value}
        writer.set_attributes(**plan)
        # Later: the other ranks may still be reading the step that is restored.
        writer.cut(kept, later=True)

    def _before_update(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Take the gradients before the update: some optimizers write into them."""
        self._updating = True
        due = self.step_number + 1 in self._schedule or self.step_number + 1 == self._total_steps
        # A fused optimizer under a GradScaler unscales them itself, in place.
        if not due or getattr(optimizer, "grad_scale", None) is not None or _capturing():
            return None
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._filler.take_gradients()
            return None
        calls = count()

        def evaluate() -> Any:
            loss = closure()
            if next(calls) == 0:
                self._filler.take_gradients()
            return loss

        return args[:1], {**kwargs, "closure": evaluate}

    def _after_update(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._updating = False
        self._updates += 1
        # Read here, since a scheduler may have moved on by the time step() is called.
        self._lr = optimizer.param_groups[0]["lr"]

    # How it is done: closing.

    def _close(self, error: BaseException | None) -> None:
        try:
            if not self._filler.failed:
                self._flush(exact=self._is_exact(error))
            self._filler.close()
            self._filler.check()
            self._writer.finish("complete" if error is None else "interrupted")
        except BaseException as failure:
            self._filler.close()
            self._writer.abandon()
            if failure is error:
                return
            if error is None or not isinstance(failure, Exception):
                raise
            if isinstance(failure, CkptlabError):
                raise
            # Such as a lost device: what the loop failed of says more.
            warnings.warn(f"the last steps could not be recorded: {failure}", stacklevel=3)

    def _is_exact(self, error: BaseException | None) -> bool:
        """Say whether model and optimizer are in the state after the counted updates."""
        if self._updates or self._updating:
            return False
        if error is None or self._interrupts.acted:
            return True
        # A forward pass since the last update may have changed buffers that are not recorded yet.
        whole = self._filler.last_step == self.step_number or not self._captured.buffers
        return bool(self._hooks) and whole

    def _flush(self, *, exact: bool) -> None:
        if exact and self._filler.last_step != self.step_number:
            self._filler.record(self.step_number, self._observed, taken=True, final=True)
        try:
            self._filler.flush(exact=exact)
        except UnsupportedTensorError:
            # The optimizer cannot be stored; the weights can.
            self._filler.flush(exact=False)
            raise

    def _require_open(self) -> None:
        if self._state != "open":
            raise RecordingError("the recorder records inside its `with` block only")


def _capturing() -> bool:
    """Whether a CUDA graph is being captured: a copy made now would be repeated by it."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _require_number(name: str, value: object) -> None:
    """Refuse before anything is counted, so that what was recorded so far stays exact."""
    # Exact types first: what a protocol asks for takes longer to find out than the rest of a step.
    if value is None or type(value) in (float, int):
        return
    if isinstance(value, torch.Tensor):
        if value.numel() != 1 or value.is_complex():
            raise ConfigError(f"{name} has shape {tuple(value.shape)}; one number is needed")
    elif not isinstance(value, SupportsFloat):
        raise ConfigError(f"{name} is a {type(value).__name__}; one number is needed")
