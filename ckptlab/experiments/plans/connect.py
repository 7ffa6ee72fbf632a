"""Plan instability analysis: whether children of a step in other orders stay connected.

References
----------
Frankle, Dziugaite, Roy & Carbin (2020), arXiv:1912.05671, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ckptlab.experiments.jobs.job import GivenMask, MaskOf, MeasureJob, Pruning, TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.plans.imp import Pruner, prune_chain
from ckptlab.experiments.plans.parent_run import CHILD_SEEDS, Parent


def plan_connect(
    plan: ExperimentPlan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    options: Mapping[str, Any],
    mask: GivenMask | MaskOf | None = None,
    optimizer: str = "stored",
) -> None:
    """Train two children from each of some steps, and measure the line between their ends.

    `options` are those of the metric `connectivity`; cells have the dims (rewind, replicate). With
    `optimizer` ``stored`` training continues, ``fresh`` begins without momentum, as after
    rewinding.
    """
    for parent in parents:
        for text in rewind:
            step = parent.step(text)
            run = _pair(plan, parent, step, mask or parent.mask, options, optimizer)
            plan.put(run, rewind=step, replicate=parent.replicate)


def plan_connect_levels(
    plan: ExperimentPlan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    options: Mapping[str, Any],
    pruner: Pruner,
    levels: Sequence[int],
) -> None:
    """Connect children of sub-networks found by iterative pruning with the same rewind point.

    Cells have the dims (rewind, level, replicate); level 0 is the dense network.
    """
    for parent in parents:
        for text in rewind:
            step = parent.step(text)
            chain = prune_chain(plan, parent, parent.source(step), pruner, dense=parent.run)
            for level in levels:
                mask = pruner.prune(chain[level - 1]) if level else parent.mask
                how = "fresh" if level else "stored"
                run = _pair(plan, parent, step, mask, options, how)
                plan.put(run, rewind=step, level=level, replicate=parent.replicate)


def _pair(
    plan: ExperimentPlan,
    parent: Parent,
    step: int,
    mask: Pruning | GivenMask | MaskOf | None,
    options: Mapping[str, Any],
    optimizer: str,
) -> str:
    children = []
    for child in (1, 2):
        config = parent.branch(step, **parent.varied(CHILD_SEEDS, child))
        source = parent.source(step, optimizer=optimizer)
        children.append(plan.add(TrainJob(config=config, source=source, mask=mask)))
    measure = MeasureJob(
        metric="connectivity", run=children[0], other=children[1], options=dict(options)
    )
    return plan.add(measure)
