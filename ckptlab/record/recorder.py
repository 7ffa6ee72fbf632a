"""Record dense snapshots of any PyTorch training loop: three lines added to it (see `Recorder`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import RecordingError
from ckptlab.record import arguments, defaults
from ckptlab.record.distributed import Peers, rank
from ckptlab.record.distributed import ranks as count_ranks
from ckptlab.record.left_open import LeftOpenError, close_left_open, forget, remember
from ckptlab.record.memory import parse_memory
from ckptlab.record.opening import Opening
from ckptlab.record.session import Session
from ckptlab.record.state.model_tensors import capture
from ckptlab.record.state.training import Training
from ckptlab.record.stats import RecorderStats
from ckptlab.record.together import Together
from ckptlab.record.update_watch import Number
from ckptlab.store.backends.base import Storage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Evaluation


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
        Any module, also compiled, under DistributedDataParallel or ``fully_shard``, or tensor
        parallel. Several are one: ``nn.ModuleDict({"generator": g, "discriminator": d})``.
    optimizer : Optimizer, or list or dict of str to Optimizer, optional
        What trains the model; stored after every block, so that training can resume. Of several,
        a step counts once, whichever of them it updates.
    steps : str
        Which steps: ``"0:2000, 2000:20000:100"``, ``"log:20"``. The last state is always recorded.
    observe : str, optional
        At which steps sums over the weights, loss, rate and gradient norms are kept, whether or not
        snapshots are: ``"0:"``. Metrics against ``init`` or ``previous`` then need no snapshots.
    arrays : str or sequence of str
        Large arrays: ``weights``, which always are recorded, and optionally ``gradients``.
    codec : str
        ``dense``, ``fast`` or ``raw`` (not compressed): the smaller, the more it costs. ``auto`` is
        the densest that keeps up with the first steps; on busy machines equal loops may get
        different ones, with the same weights.
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
    resume : bool or "auto"
        Continue the run at `path`, with its block, codec and arrays: restores model, optimizers and
        attached state. ``auto`` begins a new run where there is none.
    at : int, optional
        With `resume`: the step that the model is at already, restored by other means, such as a
        trainer's checkpoint. Nothing is restored, and steps recorded after it are dropped.
    overwrite : bool
        Replace the run at `path`.
    total_steps : int, optional
        Planned updates, where known.
    steps_per_epoch : int, optional
        Lets `steps` use ``ep``.
    start : int
        Updates the model has had when recording begins.
    ranks : str
        Of several processes: ``first`` records the one network that all train, by the first of
        them; with ``each``, every process that opens a recorder records alone, to its own path.
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
        optimizer: arguments.Optimizers = None,
        *,
        steps: str = defaults.STEPS,
        observe: str | None = None,
        arrays: str | Sequence[str] = ("weights",),
        codec: str = defaults.AUTO,
        memory: int | str = defaults.MEMORY,
        flush_seconds: float = defaults.FLUSH_SECONDS,
        sync_seconds: float = defaults.SYNC_SECONDS,
        fsync: bool = True,
        outage_seconds: float = defaults.OUTAGE_SECONDS,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        resume: bool | Literal["auto"] = False,
        at: int | None = None,
        overwrite: bool = False,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        start: int = 0,
        ranks: Literal["first", "each"] = "first",
        mask: npt.NDArray[np.bool_] | None = None,
        config: Any = None,
        seeds: Any = None,
        attributes: Any = None,
    ) -> None:
        arguments.check_codec(codec)
        self.step_number = self._start = arguments.check_count("start", start)
        self._schedule = arguments.check_steps(steps, steps_per_epoch)
        observed = arguments.check_observe(observe, steps_per_epoch, self._schedule, start)
        self._flush_seconds = arguments.check_seconds("flush_seconds", flush_seconds)
        sync = arguments.check_seconds("sync_seconds", sync_seconds)
        if total_steps is not None:
            total_steps = arguments.check_count("total_steps", total_steps)
        outage = arguments.check_seconds("outage_seconds", outage_seconds)
        storage = open_storage(arguments.check_path(path), fsync=fsync, outage_seconds=outage)
        self.path = storage.path
        names = arguments.check_names("include", include), arguments.check_names("exclude", exclude)
        # Again on opening: a model that is moved to a device until then has other buffers.
        self._capture = partial(capture, model, include=names[0], exclude=names[1])
        self._captured = self._capture()
        self._is_sharded = self._captured.parts is not None
        each = arguments.check_ranks(ranks, sharded=self._is_sharded) == "each"
        self._alone = (each or count_ranks() == 1) and not self._is_sharded
        self._writes = self._alone or rank() == 0  # the others restore and count
        self._training = Training(arguments.check_optimizers(optimizer, model))
        plan = {"config": arguments.plain_mapping("config", config), "total_steps": total_steps}
        attributes = {
            **arguments.plain_mapping("attributes", attributes),
            **plan,
            "seeds": arguments.plain_mapping("seeds", seeds),
            "schedule": self._schedule.text,
            **({} if observed is None else {"observe": observed.text}),
            "steps_per_epoch": steps_per_epoch,
            "start_step": self._start,
        }
        self._opening = Opening(
            storage=storage,
            schedule=self._schedule,
            observe=observed,
            start=self._start,
            resume=arguments.check_resume(resume, at, overwrite=overwrite),
            at=at,
            # What is synced must be the same to every rank, on whichever host: everything.
            sync_seconds=sync if self._alone else 0.0,
            plan=plan,
            create={
                "arrays": arguments.check_arrays(arrays),
                "codec": codec,
                "memory": parse_memory(memory),
                "mask": mask,
                "overwrite": overwrite,
                "total_steps": total_steps,
                "attributes": attributes,
            },
        )
        self._pid = os.getpid()
        self._peers: Peers | None = None
        self._session: Session | None = None
        self._logged: dict[str, Number] = {}
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
        if self._session is not None and os.getpid() == self._pid:
            self._session.end(error)

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
        return RecorderStats(0, 0, 0, 0, 0.0) if self._session is None else self._session.stats()

    @property
    def evaluated(self) -> set[int]:
        """Steps for which an evaluation is stored or about to be."""
        return set() if self._session is None else self._session.steps.evaluated

    @property
    def updated(self) -> bool:
        """Whether an optimizer has updated the model since the last `step`."""
        return self._session is not None and self._session.watch.ahead

    def attach(self, **objects: Any) -> None:
        """Store the state of further objects with the optimizers', and restore it on resuming.

        Call `step` after whatever changes their state in an iteration, such as a scheduler.

        Parameters
        ----------
        **objects : object
            Schedulers, scalers, samplers and the like: anything with ``state_dict`` and
            ``load_state_dict``; random generators; and ``rng=True`` for the global random numbers
            of Python, NumPy, and torch on CPU and CUDA. If the run is resumed, they are set to what
            it holds: on opening, or now if it is open.

        Raises
        ------
        ConfigError
            If an object has no state.
        UnsupportedTensorError
            If its state holds what is neither number, text nor tensor.
        """
        if objects.get("rng") and not self._writes:
            # What the first rank draws is not what this one does.
            objects = {key: value for key, value in objects.items() if key != "rng"}
        self._training.attached.add(objects)

    def log(self, **scalars: Number | None) -> None:
        """Note numbers of the update that the next `step` counts, each an array of its own.

        Parameters
        ----------
        **scalars : float or Tensor
            By name; tensors of one element are copied without waiting for the device.
        """
        self._logged |= arguments.check_scalars(scalars)

    def flush(self) -> None:
        """Commit what is recorded so far, and wait until it survives a power loss."""
        self._require_open()
        if self._session is not None:
            self._session.flush()

    def begin_update(self) -> None:
        """Note that an update begins, of which the optimizer's hooks do not tell in a CUDA graph.

        An exception before the next `step` then leaves out the state that it may have torn.
        """
        if self._session is not None:
            self._session.watch.updating = True
            self._session.steps.expect_repeats()

    def step(
        self,
        *,
        loss: Number | None = None,
        accuracy: Number | None = None,
        lr: Number | None = None,
        skipped: bool | torch.Tensor | None = None,
        **scalars: Number | None,
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
        **scalars : float or Tensor, optional
            Further numbers of the update, as `log` takes them.

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
        self.log(**scalars)
        logged, self._logged = self._logged, {}
        self.step_number += 1
        if self._peers is not None and not self._is_sharded:
            self._peers.compare(self._captured.parameters)
        if self._session is not None:
            self._session.step(loss, accuracy, lr, skipped, logged)

    def evaluate(self, *, loss: Number | None = None, accuracy: Number | None = None) -> None:
        """Add an evaluation on the test set at the current step, in one call or in several.

        Parameters
        ----------
        loss, accuracy : float or Tensor, optional
            Mean loss; fraction of examples classified correctly.
        """
        self._require_open()
        arguments.check_number("loss", loss)
        arguments.check_number("accuracy", accuracy)
        if self._session is not None:
            numbers = [float("nan") if v is None else float(v) for v in (loss, accuracy)]
            evaluation = Evaluation(step=self.step_number, loss=numbers[0], accuracy=numbers[1])
            self._session.steps.evaluate(evaluation)

    def _open(self, *, hold_signals: bool) -> None:
        if self._state != "new":
            raise RecordingError("this recorder was used already; make a new one")
        close_left_open(self.path)
        captured = self._captured = self._capture()
        if self._alone:
            found = self._opening.finds_run()
        else:
            self._peers = Peers()
            known = self._peers, captured, self._training
            found = self._opening.meet(*known, first=self._writes)
        if not self._writes and not self._is_sharded:
            self.step_number = self._opening.open_beside(captured, self._training, found=found)
            self._state = "open"
            return
        together = Together() if self._is_sharded else None
        given = self._opening, captured, self._training, self._flush_seconds
        self._session = session = Session(*given, found=found, together=together)
        self.step_number = session.step_number
        if hold_signals:
            session.interrupts.install()
        try:
            session.begin()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        self._state = "open"

    def _require_open(self) -> None:
        if self._state != "open":
            raise RecordingError("the recorder records inside its `with` block, or after open()")
