"""Train from settings, record every scheduled step, evaluate, report progress."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import ConfigError, StepError
from ckptlab.plugins import loaded_plugins
from ckptlab.problems.problem import Problem
from ckptlab.record.pipeline.calibrate import choose_codec
from ckptlab.record.pipeline.step_capture import encoding_threads
from ckptlab.record.recorder import Recorder
from ckptlab.record.schedule import parse_step
from ckptlab.record.stats import RecorderStats
from ckptlab.store.maintain.repack import repack
from ckptlab.store.read.reader import StoredRun, open_store
from ckptlab.train.assemble import Training, assemble
from ckptlab.train.branch import start_of
from ckptlab.train.config import Config
from ckptlab.train.estimate import evaluated, measure_step, recorded_steps
from ckptlab.train.evaluate import EvalResult
from ckptlab.train.initial_state import Start, begin
from ckptlab.train.numerics import numerics, resolve_device
from ckptlab.train.problem_build import build_problem
from ckptlab.train.resume import as_before, require_resumable, require_same_machine
from ckptlab.train.sections import AUTO
from ckptlab.train.step import StepResult
from ckptlab.train.tasks.build import describe_tasks

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
    evaluation : EvalResult or None
        The last one on the test set.
    recording : RecorderStats
        Of the store.
    """

    step: int
    steps: int
    steps_per_second: float
    loss: float
    accuracy: float
    evaluation: EvalResult | None
    recording: RecorderStats


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """A training to record.

    Parameters
    ----------
    config : Config
        The settings; when a run is resumed, its own (`resume_config`).
    path : str
        Where the run is written.
    start : Start or None
        The state to begin from; None is the initialisation. Needed again when a run is resumed that
        committed nothing, unless it branched from a run that is still there.
    mask : ndarray of bool, shape (param,), or None
        Which weights are kept, the others being zero throughout; by default those the start kept.
    problem : Problem or None
        What is learnt, with its examples on the device, where it was built before.
    attributes : mapping
        JSON, stored in the root attributes.
    resume : bool
        Go on with the run at `path`; nothing is done if it is complete.
    overwrite : bool
        Replace the run at `path`.
    allow_inexact : bool
        Resume on another device, torch or number of threads; the result then differs from an
        uninterrupted run's.
    on_progress : callable or None
        Called with a `Progress` about twice a second.
    replicas : int
        Trainings that run at once in this process, of which this is one.
    pinned : Config or None
        The settings with device and threads of a run that is resumed; set by `prepare`.
    """

    config: Config
    path: str
    start: Start | None = None
    mask: npt.NDArray[np.bool_] | None = None
    problem: Problem | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    overwrite: bool = False
    allow_inexact: bool = False
    on_progress: Callable[[Progress], None] | None = None
    replicas: int = 1
    pinned: Config | None = None

    @property
    def used(self) -> Config:
        """The settings it computes with."""
        return self.pinned or self.config

    def numerics(self) -> AbstractContextManager[None]:
        """Return the context in which it computes."""
        return numerics(self.used.train, resolve_device(self.used.train))


