"""What an experiment branches from: a recording, or one that the experiment makes itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ckptlab.errors import ConfigError, MissingStepError, StepError, unknown_name
from ckptlab.experiments.jobs.job import MaskOf, Source, TrainJob
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.record.schedule import parse_schedule, parse_step
from ckptlab.store.read.reader import StoredRun
from ckptlab.train.branch import branch_config
from ckptlab.train.config import Config, change
from ckptlab.train.counter_rng import derived_seed
from ckptlab.train.estimate import steps_per_epoch
from ckptlab.train.resume import has_settings
from ckptlab.train.seeds import Seeds

VARIABLE: tuple[str, ...] = ("order", "augment")
"""Seeds of a training that replicates may vary."""

SNAPSHOTS = 8
"""A job records its start and about this many later steps, unless told otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parent:
    """A dense training, and the settings of what branches from it.

    Parameters
    ----------
    run : str
        Its id.
    config : Config
        Settings of its branches.
    replicate : int
        Which replicate of an experiment branches from it.
    start, steps : int
        Its first and last step.
    steps_per_epoch : int
        Length of an epoch.
    recorded : frozenset of int or None
        Recorded steps, where it is recorded already.
    mask : MaskOf or None
        What its branches keep, where it is sparse itself.
    anchors : frozenset of int or None
        Steps with the optimizer's state, where it is recorded already.
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

    def step(self, text: str | int) -> int:
        """Read a step to branch at.

        Parameters
        ----------
        text : str or int
            As users write it; ``init`` and ``final`` too.

        Returns
        -------
        int
            Its number.

        Raises
        ------
        StepError
            If it lies outside the run, or was not recorded.
        """
        named = {"init": self.start, "final": self.steps}.get(str(text))
        step = parse_step(text, self.steps_per_epoch) if named is None else named
        if not self.start <= step <= self.steps:
            raise StepError(
                f"step {text} lies outside the run; accepted: {self.start} to {self.steps}"
            )
        if self.recorded is not None and step not in self.recorded:
            nearest = min(self.recorded, key=lambda other: abs(other - step))
            raise MissingStepError(
                f"step {text} was not recorded; recorded: {len(self.recorded)} steps from "
                f"{min(self.recorded)} to {max(self.recorded)}. Use {nearest}, the nearest."
            )
        return step

    def source(self, step: int, *, optimizer: str = "fresh") -> Source:
        """Name a step of it as what a training begins from."""
        return Source.model_validate({"run": self.run, "step": step, "optimizer": optimizer})

    def branch(self, start: int, **sections: Mapping[str, Any]) -> Config:
        """Return the settings of a branch.

        Parameters
        ----------
        start : int
            Its first step.
        **sections : mapping
            Settings that differ, by section.

        Returns
        -------
        Config
            Recording the start, some steps between and the end, unless told otherwise.
        """
        config = change(self.config, **sections)
        if config.record.steps != SPREAD:
            return config
        end = parse_step(config.train.steps, self.steps_per_epoch)
        return change(config, record={"steps": spread(start, end)})

    def seed(self, purpose: str, *counters: int) -> int:
        """Derive a seed from those of the training, the replicate and a purpose."""
        base = Seeds.resolve(self.config.train).init
        return derived_seed(base, purpose, self.replicate, *counters) >> 1

    def varied(self, names: Sequence[str], *counters: int) -> dict[str, dict[str, int]]:
        """Return settings with other seeds for the order of images, or their augmentation.

        Parameters
        ----------
        names : sequence of str
            Of `VARIABLE`.
        *counters : int
            What the seeds depend on besides.

        Returns
        -------
        dict
            By section and key; for `branch`.

        Raises
        ------
        UnknownNameError
            If a name is none of them.
        """
        for name in names:
            if name not in VARIABLE:
                raise unknown_name("seed to vary", name, VARIABLE)
        return {"train": {f"{name}_seed": self.seed(name, *counters) for name in names}}


SPREAD = "0:1"
"""What settings say before a branch decides which of its steps are recorded."""


def spread(start: int, end: int) -> str:
    """Return a schedule of the start and about `SNAPSHOTS` more steps; the end always is one."""
    stride = max(-(-(end - start) // SNAPSHOTS), 1)
    return f"{start}:{max(end, start) + 1}:{stride}"


def recorded_parent(
    plan: Plan,
    stored: StoredRun,
    overrides: Sequence[str] = (),
    *,
    threads: int | None,
    replicate: int = 0,
) -> Parent:
    """Take a recording as what an experiment branches from.

    Parameters
    ----------
    plan : Plan
        Gets to know the recording.
    stored : StoredRun
        A complete run of the built-in trainer.
    overrides : sequence of str
        Settings of the branches that differ, each ``section.key=value``.
    threads : int or None
        Threads of each job; None takes those of the run.
    replicate : int
        Which replicate branches from it.

    Returns
    -------
    Parent
        With the recorded steps.

    Raises
    ------
    ConfigError
        If it was recorded from a loop of one's own, or is not complete.
    """
    require_usable(stored)
    set_steps = any(text.replace(" ", "").startswith("record.steps=") for text in overrides)
    config = branch_config(stored, overrides=overrides)
    if not set_steps:
        config = change(config, record={"steps": SPREAD})
    config = change(config, record={"codec": "dense", "arrays": ["weights"]})
    if threads is not None:
        config = change(config, train={"threads": threads})
    return Parent(
        run=plan.add_recording(stored),
        config=config,
        replicate=replicate,
        start=int(stored.attributes.get("start_step", 0)),
        steps=int(stored.steps[-1]),
        steps_per_epoch=int(stored.attributes["steps_per_epoch"]),
        recorded=frozenset(int(step) for step in stored.steps),
        mask=None if "mask" not in stored.arrays else MaskOf(run=plan.add_recording(stored)),
        anchors=frozenset(int(step) for step in stored.anchors),
    )


def require_usable(stored: StoredRun) -> None:
    """Raise ConfigError unless a run is complete, and one of the built-in trainer."""
    if not has_settings(stored.attributes):
        raise ConfigError(
            f"{stored.path} was imported, or recorded from a loop of one's own: not repeated here; "
            "experiments need a run made with: ckptlab record"
        )
    if stored.state != "complete":
        raise ConfigError(
            f"{stored.path} is not complete ({stored.state}); finish it first with: "
            f"ckptlab record --resume {stored.path}"
        )


def made_parent(plan: Plan, config: Config, *, record: str, replicate: int = 0) -> Parent:
    """Let an experiment record what it branches from.

    Parameters
    ----------
    plan : Plan
        Gets the job.
    config : Config
        Settings of the dense training, its seed that of the replicate.
    record : str
        Steps that must be recorded.
    replicate : int
        Which replicate branches from it.

    Returns
    -------
    Parent
        Whose run is a job of the plan.
    """
    epoch = steps_per_epoch(config)
    steps = parse_step(config.train.steps, epoch)
    # Some between, too: where a training that is killed is taken up again.
    record = f"{record},{spread(0, steps)}"
    dense = change(config, record={"steps": record})
    recorded = parse_schedule(record, epoch).steps(steps + 1).tolist()
    return Parent(
        run=plan.add(TrainJob(config=dense)),
        config=change(config, record={"steps": SPREAD}),
        replicate=replicate,
        start=0,
        steps=steps,
        steps_per_epoch=epoch,
        recorded=frozenset([*recorded, steps]),
    )
