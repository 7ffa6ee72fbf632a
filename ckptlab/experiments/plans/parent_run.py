"""Provide what an experiment branches from: a recording, or a dense training of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptlab.errors import ConfigError, MissingStepError, StepError, spell, unknown_name
from ckptlab.experiments.jobs.job import BranchPoint, MaskOf, TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.record.schedule import parse_schedule, parse_step
from ckptlab.store.read.ancestry import find_ancestor, is_branch
from ckptlab.store.read.reader import StoredRun
from ckptlab.train.branch import branch_config
from ckptlab.train.config import Config, change
from ckptlab.train.counter_rng import derived_seed
from ckptlab.train.estimate import steps_per_epoch
from ckptlab.train.resume import has_settings
from ckptlab.train.seeds import Seeds

CHILD_SEEDS: tuple[str, ...] = ("order", "augment")
"""Seeds that replicates may vary while they share the dense training."""

VARIABLE: tuple[str, ...] = ("seed", *CHILD_SEEDS)
"""What replicates may vary; ``seed`` trains a dense network for each."""

SNAPSHOTS = 8
"""Number of steps that a job records besides its start, unless told otherwise."""

SPREAD = "0:1"
"""Stands in settings for the schedule of a branch, until its start is known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """A dense training and the settings of its branches.

    `start` and `steps` are its first and last step; `recorded` and `anchors` (steps with the
    optimizer's state) are known where it is recorded already, as `stored`. Branches of a sparse run
    keep its `mask`.
    """

    run: str
    config: Config
    replicate: int
    start: int
    steps: int
    steps_per_epoch: int
    recorded: frozenset[int] | None = None
    mask: MaskOf | None = None
    anchors: frozenset[int] | None = None
    stored: StoredRun | None = None

    def step(self, text: str | int) -> int:
        """Read a step to branch at, also ``init`` and ``final``; StepError unless recorded."""
        named = {"init": self.start, "final": self.steps}.get(str(text))
        step = parse_step(text, self.steps_per_epoch) if named is None else named
        if not self.start <= step <= self.steps:
            raise StepError(
                f"{spell('rewind', text)} lies outside the run; accepted: {self.start} to "
                f"{self.steps}"
            )
        if self.recorded is not None and step not in self.recorded:
            nearest = min(self.recorded, key=lambda other: abs(other - step))
            fix = f"Use {spell('rewind', nearest)}, the nearest."
            raise MissingStepError(
                f"{spell('rewind', text)} was not recorded; recorded: {len(self.recorded)} steps "
                f"from {min(self.recorded)} to {max(self.recorded)}. {fix}"
            )
        return step

    def source(self, step: int, *, optimizer: str = "fresh") -> BranchPoint:
        """Return a step of it as the beginning of another training."""
        return BranchPoint.model_validate({"run": self.run, "step": step, "optimizer": optimizer})

    def initial(self, plan: ExperimentPlan, wanted_by: str) -> str | None:
        """Return the id of the run that holds step 0, if the parent branched from it."""
        if self.stored is None or not is_branch(self.stored.attributes):
            return None
        first = self.stored.snapshot(int(self.stored.steps[0]))
        try:
            ancestor = find_ancestor(
                self.stored.path, self.stored.attributes, self.stored.layout, first
            )
        except MissingStepError as error:
            raise MissingStepError(
                f"{wanted_by} needs the initialisation: {error}. Bring that run back, or use a "
                "perturbation without 0."
            ) from error
        return plan.add_recording(ancestor)

    def branch(self, start: int, **sections: Mapping[str, Any]) -> Config:
        """Return the settings of a branch from `start`, which records some of its steps."""
        config = change(self.config, **sections)
        if config.record.steps != SPREAD:
            return config
        end = parse_step(config.train.steps, self.steps_per_epoch)
        return change(config, record={"steps": spread(start, end)})

    def seed(self, purpose: str, *counters: int) -> int:
        """Derive a seed from the initialisation's, the replicate and a purpose."""
        base = Seeds.resolve(self.config.train).init
        return derived_seed(base, purpose, self.replicate, *counters) >> 1

    def varied(self, names: Sequence[str], *counters: int) -> dict[str, dict[str, int]]:
        """Return settings with other seeds for the order of images or their augmentation."""
        for name in names:
            if name not in VARIABLE:
                raise unknown_name("seed to vary", name, VARIABLE)
        seeds = [name for name in names if name in CHILD_SEEDS]
        return {"train": {f"{name}_seed": self.seed(name, *counters) for name in seeds}}