def train(config: Config, path: str, **options: Any) -> None:
    """Train a network and record it.

    Parameters
    ----------
    config : Config
        The settings; when a run is resumed, its own (`resume_config`).
    path : str
        Where the run is written.
    **options
        The other fields of `Request`.

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
    request = prepare(config, path, **options)
    if request is None:
        return
    with request.numerics(), session(request) as loop:
        for _ in loop.run():
            pass


def prepare(config: Config, path: str, **options: Any) -> Request | None:
    """Check what a call of `train` has to do before data are read; None if it is done already."""
    request = Request(config=config, path=path, **options)
    if config.record.repack and "://" in path:
        raise ConfigError(
            f"record.repack=true replaces the run at the end, which {path} does not allow; "
            "accepted there: false (make a dense copy with ckptlab repack -o)"
        )
    start, mask = request.start, request.mask
    if not request.resume:
        if mask is None and start is not None:
            mask = start.mask
        return replace(request, mask=mask)
    inexact = request.allow_inexact
    stored = open_store(path)
    require_resumable(stored.attributes, config, allow_inexact=inexact)
    if _is_done(stored, config):
        return None
    used = as_before(stored.attributes, config)
    if not inexact:
        require_same_machine(stored.attributes, resolve_device(used.train))
    if start is None and not len(stored.anchors):
        start = start_of(stored.attributes, used, allow_inexact=inexact)
    return replace(request, start=start, mask=stored.mask(), pinned=used)


@contextlib.contextmanager
def session(request: Request) -> Iterator[Loop]:
    """Build a training that `prepare` has checked, and open its recording for the block."""
    start = request.start
    used = request.used
    device = resolve_device(used.train)
    problem = request.problem or build_problem(used, device)
    training = assemble(used, problem, device, request.mask)
    _require_before_end(start, training)
    about = {**request.attributes, **_origin(start, begin(training, start))}
    with _recorder(request, training, about) as recorder:
        yield Loop(training, recorder, request.on_progress)
    if request.config.record.repack and open_store(request.path).attributes["codec"] != "dense":
        repack(request.path)


def _is_done(stored: StoredRun, config: Config) -> bool:
    last = _steps(stored.attributes, config)
    return stored.state == "complete" and int(stored.steps[-1]) == last


def _require_before_end(start: Start | None, training: Training) -> None:
    if start is not None and start.step > training.steps:
        raise StepError(
            f"train.steps={training.config.train.steps!r} is before step {start.step}, where the "
            f"run begins; accepted: at least {start.step}"
        )


def _origin(start: Start | None, fresh: list[str]) -> dict[str, Any]:
    if start is None or not start.origin:
        return {}
    return {"branch": {**start.origin, "new_tensors": fresh}}


def _steps(attributes: dict[str, object], config: Config) -> int:
    steps_per_epoch = attributes.get("steps_per_epoch")
    return parse_step(
        config.train.steps, steps_per_epoch if isinstance(steps_per_epoch, int) else None
    )


def _recorder(request: Request, training: Training, attributes: Mapping[str, Any]) -> Recorder:
    config, resume = request.config, request.resume
    record, seeds = config.record, training.seeds
    # Steps beyond the run and empty ranges are refused before anything is written.
    recorded_steps(config, training.steps, training.steps_per_epoch)
    evaluated(config, training.steps_per_epoch)
    return Recorder(
        request.path,
        training.model,
        training.optimizer,
        steps=record.steps,
        observe=record.observe,
        arrays=record.arrays,
        codec=_codec(config, training, resume=resume, replicas=request.replicas),
        memory=record.memory,
        flush_seconds=record.flush_seconds,
        sync_seconds=record.sync_seconds,
        fsync=record.fsync,
        outage_seconds=record.outage_seconds,
        resume=resume,
        overwrite=request.overwrite,
        total_steps=training.steps,
        steps_per_epoch=training.steps_per_epoch,
        config=config.model_dump(mode="json"),
        seeds=asdict(seeds),
        attributes={
            **attributes,
            "classes": list(training.problem.answers),
            "training_examples": training.update.order.samples,
            **_about(config),
        },
        start=0 if request.start is None else request.start.step,
        mask=request.mask,
    )


def _about(config: Config) -> dict[str, Any]:
    """Return what is learnt, and which files of the user's it needs."""
    found: dict[str, Any] = {}
    if config.problem.name is None:
        found["task"] = describe_tasks(config.task)
    plugins = loaded_plugins()
    return found | ({"plugins": [file.name for file in plugins]} if plugins else {})


def _codec(config: Config, training: Training, *, resume: bool, replicas: int) -> str:
    """Choose the codec for ``auto`` before the arrays are made; a resumed run keeps its own."""
    if config.record.codec != AUTO or resume:
        return "dense" if resume else config.record.codec
    parameters = sum(parameter.numel() for parameter in training.model.parameters())
    # On the CPU, compression takes its time from training.
    free = encoding_threads() / replicas if training.device.type == "cuda" else 0
    step_seconds = measure_step(config)
    return choose_codec(parameters, step_seconds, threads=free, budget=config.record.budget)


class Loop:
    """Updates, evaluations and reports, from the recorder's step to the last one.

    Within the recorder's `with` block; the training is at the recorder's step.
    """

    def __init__(
        self,
        training: Training,
        recorder: Recorder,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._training = training
        self._recorder = recorder
        self._on_progress = on_progress
        self._schedule = evaluated(training.config, training.steps_per_epoch)
        self._evaluation: EvalResult | None = None
        self._last: StepResult | None = None
        self._reported_at = time.perf_counter()
        self._reported_step = recorder.step_number

    def run(self) -> Iterator[None]:
        """Train to the end; yields after every update, so that several trainings can take turns."""
        recorder, training = self._recorder, self._training
        self._evaluate_if_due()
        while recorder.step_number < training.steps:
            recorder.begin_update()
            self._last = self._update(recorder.step_number)
            # Told, since the optimizer's own hooks do not run within a CUDA graph.
            recorder.step(
                loss=self._last.loss,
                accuracy=self._last.accuracy,
                lr=training.update.rate(recorder.step_number),
                skipped=False,
            )
            self._evaluate_if_due()
            self._report_if_due()
            yield
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
