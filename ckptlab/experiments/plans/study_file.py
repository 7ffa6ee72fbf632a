"""Studies: grids of experiments in a TOML file, which also records what they branch from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from ckptlab.errors import ConfigError, unknown_name
from ckptlab.train.sections import Count, Section, Step, Steps, Whole
from ckptlab.train.settings import explain, merge, parse_override, read_toml

Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Levels = Annotated[tuple[Whole, ...], Field(strict=False, min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1)]


class Study(Section):
    """What every study says."""

    kind: str = Field(description="what is done")
    summary: str = Field("", description="one line of documentation")
    figure: str = Field("", description="figure of the paper it reproduces")
    preset: str | None = Field(None, description="settings to start from")
    config: dict[str, dict[str, Any]] = Field({}, description="settings that differ, by section")
    replicates: Count = Field(1, description="repetitions, each with another train.seed")
    scales: dict[str, dict[str, Any]] = Field({}, description="what differs at each scale")


class Pruned(Study):
    """What studies of sub-networks say besides."""

    fraction: Share = Field(0.2, description="share of the survivors removed each time")
    scope: Literal["global", "layer"] = Field("global", description="what weights compete in")


class RecordStudy(Study):
    """Dense recordings, and metrics of them over the replicates."""

    kind: Literal["record"]
    metrics: Names = Field(("telemetry",), description="metrics of each recording")
    options: dict[str, Any] = Field({}, description="options of the metrics")


class ImpStudy(Pruned):
    """Iterative magnitude pruning with rewinding, and its controls."""

    kind: Literal["imp"]
    levels: Whole = Field(10, description="how often is pruned")
    rewind: Steps = Field(description="steps to rewind to")
    pruning: Names = Field(("imp",), description="imp, one-shot, random, reinit")


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
    levels: Whole = Field(10, description="how often is pruned; sparse: see at_levels")
    tasks: Names = Field(description="tasks of pre-training")
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
    onsets: Steps = Field((0,), description="steps at which it begins")
    durations: Steps = Field(description="how long it lasts")
    clean: Step | None = Field(None, description="length of what follows; none: train.steps")


KINDS: Mapping[str, tuple[type[Study], str]] = {
    "record": (RecordStudy, "ckptlab.experiments.plans.study_plans:plan_record"),
    "imp": (ImpStudy, "ckptlab.experiments.plans.study_plans:plan_imp_study"),
    "perturb": (PerturbStudy, "ckptlab.experiments.plans.study_plans:plan_perturb_study"),
    "connect": (ConnectStudy, "ckptlab.experiments.plans.study_plans:plan_connect_study"),
    "pretrain": (PretrainStudy, "ckptlab.experiments.plans.study_plans:plan_pretrain_study"),
    "critical": (CriticalStudy, "ckptlab.experiments.plans.study_plans:plan_critical_study"),
}
"""Kinds of studies: what they say, and what plans their jobs."""


def load_study(path: Path, scale: str | None = None, overrides: Sequence[str] = ()) -> Study:
    """Read a study.

    Parameters
    ----------
    path : Path
        A TOML file.
    scale : str, optional
        One of its scales, whose settings change the others; the first if it has any.
    overrides : sequence of str
        Settings of the trainings that differ, each ``section.key=value``.

    Returns
    -------
    Study
        Checked, of the kind that it says.

    Raises
    ------
    ConfigError
        If it can not be read, a key is unknown, or a value is not accepted.
    """
    document = read_toml(path, "study")
    scales = document.get("scales", {})
    if not isinstance(scales, dict) or not all(isinstance(v, dict) for v in scales.values()):
        raise ConfigError(f"{path}: scales must be tables, such as [scales.small]")
    if scale is None and scales:
        scale = next(iter(scales))
    if scale is not None:
        if scale not in scales:
            raise unknown_name("scale", scale, scales)
        document = merge(document, scales[scale])
    for text in overrides:
        document = merge(document, {"config": parse_override(text)})
    kind = document.get("kind")
    if kind not in KINDS:
        raise unknown_name("kind of study", str(kind), KINDS)
    try:
        return KINDS[str(kind)][0].model_validate(document)
    except ValidationError as error:
        raise explain(error, KINDS[str(kind)][0], document, f"{path}: ") from error


def planner(study: Study) -> Any:
    """Return the function that plans a study, imported now: ``f(plan, study, threads)``."""
    module, _, name = KINDS[study.kind][1].partition(":")
    return getattr(import_module(module), name)
