"""Plan a study: a dense training for each replicate, and the experiments that branch from it."""

from __future__ import annotations

from collections.abc import Iterable

from ckptlab.errors import ConfigError
from ckptlab.experiments.jobs.job import MeasureJob, TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.plans.connect import plan_connect_levels
from ckptlab.experiments.plans.critical import plan_critical
from ckptlab.experiments.plans.imp import Pruner, plan_imp
from ckptlab.experiments.plans.parent_run import Parent, made_parent
from ckptlab.experiments.plans.perturb import plan_perturb_levels
from ckptlab.experiments.plans.pretrain import plan_pretrain, plan_pretrain_sparse
from ckptlab.experiments.plans.study_file import (
    ConnectStudy,
    CriticalStudy,
    ImpStudy,
    PerturbStudy,
    PretrainStudy,
    Pruned,
    RecordStudy,
    Study,
)
from ckptlab.record.schedule import parse_schedule, parse_step
from ckptlab.train.config import Config, change, load_config
from ckptlab.train.data_root import named_root
from ckptlab.train.estimate import steps_per_epoch


def configs_of(study: Study, threads: int) -> list[Config]:
    """Return the settings of each replicate's dense training, with seeds that count up."""
    config = load_config(preset=study.preset, base=None)
    config = change(config, **study.config)
    if named_root() is not None and "root" in type(config.data).model_fields:
        config = change(config, data={"root": named_root()})
    if config.train.threads is None:
        config = change(config, train={"threads": threads})
    seed = config.train.seed
    return [change(config, train={"seed": seed + r}) for r in range(study.replicates)]


def plan_record(plan: ExperimentPlan, study: RecordStudy, threads: int) -> None:
    """Record dense trainings, and measure each; adds the dim replicate to those of the metrics."""
    for replicate, config in enumerate(configs_of(study, threads)):
        run = plan.add(TrainJob(config=config))
        for metric in study.metrics:
            measure = MeasureJob(metric=metric, run=run, options=study.options)
            plan.put(plan.add(measure), replicate=replicate)


def plan_imp_study(plan: ExperimentPlan, study: ImpStudy, threads: int) -> None:
    """Prune iteratively; see `plan_imp`."""
    plan_imp(
        plan,
        _parents(plan, study, threads, [("rewind", study.rewind)]),
        rewind=study.rewind,
        pruner=_pruner(study, study.levels),
        pruning=study.pruning,
        retrain_dense=study.retrain_dense,
    )


def plan_perturb_study(plan: ExperimentPlan, study: PerturbStudy, threads: int) -> None:
    """Perturb and train on; see `plan_perturb_levels`."""
    plan_perturb_levels(
        plan,
        _parents(plan, study, threads, [("rewind", study.rewind)]),
        rewind=study.rewind,
        perturbations=study.perturbations,
        pruner=_pruner(study, max(study.at_levels)),
        levels=study.at_levels,
    )


def plan_connect_study(plan: ExperimentPlan, study: ConnectStudy, threads: int) -> None:
    """Connect children; see `plan_connect_levels`."""
    plan_connect_levels(
        plan,
        _parents(plan, study, threads, [("rewind", study.rewind)]),
        rewind=study.rewind,
        options=study.options,
        pruner=_pruner(study, max(study.at_levels)),
        levels=study.at_levels,
    )


def plan_pretrain_study(plan: ExperimentPlan, study: PretrainStudy, threads: int) -> None:
    """Pre-train, train and prune; see `plan_pretrain`."""
    parents = _parents(plan, study, threads, [("rewind", (study.rewind,))])
    if not study.sparse:
        plan_pretrain(
            plan,
            parents,
            tasks=study.tasks,
            lengths=study.lengths,
            pruner=_pruner(study, study.levels),
            budget=study.budget,
        )
        return
    plan_pretrain_sparse(
        plan,
        parents,
        tasks=study.tasks,
        lengths=study.lengths,
        pruner=_pruner(study, max(study.at_levels)),
        budget=study.budget,
        rewind=study.rewind,
        levels=study.at_levels,
    )


def plan_critical_study(plan: ExperimentPlan, study: CriticalStudy, threads: int) -> None:
    """Train with a deficit; see `plan_critical`."""
    plan_critical(
        plan,
        configs_of(study, threads),
        deficit=study.deficit,
        onsets=study.onsets,
        durations=study.durations,
        clean=study.clean,
        milestones=study.milestones,
    )


def _parents(
    plan: ExperimentPlan,
    study: Study,
    threads: int,
    points: Iterable[tuple[str, tuple[int | str, ...]]],
) -> list[Parent]:
    """Record what the study branches from: the initialisation and the steps it needs.

    Studies whose `record.steps` hold what all of them need share these trainings.
    """
    steps = {"0"}
    for name, given in points:
        if "init" in map(str, given) or "final" in map(str, given):
            raise ConfigError(f"{name} takes numbers of steps in a study, such as 0 or 500")
        steps |= {str(step) for step in given}
    own = study.config.get("record", {}).get("steps")
    parents = []
    for replicate, config in enumerate(configs_of(study, threads)):
        needed = sorted(steps)
        if own is not None:
            epoch = steps_per_epoch(config)
            held = parse_schedule(config.record.steps, epoch)
            needed = [config.record.steps, *(s for s in needed if parse_step(s, epoch) not in held)]
        parents.append(made_parent(plan, config, record=",".join(needed), replicate=replicate))
    return parents


def _pruner(study: Pruned, levels: int) -> Pruner:
    how = {name: getattr(study, name) for name in ("fraction", "scope", "keep", "structure")}
    return Pruner(levels=levels, **how)
