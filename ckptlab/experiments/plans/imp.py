"""Plan iterative magnitude pruning with rewinding, and its controls.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 3; Frankle, Dziugaite, Roy & Carbin
(2019), arXiv:1903.01611.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ckptlab.errors import ConfigError, unknown_name
from ckptlab.experiments.jobs.job import BranchPoint, MaskOf, Perturbed, Pruning, TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.operations.criteria import PRUNING, PruningCriterion
from ckptlab.experiments.operations.initialisation import layout_of
from ckptlab.experiments.operations.pruning import (
    SCOPES,
    STRUCTURES,
    prunable,
    require_share,
)
from ckptlab.experiments.plans.parent_run import Parent
from ckptlab.record.schedule import parse_step

BUDGETS: dict[str, str] = {
    "full": "the whole schedule follows pre-training",
    "remaining": "the schedule continues from the number of pre-training steps",
}
"""What follows pre-training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruner:
    """How often, how much, where and what is pruned; tensors in `keep` stay whole."""

    levels: int
    fraction: float = 0.2
    scope: str = "global"
    keep: tuple[str, ...] = ()
    structure: str = ""

    def __post_init__(self) -> None:
        require_share("fraction", self.fraction)
        if self.scope not in SCOPES:
            raise unknown_name("scope", self.scope, SCOPES)
        if self.structure not in STRUCTURES:
            raise unknown_name("structure", self.structure, STRUCTURES[1:])

    def prune(self, run: str, **how: Any) -> Pruning:
        """Prune what a run ended with, by one level unless `levels` says more."""
        settings = {"fraction": float(self.fraction)}
        settings |= {name: getattr(self, name) for name in ("scope", "keep", "structure")}
        return Pruning.model_validate({**settings, "run": run, **how})


def prune_chain(
    plan: ExperimentPlan,
    parent: Parent,
    source: BranchPoint,
    pruner: Pruner,
    *,
    dense: str,
    criterion: PruningCriterion | None = None,
    **sections: Any,
) -> list[str]:
    """Add the levels of one iterative series, rewound to `source`; return the ids from level 0 on.

    Level 1 is pruned from what the run `dense` ended with; by magnitude, unless a criterion says
    otherwise.
    """
    config = parent.branch(source.number, **sections)
    if pruner.keep:
        prunable(layout_of(config), pruner.keep)  # names a tensor that is not there
    chain, epoch = [dense], parent.steps_per_epoch
    for level in range(1, pruner.levels + 1):
        how = {} if criterion is None else _method(parent, criterion, level, source)
        mask = pruner.prune(chain[-1], **how)
        begin = source
        if criterion is not None and criterion.rewinds == "rate":
            # The last weights go on, with the schedule and order of the rewind step.
            last = parent.steps if level == 1 else parse_step(config.train.steps, epoch)
            begin = BranchPoint(run=chain[-1], step=last, at=source.number)
        chain.append(plan.add(TrainJob(config=config, source=begin, mask=mask)))
    return chain


def plan_imp(
    plan: ExperimentPlan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    pruner: Pruner,
    pruning: Sequence[str] = ("imp",),
    vary: Sequence[str] = (),
    retrain_dense: bool = False,
) -> None:
    """Prune the final weights of dense trainings, rewinding to each of some steps.

    Cells have the dims (pruning, rewind, level, replicate). Level 0 is the dense training itself;
    `retrain_dense` trains it from the rewind step with fresh momentum, as every other level is.
    StepError if a step to rewind to was not recorded.
    """
    criteria = [PRUNING.find(name) for name in pruning]
    plan.attributes |= {
        "level_0": "trained from the rewind step, its momentum begun anew"
        if retrain_dense
        else "the dense run, with the momentum it had",
        "never_pruned": ", ".join(pruner.keep) or "nothing, the output layer is pruned as well",
        "sub_networks": "; ".join(f"{entry.name}, {entry.summary}" for entry in criteria),
    }
    for parent in parents:
        sections = parent.varied(vary)
        for text in rewind:
            source = parent.source(parent.step(text))
            series = _Series(plan, parent, source, pruner, sections)
            first = parent.run
            if retrain_dense:
                config = parent.branch(source.number, **sections)
                first = plan.add(TrainJob(config=config, source=source))
            for criterion in criteria:
                for level, run in enumerate(series.runs(criterion)):
                    at = {"pruning": criterion.name, "rewind": source.step, "level": level}
                    plan.put(first if not level else run, **at, replicate=parent.replicate)


