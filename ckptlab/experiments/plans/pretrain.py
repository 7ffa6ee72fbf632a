"""Pre-training on a proxy task: how the early phase depends on the data.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckptlab.experiments.jobs.job import Pruning, Source, TrainJob
from ckptlab.experiments.jobs.plan import Plan
from ckptlab.experiments.plans.imp import Pruner, after_pretraining, imp_chain, plan_pretrained
from ckptlab.experiments.plans.parent_run import Parent, spread
from ckptlab.record.schedule import parse_step
from ckptlab.train.config import Config, change


def plan_pretrain(
    plan: Plan,
    parents: Sequence[Parent],
    *,
    tasks: Sequence[str],
    lengths: Sequence[str | int],
    pruner: Pruner,
    budget: str,
) -> None:
    """Pre-train the dense network on proxies, then train it and prune it from there.

    Parameters
    ----------
    plan : Plan
        Gets jobs and cells, with dims (task, length, level, replicate).
    parents : sequence of Parent
        One for each replicate, from whose initialisation pre-training begins.
    tasks : sequence of str
        Names of tasks; ``supervised`` is training on the task itself.
    lengths : sequence of str or int
        Steps or epochs of pre-training; 0 is none.
    pruner : Pruner
        How it is pruned.
    budget : str
        ``full`` or ``remaining``: what of the schedule follows.
    """
    for parent in parents:
        for task in tasks:
            for text in lengths:
                length = parse_step(text, parent.steps_per_epoch)
                source = _pretrained(plan, parent, task, length)
                runs = plan_pretrained(plan, parent, source, pruner=pruner, budget=budget)
                for level, run in enumerate(runs):
                    at = {"task": task, "length": length, "level": level}
                    plan.put(run, **at, replicate=parent.replicate)


def plan_pretrain_sparse(
    plan: Plan,
    parents: Sequence[Parent],
    *,
    tasks: Sequence[str],
    lengths: Sequence[str | int],
    pruner: Pruner,
    budget: str,
    rewind: str | int,
    levels: Sequence[int],
) -> None:
    """Pre-train sub-networks: the mask first, then the proxy, then the task.

    Parameters
    ----------
    plan : Plan
        Gets jobs and cells, with dims (task, length, level, replicate).
    parents : sequence of Parent
        One for each replicate.
    tasks : sequence of str
        Names of tasks.
    lengths : sequence of str or int
        Steps or epochs of pre-training.
    pruner : Pruner
        How masks are found, by iterative pruning of the dense network.
    budget : str
        ``full`` or ``remaining``.
    rewind : str or int
        Rewind point of the series that gives the masks.
    levels : sequence of int
        Levels whose masks are used.
    """
    for parent in parents:
        source = parent.source(parent.step(rewind))
        chain = imp_chain(plan, parent, source, pruner, dense=parent.run)
        for level in levels:
            mask = pruner.once(chain[level - 1]) if level else None
            for task in tasks:
                for text in lengths:
                    length = parse_step(text, parent.steps_per_epoch)
                    run = _sparse(plan, parent, task, length, mask, budget)
                    at = {"task": task, "length": length, "level": level}
                    plan.put(run, **at, replicate=parent.replicate)


def _sparse(
    plan: Plan, parent: Parent, task: str, length: int, mask: Pruning | None, budget: str
) -> str:
    source = _pretrained(plan, parent, task, length, mask)
    begun = after_pretraining(parent, source, budget)
    config = parent.branch(begun.number)
    return plan.add(TrainJob(config=config, source=begun, mask=mask))


def _pretrained(
    plan: Plan, parent: Parent, task: str, length: int, mask: Pruning | None = None
) -> Source:
    """Pre-train from the initialisation, which is the state itself if the length is 0."""
    if not length:
        return parent.source(parent.start)
    config = pretraining_config(parent.config, task, length)
    job = TrainJob(config=config, source=parent.source(parent.start), mask=mask)
    return Source(run=plan.add(job), step=length)


def pretraining_config(config: Config, task: str, length: int) -> Config:
    """Return the settings of pre-training: those of the training, with another task and length.

    Parameters
    ----------
    config : Config
        Of the training that follows.
    task : str
        The proxy.
    length : int
        Updates.

    Returns
    -------
    Config
        With the same network, data, seeds and learning rate; a rate that depends on the length, as
        a cosine does, runs over this one.
    """
    sections: dict[str, dict[str, Any]] = {
        "task": {"name": task},
        "train": {"steps": length},
        "record": {"steps": spread(0, length)},
    }
    return change(config, **sections)