def spread(start: int, end: int) -> str:
    """Return a schedule of the start and about `SNAPSHOTS` more steps; the end is always one."""
    stride = max(-(-(end - start) // SNAPSHOTS), 1)
    return f"{start}:{max(end, start) + 1}:{stride}"


def recorded_parent(
    plan: ExperimentPlan,
    stored: StoredRun,
    overrides: Sequence[str] = (),
    *,
    threads: int | None,
    replicate: int = 0,
) -> Parent:
    """Branch from a complete recording; else ConfigError.

    `overrides` are settings of the branches that differ; `threads` None takes those of the run. A
    recording of another loop, or an imported one, needs settings that name what is learnt.
    """
    require_complete(stored)
    epoch = stored.attributes.get("steps_per_epoch")
    if not has_settings(stored.attributes):
        overrides = [f"train.steps={int(stored.steps[-1])}", *overrides]
    config = _branch_settings(stored, overrides, threads)
    return Parent(
        run=plan.add_recording(stored),
        config=config,
        replicate=replicate,
        start=int(stored.attributes.get("start_step", 0)),
        steps=int(stored.steps[-1]),
        steps_per_epoch=int(epoch) if epoch else steps_per_epoch(config),
        recorded=frozenset(int(step) for step in stored.steps),
        mask=None if "mask" not in stored.arrays else MaskOf(run=plan.add_recording(stored)),
        anchors=frozenset(int(step) for step in stored.anchors),
        stored=stored,
    )


def repeated_parent(
    plan: ExperimentPlan,
    stored: StoredRun,
    overrides: Sequence[str] = (),
    *,
    threads: int | None,
    replicate: int,
    record: Sequence[str | int],
) -> Parent:
    """Train a recording's network again from another seed, and branch from that.

    `record` are the steps that branches begin at. ConfigError unless the recording is dense and
    begins at its initialisation.
    """
    require_usable(stored)
    if stored.attributes.get("branch") or "mask" in stored.arrays:
        raise ConfigError(
            f"vary=seed trains the dense network again from its initialisation, where "
            f"{stored.path} does not begin; vary order,augment, or give a dense run"
        )
    seeds: dict[str, Any] = dict.fromkeys(("init_seed", "order_seed", "augment_seed"))
    dense = _branch_settings(stored, (), threads)
    seeds["seed"] = dense.train.seed + replicate
    named = {"init": 0, "final": int(stored.steps[-1])}
    steps = ",".join(sorted({"0", *(str(named.get(str(step), step)) for step in record)}))
    return made_parent(
        plan,
        change(dense, train=seeds),
        record=steps,
        replicate=replicate,
        branches=change(_branch_settings(stored, overrides, threads), train=seeds),
    )


def _branch_settings(stored: StoredRun, overrides: Sequence[str], threads: int | None) -> Config:
    set_steps = any(text.replace(" ", "").startswith("record.steps=") for text in overrides)
    config = branch_config(stored, overrides=overrides)
    if not set_steps:
        config = change(config, record={"steps": SPREAD})
    config = change(config, record={"codec": "dense", "arrays": ["weights"]})
    return config if threads is None else change(config, train={"threads": threads})


def require_usable(stored: StoredRun) -> None:
    """Raise ConfigError unless a run is complete and made by ckptlab's trainer."""
    if not has_settings(stored.attributes):
        raise ConfigError(
            f"{stored.path} was imported, or recorded from your own loop, so it does not say how "
            "it was made; vary order,augment, or take a run made with: ckptlab record"
        )
    require_complete(stored)


def require_complete(stored: StoredRun) -> None:
    """Raise ConfigError unless a run is complete."""
    if stored.state != "complete":
        raise ConfigError(
            f"{stored.path} is not complete ({stored.state}); finish it first with: "
            f"ckptlab record --resume {stored.path}"
        )


def made_parent(
    plan: ExperimentPlan,
    config: Config,
    *,
    record: str,
    replicate: int = 0,
    branches: Config | None = None,
) -> Parent:
    """Add a dense training that records the steps in `record`, and branch from that.

    `branches` are the settings of what branches from it, by default its own.
    """
    epoch = steps_per_epoch(config)
    steps = parse_step(config.train.steps, epoch)
    # Some between, too, where a training that was killed resumes.
    record = f"{record},{spread(0, steps)}"
    dense = change(config, record={"steps": record})
    recorded = parse_schedule(record, epoch).steps(steps + 1).tolist()
    return Parent(
        run=plan.add(TrainJob(config=dense)),
        config=branches or change(config, record={"steps": SPREAD}),
        replicate=replicate,
        start=0,
        steps=steps,
        steps_per_epoch=epoch,
        recorded=frozenset([*recorded, steps]),
    )
