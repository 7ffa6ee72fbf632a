"""Plan perturbations: change a snapshot, then train on, to learn what of it matters.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptlab.experiments.jobs.job import GivenMask, MaskOf, Perturbed, Pruning, TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.operations.initialisation import is_kaiming
from ckptlab.experiments.operations.registry import parse_kind
from ckptlab.experiments.plans.imp import Pruner, prune_chain
from ckptlab.experiments.plans.parent_run import Parent


def plan_perturb(
    plan: ExperimentPlan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    perturbations: Sequence[str],
    mask: GivenMask | MaskOf | None = None,
    vary: Sequence[str] = (),
    optimizer: str = "fresh",
) -> None:
    """Perturb snapshots of dense trainings under one mask, and train on.

    Cells have the dims (perturbation, rewind, replicate). With `optimizer` ``stored`` training
    continues with the momentum. StepError if a step was not recorded.
    """
    for parent in parents:
        for text in rewind:
            step = parent.step(text)
            for kind in perturbations:
                run = _perturbed(plan, parent, step, kind, mask or parent.mask, vary, optimizer)
                at = {"perturbation": str(parse_kind(kind)), "rewind": step}
                plan.put(run, **at, replicate=parent.replicate)


def plan_perturb_levels(
    plan: ExperimentPlan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    perturbations: Sequence[str],
    pruner: Pruner,
    levels: Sequence[int],
) -> None:
    """Perturb under the masks that iterative pruning with the same rewind point finds.

    Cells have the dims (perturbation, rewind, level, replicate); level 0 is the dense network.
    """
    for parent in parents:
        for text in rewind:
            step = parent.step(text)
            source = parent.source(step)
            chain = prune_chain(plan, parent, source, pruner, dense=parent.run)
            for level in levels:
                mask = pruner.prune(chain[level - 1]) if level else parent.mask
                for kind in perturbations:
                    run = _perturbed(plan, parent, step, kind, mask, (), "fresh")
                    at = {"perturbation": str(parse_kind(kind)), "rewind": step, "level": level}
                    plan.put(run, **at, replicate=parent.replicate)


def _perturbed(
    plan: ExperimentPlan,
    parent: Parent,
    step: int,
    text: str,
    mask: Pruning | GivenMask | MaskOf | None,
    vary: Sequence[str],
    optimizer: str,
) -> str:
    kind = parse_kind(text)
    entry = kind.perturbation
    config: Any = parent.branch(step, **parent.varied(vary))
    perturbation = None
    if entry.name != "none":
        # A seed that changes nothing is left out, so that replicates share the job.
        seed = parent.seed(f"perturbation {kind}", step) if entry.draws else 0
        fresh = parent.seed("reinitialisation") if kind.needs("fresh") else 0
        perturbation = Perturbed(
            kind=str(kind),
            seed=seed,
            fresh_seed=fresh,
            code=entry.code,
            initial=parent.initial(plan, f"perturbation {kind}") if kind.needs("0") else None,
            sigma="drawn" if entry.scaled and not is_kaiming(config) else "",
        )
    source = parent.source(step, optimizer=optimizer)
    return plan.add(TrainJob(config=config, source=source, mask=mask, perturbation=perturbation))
