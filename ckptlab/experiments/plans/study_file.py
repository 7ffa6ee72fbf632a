"""Read studies: grids of experiments in a TOML file, which record what they branch from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ckptlab.errors import ConfigError, unknown_name
from ckptlab.experiments.operations.arguments import reference_in
from ckptlab.experiments.operations.registry import PERTURBATIONS
from ckptlab.registry import Registry, allow, name_of, resolve
from ckptlab.train.config import overlay
from ckptlab.train.sections import Count, Section, Step, Steps, Whole
from ckptlab.train.settings import explain, merge, parse_override, read_toml

Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Tasks = Annotated[tuple[str | dict[str, Any], ...], Field(strict=False, min_length=1)]
Levels = Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Study(Section):
    """Settings of every study."""

    kind: str = Field(description="kind of study")
    summary: str = Field("", description="one line of documentation")
    figure: str = Field("", description="figure of the paper it reproduces")
    preset: str | None = Field(None, description="settings to start from")
    config: dict[str, dict[str, Any]] = Field({}, description="settings that differ, by section")
    replicates: Count = Field(1, description="repetitions, each with another train.seed")
    scales: dict[str, dict[str, Any]] = Field({}, description="what differs at each scale")


class Pruned(Study):
    """Settings of studies of sub-networks."""

    fraction: Share = Field(0.2, description="share of the survivors removed each time")
    scope: Literal["global", "layer"] = Field("global", description="which weights compete")
    keep: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="tensors never pruned; output stands for the output layer"
    )
    structure: Literal["", "filter"] = Field(
        "", description="filter: whole output filters are removed, not single weights"
    )


class RecordStudy(Study):
    """Dense recordings, and metrics of them over the replicates."""

    kind: Literal["record"]
    metrics: Names = Field(("telemetry",), description="metrics of each recording")
    options: dict[str, Any] = Field({}, description="options of the metrics")


class ImpStudy(Pruned):
    """Iterative magnitude pruning with rewinding, and its controls."""

    kind: Literal["imp"]
    levels: Whole = Field(10, description="number of prunings")
    rewind: Steps = Field(description="steps to rewind to")
    pruning: Names = Field(("imp",), description="imp and controls: see Prune")
    retrain_dense: bool = Field(
        False,
        description="train level 0 from the rewind step with fresh momentum, as other levels; else "
        "it is the dense training",
    )


class PerturbStudy(Pruned):
    """Perturbations under the masks of iterative pruning."""

    kind: Literal["perturb"]
    rewind: Steps = Field(description="steps perturbed, and rewound to")
    perturbations: Names = Field(description="kinds of perturbation")
    at_levels: Levels = Field((0,), description="levels whose masks are used")


class ConnectStudy(Pruned):
    """Linear mode connectivity of children of some steps."""

    kind: Literal["connect"]
    rewind: Steps = Field(description="steps to branch at")
    at_levels: Levels = Field((0,), description="levels whose masks are used; 0 is dense")
    options: dict[str, Any] = Field({}, description="options of the metric connectivity")


class PretrainStudy(Pruned):
    """Pre-training on proxy tasks, dense or with the mask first."""

    kind: Literal["pretrain"]
    levels: Whole = Field(10, description="number of prunings; sparse: see at_levels")
    tasks: Tasks = Field(
        description='tasks of pre-training; a table gives settings too, as {name = "blur", '
        "factor = 2}"
    )
    lengths: Steps = Field(description="lengths of pre-training")
    budget: Literal["full", "remaining"] = Field("full", description="what follows it")
    sparse: bool = Field(False, description="mask first, proxy next, task last")
    rewind: Step = Field(0, description="sparse: rewind point of the series that gives the masks")
    at_levels: Levels = Field((0,), description="sparse: levels whose masks are used")


class CriticalStudy(Study):
    """A deficit in the data over some steps, then clean data."""

    kind: Literal["critical"]
    deficit: str | dict[str, Any] = Field(
        "blur", description="task that stands for the deficit; a table gives its settings too"
    )
    onsets: Steps = Field((0,), description="steps at which the deficit begins")
    durations: Steps = Field(description="how long the deficit lasts")
    clean: Step | None = Field(None, description="length of what follows; none: train.steps")
    milestones: Literal["clean", "training"] = Field(
        "clean",
        description="with clean, milestones of the learning rate count from the end of the deficit "
        "or from step 0",
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyKind:
    """A kind of study: its settings, and ``plan(plan, study, threads)`` that plans its jobs."""

    name: str
    settings: type[Study]
    plan: str | Callable[..., None]

    @property
    def planner(self) -> Callable[..., None]:
        """The function that plans its jobs, imported now."""
        found = resolve(self.plan) if isinstance(self.plan, str) else self.plan
        planner: Callable[..., None] = found
        return planner


def study_kind(
    settings: type[Study], name: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a kind of study.

    Parameters
    ----------
    settings : type of Study
        A subclass whose fields are the keys of the TOML file.
    name : str, optional
        What ``kind`` says; by default the function's name with dashes.

    Returns
    -------
    decorator
        Returns the function unchanged. It is called with an `ExperimentPlan`, to which it adds jobs
        and cells, the settings, and the threads of each job.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        entry = StudyKind(name=name or name_of(function), settings=settings, plan=function)
        return KINDS.decorate(function, entry)

    return register


def _adapt(name: str, target: Any) -> StudyKind:
    entry = KINDS.entry_of(target) or target
    if not isinstance(entry, StudyKind):
        raise TypeError("it is not a function registered with study_kind")
    return replace(entry, name=name)


_PLANS = "ckptlab.experiments.plans.study_plans"

KINDS: Registry[StudyKind] = Registry(
    "kind of study",
    (
        StudyKind(name="record", settings=RecordStudy, plan=f"{_PLANS}:plan_record"),
        StudyKind(name="imp", settings=ImpStudy, plan=f"{_PLANS}:plan_imp_study"),
        StudyKind(name="perturb", settings=PerturbStudy, plan=f"{_PLANS}:plan_perturb_study"),
        StudyKind(name="connect", settings=ConnectStudy, plan=f"{_PLANS}:plan_connect_study"),
        StudyKind(name="pretrain", settings=PretrainStudy, plan=f"{_PLANS}:plan_pretrain_study"),
        StudyKind(name="critical", settings=CriticalStudy, plan=f"{_PLANS}:plan_critical_study"),
    ),
    adapt=_adapt,
    group="ckptlab.studies",
)
"""Kinds of studies, by name."""


def load_study(path: Path, scale: str | None = None, overrides: Sequence[str] = ()) -> Study:
    """Read a study from a TOML file, and check it.

    `scale` names one of its scales, by default the first; each of `overrides` is a
    ``section.key=value`` of the trainings. Code that the file names is allowed, since the user gave
    it. ConfigError if a key is unknown or a value is not accepted.
    """
    document = read_toml(path, "study")
    scales = document.get("scales", {})
    if not isinstance(scales, dict) or not all(isinstance(v, dict) for v in scales.values()):
        raise ConfigError(f"{path}: scales must be tables, such as [scales.small]")
    if scale is None and scales:
        scale = next(iter(scales))
    if scale is not None:
        if not scales:
            raise ConfigError(f"--scale {scale}: {path} has no scales; leave --scale out")
        if scale not in scales:
            raise unknown_name(f"--scale of {path}", scale, scales)
        before, document = document, merge(document, scales[scale])
        layers = before.get("config", {}), scales[scale].get("config", {})
        if all(isinstance(layer, Mapping) for layer in layers):  # others are errors, told below
            document["config"] = overlay(*layers)
    for text in overrides:
        document["config"] = overlay(document.get("config", {}), parse_override(text))
    _allow_named(document)
    settings = KINDS.find(str(document.get("kind"))).settings
    try:
        return settings.model_validate(document)
    except ValidationError as error:
        raise explain(error, settings, document, f"{path}: ") from error


def planner(study: Study) -> Callable[..., None]:
    """Return the function that plans a study: ``f(plan, study, threads)``."""
    return KINDS.find(study.kind).planner


def _allow_named(value: Any) -> None:
    """Allow every ``module:object`` in a file that the user gave."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _allow_named(item)
    elif isinstance(value, str):
        name = reference_in(value)
        if name is not None and name.partition(":")[0] not in PERTURBATIONS:
            allow(name)