def plan_pretrained(
    plan: ExperimentPlan, parent: Parent, source: BranchPoint, *, pruner: Pruner, budget: str
) -> list[str]:
    """Prune from a pre-trained state, the rewind point, from which level 0 is trained first.

    Returns the ids from level 0 on; ConfigError if nothing remains of the schedule.
    """
    begun = after_pretraining(parent, source, budget)
    dense = plan.add(TrainJob(config=parent.branch(begun.number), source=begun))
    return prune_chain(plan, parent, begun, pruner, dense=dense)


def after_pretraining(parent: Parent, source: BranchPoint, budget: str) -> BranchPoint:
    """Number a pre-trained state as its budget says: 0, or its own step."""
    if budget not in BUDGETS:
        raise unknown_name("budget", budget, BUDGETS)
    if budget == "remaining" and source.step >= parent.steps:
        raise ConfigError(
            f"budget 'remaining' leaves nothing: pre-training took {source.step} steps, the "
            f"schedule has {parent.steps}; use budget=full, or pre-train for less"
        )
    return source.model_copy(update={"at": 0 if budget == "full" else source.step})


class _Series:
    """Series of sub-networks with one rewind point."""

    def __init__(
        self,
        plan: ExperimentPlan,
        parent: Parent,
        source: BranchPoint,
        pruner: Pruner,
        sections: dict[str, Any],
    ) -> None:
        self._plan = plan
        self._parent = parent
        self._source = source
        self._pruner = pruner
        self._sections = sections

    def runs(self, criterion: PruningCriterion) -> list[str]:
        """Return the ids of the runs from level 0 on."""
        if criterion.name == "imp":
            return self._chain(None)
        if criterion.masks == "own":
            return self._chain(criterion)
        imp = self._chain(None) if criterion.masks == "imp" else []
        config = self._parent.branch(self._source.number, **self._sections)
        runs = [self._parent.run]
        for level in range(1, self._pruner.levels + 1):
            job = TrainJob(
                config=config,
                source=self._source,
                mask=self._mask(criterion, level, imp),
                perturbation=self._fresh(criterion, level),
            )
            runs.append(self._plan.add(job))
        return runs

    def _chain(self, criterion: PruningCriterion | None) -> list[str]:
        return prune_chain(
            self._plan,
            self._parent,
            self._source,
            self._pruner,
            dense=self._parent.run,
            criterion=criterion,
            **self._sections,
        )

    def _mask(
        self, criterion: PruningCriterion, level: int, imp: Sequence[str]
    ) -> Pruning | MaskOf:
        if criterion.masks == "dense":
            how = _method(self._parent, criterion, level, self._source)
            return self._pruner.prune(self._parent.run, levels=level, **how)
        if criterion.shuffled:
            seed = self._parent.seed(f"{criterion.name} mask", level)
            return MaskOf(run=imp[level], shuffle_seed=seed)
        return self._pruner.prune(imp[level - 1])

    def _fresh(self, criterion: PruningCriterion, level: int) -> Perturbed | None:
        if not criterion.fresh:
            return None
        counters = (level,) if criterion.fresh == "each" else ()
        seed = self._parent.seed("reinitialisation", *counters)
        return Perturbed(kind="reinit", fresh_seed=seed)


def _method(
    parent: Parent, criterion: PruningCriterion, level: int, source: BranchPoint
) -> dict[str, Any]:
    """Return the fields of a `Pruning` that say how weights are scored."""
    if criterion.method == "magnitude":
        return {}
    purpose = f"{criterion.name} pruning"  # "random pruning" since version 1
    seed = parent.seed(purpose, level) if criterion.draws else 0
    how: dict[str, Any] = {"method": criterion.method, "seed": seed, "code": criterion.code}
    if criterion.at == "rewind":
        how["at"] = source.number
    return how | ({"rounds": criterion.rounds} if criterion.rounds > 1 else {})
