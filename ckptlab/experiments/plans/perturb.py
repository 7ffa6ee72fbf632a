"""Perturb a snapshot, then train on: what of the early weights matters.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptlab.experiments.jobs.job import GivenMask, MaskOf, Perturbed, Pruning, TrainJob
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.experiments.operations.registry import parse_kind
from ckptlab.experiments.plans.imp import Pruner, imp_chain
from ckptlab.experiments.plans.parent_run import Parent


def plan_perturb(
    plan: Plan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    perturbations: Sequence[str],
    mask: GivenMask | MaskOf | None = None,
    vary: Sequence[str] = (),
    optimizer: str = "fresh",
) -> None:
    """Perturb snapshots of dense trainings under one mask, and train them on.

    Parameters
    ----------
    plan : Plan
        Gets jobs and cells, with dims (perturbation, rewind, replicate).
    parents : sequence of Parent
        One for each replicate.
    rewind : sequence of str or int
        Steps perturbed.
    perturbations : sequence of str
        Kinds, as `perturb.parse_kind` reads them.
    mask : GivenMask or MaskOf, optional
        Which weights are kept; all by default.
    vary : sequence of str
        Seeds of order and augmentation that replicates vary besides.
    optimizer : str
        ``fresh``, or ``stored`` to go on with the momentum.

    Raises
    ------
    StepError
        If a step was not recorded.
    """
    for parent in parents:
        for text in rewind:
            step = parent.step(text)
            for kind in perturbations:
                run = _perturbed(plan, parent, step, kind, mask or parent.mask, vary, optimizer)
                at = {"perturbation": str(parse_kind(kind)), "rewind": step}
                plan.put(run, **at, replicate=parent.replicate)


def plan_perturb_levels(
    plan: Plan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    perturbations: Sequence[str],
    pruner: Pruner,
    levels: Sequence[int],
) -> None:
    """Perturb under the masks that iterative pruning with the same rewind point finds.

    Parameters
    ----------
    plan : Plan
        Gets jobs and cells, with dims (perturbation, rewind, level, replicate).
    parents : sequence of Parent
        One for each replicate.
    rewind : sequence of str or int
        Steps perturbed, and rewound to.
    perturbations : sequence of str
        Kinds.
    pruner : Pruner
        How masks are found.
    levels : sequence of int
        Levels whose masks are used; 0 is the dense network.
    """
    for parent in parents:
        for text in rewind:
            step = parent.step(text)
            source = parent.source(step)
            chain = imp_chain(plan, parent, source, pruner, dense=parent.run)
            for level in levels:
                mask = pruner.once(chain[level - 1]) if level else parent.mask
                for kind in perturbations:
                    run = _perturbed(plan, parent, step, kind, mask, (), "fresh")
                    at = {"perturbation": str(parse_kind(kind)), "rewind": step, "level": level}
                    plan.put(run, **at, replicate=parent.replicate)


def _perturbed(
    plan: Plan,
    parent: Parent,
    step: int,
    text: str,
    mask: Pruning | GivenMask | MaskOf | None,
    vary: Sequence[str],
    optimizer: str,
) -> str:
    kind = parse_kind(text)
    config: Any = parent.branch(step, **parent.varied(vary))
    perturbation = None
    if kind.perturbation.name != "none":
        # A seed that changes nothing is left out, so that replicates share the job.
        draws, fresh = kind.perturbation.draws, kind.needs("fresh")
        perturbation = Perturbed(
            kind=str(kind),
            seed=parent.seed(f"perturbation {kind}", step) if draws else 0,
            fresh_seed=parent.seed("reinitialisation") if fresh else 0,
        )
    source = parent.source(step, optimizer=optimizer)
    return plan.add(TrainJob(config=config, source=source, mask=mask, perturbation=perturbation))
