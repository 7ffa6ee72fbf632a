"""The loop: train from settings, record every scheduled step, evaluate, report progress.

Imports record, store and the modules of this layer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from ckptlab.errors import ConfigError
from ckptlab.record.calibrate import choose_codec
from ckptlab.record.filling import encoding_threads
from ckptlab.record.recorder import Recorder
from ckptlab.record.schedule import parse_schedule, parse_step
from ckptlab.record.stats import RecorderStats
from ckptlab.store.reader import open_store
from ckptlab.train.config import Config
from ckptlab.train.evaluate import Evaluation
from ckptlab.train.numerics import numerics, resolve_device
from ckptlab.train.plan import measure_step, recorded_steps
from ckptlab.train.resume import as_before, require_resumable, require_same_machine
from ckptlab.train.step import StepResult
from ckptlab.train.training import Training, build

_REPORT_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How a training is doing; reported about twice a second and at its end.

    Parameters
    ----------
    step, steps : int
        Updates done, and in all.
    steps_per_second : float
        Since the report before.
    loss, accuracy : float
        Of the last mini-batch; NaN before the first.
    evaluation : Evaluation or None
        The last one on the test set.
    recording : RecorderStats
        Of the store.
    """

    step: int
    steps: int
    steps_per_second: float
    loss: float
    accuracy: float
    evaluation: Evaluation | None
    recording: RecorderStats


def train(
    config: Config,
    path: str,
    *,
    resume: bool = False,
    overwrite: bool = False,
    allow_inexact: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> None:
    """Train a network and record it.

    Parameters
    ----------
    config : Config
        The settings; when a run is taken up again, its own (`resume_config`).
    path : str
        Where the run is written.
    resume : bool
        Take the run at `path` up; nothing is done if it is complete.
    overwrite : bool
        Replace the run at `path`.
    allow_inexact : bool
        Resume on another device, torch or number of threads; the result then differs from an
        uninterrupted run's.
    on_progress : callable, optional
        Called with a `Progress` about twice a second.

    Raises
    ------
    ConfigError
        If a setting is not accepted, or may not change when resuming.
    DataError
        If the data set is missing or incomplete.
    StoreError
        If the path is taken or cannot be written.
    StepError
        If steps are to be recorded that lie beyond the run.
    """
    used = config
    if resume:
        stored = open_store(path)
        require_resumable(stored.attributes, config, allow_inexact=allow_inexact)
        if stored.state == "complete" and int(stored.steps[-1]) == _steps(
            stored.attributes, config
        ):
            return
        used = as_before(stored.attributes, config)
        if not allow_inexact:
            require_same_machine(stored.attributes, resolve_device(used.train))
    with numerics(used.train, resolve_device(used.train)):
        training = build(used)
        with _recorder(config, path, training, resume=resume, overwrite=overwrite) as recorder:
            _Loop(training, recorder, on_progress).run()


def _steps(attributes: dict[str, object], config: Config) -> int:
    steps_per_epoch = attributes.get("steps_per_epoch")
    return parse_step(
        config.train.steps, steps_per_epoch if isinstance(steps_per_epoch, int) else None
    )


def _recorder(
    config: Config, path: str, training: Training, *, resume: bool, overwrite: bool
) -> Recorder:
    record, seeds = config.record, training.seeds
    recorded_steps(config, training.steps, training.steps_per_epoch)
    return Recorder(
        path,
        training.model,
        training.optimizer,
        steps=record.steps,
        arrays=record.arrays,
        codec=_codec(config, training, resume=resume),
        memory=record.memory,
        flush_seconds=record.flush_seconds,
        sync_seconds=record.sync_seconds,
        fsync=record.fsync,
        resume=resume,
        overwrite=overwrite,
        total_steps=training.steps,
        steps_per_epoch=training.steps_per_epoch,
        config=config.model_dump(mode="json"),
        seeds={"init": seeds.init, "order": seeds.order, "augment": seeds.augment},
        attributes={"classes": list(training.task.data.classes)},
    )


def _codec(config: Config, training: Training, *, resume: bool) -> str:
    """Settle ``auto`` before the arrays are made; a run that is taken up again keeps its codec."""
    if config.record.codec != "auto" or resume:
        return "dense" if resume else config.record.codec
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    # On the CPU, compression takes its time from training.
    free = encoding_threads() if training.device.type == "cuda" else 0
    step_seconds = measure_step(config)
    return choose_codec(parameters, step_seconds, threads=free, budget=config.record.budget)


class _Loop:
    """From the recorder's step to the last one."""

    def __init__(
        self,
        training: Training,
        recorder: Recorder,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._training = training
        self._recorder = recorder
        self._on_progress = on_progress
        steps = training.config.eval.steps
        self._schedule = parse_schedule(steps, training.steps_per_epoch) if steps else None
        self._evaluation: Evaluation | None = None
        self._last: StepResult | None = None
        self._reported_at = time.perf_counter()
        self._reported_step = recorder.step_number

    def run(self) -> None:
        recorder, training = self._recorder, self._training
        self._evaluate_if_due()
        while recorder.step_number < training.steps:
            self._last = self._update(recorder.step_number)
            recorder.step(loss=self._last.loss, accuracy=self._last.accuracy)
            self._evaluate_if_due()
            self._report_if_due()
        self._report()

    def _update(self, step: int) -> StepResult:
        try:
            return self._training.step(step)
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            reason = str(error).partition(".")[0]
            raise ConfigError(
                f"train.deterministic=true: {reason}; set train.deterministic=false, and the run "
                "will not be repeatable bit by bit."
            ) from error

    def _evaluate_if_due(self) -> None:
        recorder, step = self._recorder, self._recorder.step_number
        scheduled = self._schedule is not None and step in self._schedule
        if (scheduled or step == self._training.steps) and step not in recorder.evaluated:
            self._evaluation = self._training.evaluate()
            recorder.evaluate(loss=self._evaluation.loss, accuracy=self._evaluation.accuracy)

    def _report_if_due(self) -> None:
        if time.perf_counter() - self._reported_at > _REPORT_SECONDS:
            self._report()

    def _report(self) -> None:
        """Tell the caller; this alone waits for the device, hence not at every step."""
        if self._on_progress is None:
            return
        step, now = self._recorder.step_number, time.perf_counter()
        rate = (step - self._reported_step) / max(now - self._reported_at, 1e-9)
        self._reported_at, self._reported_step = now, step
        last = self._last
        self._on_progress(
            Progress(
                step=step,
                steps=self._training.steps,
                steps_per_second=rate,
                loss=math.nan if last is None else float(last.loss),
                accuracy=math.nan if last is None else float(last.accuracy),
                evaluation=self._evaluation,
                recording=self._recorder.stats,
            )
        )
