"""Iterative magnitude pruning with rewinding, and its controls.

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
from ckptlab.experiments.jobs.job import Perturbed, Pruning, Source, TrainJob
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.experiments.operations.pruning import SCOPES, require_share
from ckptlab.experiments.plans.parent_run import Parent

PRUNING: dict[str, str] = {
    "imp": "iterative magnitude pruning: each level prunes what the level before ended with",
    "one-shot": "as many weights at once, by the magnitudes the dense network ended with",
    "random": "as many weights, drawn at random",
    "reinit": "the masks of imp, with survivors freshly initialised",
}
"""Ways to a sub-network, by name; the last three are controls."""

BUDGETS: dict[str, str] = {
    "full": "the whole schedule follows pre-training",
    "remaining": "the schedule goes on from the number of pre-training steps",
}
"""What follows pre-training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruner:
    """How often, how much and where is pruned.

    Parameters
    ----------
    levels : int
        How many times.
    fraction : float
        Share of the survivors removed each time.
    scope : str
        ``global`` or ``layer``.

    Raises
    ------
    ConfigError
        If the fraction is not between 0 and 1.
    UnknownNameError
        If there is no such scope.
    """

    levels: int
    fraction: float = 0.2
    scope: str = "global"

    def __post_init__(self) -> None:
        require_share("fraction", self.fraction)
        if self.scope not in SCOPES:
            raise unknown_name("scope", self.scope, SCOPES)

    def once(self, run: str) -> Pruning:
        """Prune what a run ended with by one level."""
        return self._pruning(run=run)

    def at_once(self, run: str, level: int, **how: Any) -> Pruning:
        """Prune as much as `level` levels would, in one go."""
        return self._pruning(run=run, levels=level, **how)

    def _pruning(self, **how: Any) -> Pruning:
        document = {"fraction": float(self.fraction), "scope": self.scope, **how}
        return Pruning.model_validate(document)


def imp_chain(
    plan: Plan, parent: Parent, source: Source, pruner: Pruner, *, dense: str, **sections: Any
) -> list[str]:
    """Add the levels of one series of iterative pruning.

    Parameters
    ----------
    plan : Plan
        Gets the jobs.
    parent : Parent
        Whose settings they have.
    source : Source
        The state each level is rewound to.
    pruner : Pruner
        How it is pruned.
    dense : str
        Id of the run that level 1 is pruned from.
    **sections : mapping
        Settings that differ.

    Returns
    -------
    list of str
        Ids of the runs of levels 0, 1, …
    """
    config = parent.branch(source.number, **sections)
    chain = [dense]
    for _ in range(pruner.levels):
        mask = pruner.once(chain[-1])
        chain.append(plan.add(TrainJob(config=config, source=source, mask=mask)))
    return chain


def plan_imp(
    plan: Plan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    pruner: Pruner,
    pruning: Sequence[str] = ("imp",),
    vary: Sequence[str] = (),
) -> None:
    """Prune iteratively from the final weights of dense trainings, rewinding to some steps.

    Parameters
    ----------
    plan : Plan
        Gets jobs and cells, with dims (pruning, rewind, level, replicate).
    parents : sequence of Parent
        One for each replicate.
    rewind : sequence of str or int
        Steps to rewind to.
    pruner : Pruner
        How it is pruned.
    pruning : sequence of str
        Of `PRUNING`.
    vary : sequence of str
        Seeds that replicates vary.

    Raises
    ------
    StepError
        If a step to rewind to was not recorded.
    """
    for way in pruning:
        if way not in PRUNING:
            raise unknown_name("pruning", way, PRUNING)
    for parent in parents:
        sections = parent.varied(vary)
        for text in rewind:
            source = parent.source(parent.step(text))
            chain = imp_chain(plan, parent, source, pruner, dense=parent.run, **sections)
            for way in pruning:
                runs = chain
                if way != "imp":
                    runs = _control(plan, parent, source, pruner, way, chain, sections)
                for level, run in enumerate(runs):
                    at = {"pruning": way, "rewind": source.step, "level": level}
                    plan.put(run, **at, replicate=parent.replicate)


def plan_pretrained(
    plan: Plan,
    parent: Parent,
    source: Source,
    *,
    pruner: Pruner,
    budget: str,
) -> list[str]:
    """Prune from a pre-trained state, which is the rewind point; level 0 is trained from it first.

    Parameters
    ----------
    plan : Plan
        Gets jobs.
    parent : Parent
        Whose task and settings are trained.
    source : Source
        The pre-trained state.
    pruner : Pruner
        How it is pruned.
    budget : str
        Of `BUDGETS`.

    Returns
    -------
    list of str
        Ids of the runs of levels 0, 1, …

    Raises
    ------
    ConfigError
        If nothing remains of the schedule.
    """
    begun = after_pretraining(parent, source, budget)
    dense = plan.add(TrainJob(config=parent.branch(begun.number), source=begun))
    return imp_chain(plan, parent, begun, pruner, dense=dense)


def after_pretraining(parent: Parent, source: Source, budget: str) -> Source:
    """Number a pre-trained state as its budget says: 0, or its own step."""
    if budget not in BUDGETS:
        raise unknown_name("budget", budget, BUDGETS)
    if budget == "remaining" and source.step >= parent.steps:
        raise ConfigError(
            f"budget 'remaining' leaves nothing: pre-training took {source.step} steps, the "
            f"schedule has {parent.steps}; use budget=full, or pre-train for less"
        )
    return source.model_copy(update={"at": 0 if budget == "full" else source.step})


def _control(
    plan: Plan,
    parent: Parent,
    source: Source,
    pruner: Pruner,
    way: str,
    chain: Sequence[str],
    sections: dict[str, Any],
) -> list[str]:
    config = parent.branch(source.number, **sections)
    runs = [parent.run]
    for level in range(1, pruner.levels + 1):
        perturbation = None
        if way == "reinit":
            mask = pruner.once(chain[level - 1])
            fresh = parent.seed("reinitialisation")
            perturbation = Perturbed(kind="reinit", fresh_seed=fresh)
        elif way == "one-shot":
            mask = pruner.at_once(parent.run, level)
        else:
            seed = parent.seed("random pruning", level)
            mask = pruner.at_once(parent.run, level, method="random", seed=seed)
        job = TrainJob(config=config, source=source, mask=mask, perturbation=perturbation)
        runs.append(plan.add(job))
    return runs
