"""Instability: whether two children of one step, trained in other orders, stay connected.

References
----------
Frankle, Dziugaite, Roy & Carbin (2020), arXiv:1912.05671, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ckptlab.experiments.jobs.job import GivenMask, MaskOf, MeasureJob, Pruning, TrainJob
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.experiments.plans.imp import Pruner, imp_chain
from ckptlab.experiments.plans.parent_run import VARIABLE, Parent


def plan_connect(
    plan: Plan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    options: Mapping[str, Any],
    mask: GivenMask | MaskOf | None = None,
    optimizer: str = "stored",
) -> None:
    """Train two children from each of some steps, and measure the line between their ends.

    Parameters
    ----------
    plan : Plan
        Gets jobs and cells, with dims (rewind, replicate) and `alpha` of the results.
    parents : sequence of Parent
        One for each replicate.
    rewind : sequence of str or int
        Steps to branch at.
    options : mapping
        Of the metric `connectivity`.
    mask : GivenMask or MaskOf, optional
        Which weights are kept.
    optimizer : str
        ``stored``, as if training went on; ``fresh`` as after rewinding.
    """
    for parent in parents:
        for text in rewind:
            step = parent.step(text)
            run = _pair(plan, parent, step, mask or parent.mask, options, optimizer)
            plan.put(run, rewind=step, replicate=parent.replicate)


def plan_connect_levels(
    plan: Plan,
    parents: Sequence[Parent],
    *,
    rewind: Sequence[str | int],
    options: Mapping[str, Any],
    pruner: Pruner,
    levels: Sequence[int],
) -> None:
    """Connect children of sub-networks found by iterative pruning with the same rewind point.

    Parameters
    ----------
    plan : Plan
        Gets jobs and cells, with dims (rewind, level, replicate).
    parents : sequence of Parent
        One for each replicate.
    rewind : sequence of str or int
        Steps to branch at, and to rewind to.
    options : mapping
        Of the metric `connectivity`.
    pruner : Pruner
        How masks are found.
    levels : sequence of int
        Levels whose masks are used; 0 is the dense network.
    """
    for parent in parents:
        for text in rewind:
            step = parent.step(text)
            chain = imp_chain(plan, parent, parent.source(step), pruner, dense=parent.run)
            for level in levels:
                mask = pruner.once(chain[level - 1]) if level else parent.mask
                how = "fresh" if level else "stored"
                run = _pair(plan, parent, step, mask, options, how)
                plan.put(run, rewind=step, level=level, replicate=parent.replicate)


def _pair(
    plan: Plan,
    parent: Parent,
    step: int,
    mask: Pruning | GivenMask | MaskOf | None,
    options: Mapping[str, Any],
    optimizer: str,
) -> str:
    children = []
    for child in (1, 2):
        config = parent.branch(step, **parent.varied(VARIABLE, child))
        source = parent.source(step, optimizer=optimizer)
        children.append(plan.add(TrainJob(config=config, source=source, mask=mask)))
    measure = MeasureJob(
        metric="connectivity", run=children[0], other=children[1], options=dict(options)
    )
    return plan.add(measure)
