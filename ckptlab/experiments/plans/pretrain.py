"""Plan pre-training on proxy tasks: how the early phase depends on the data.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ckptlab.experiments.jobs.job import BranchPoint, Pruning, TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.plans.imp import (
    Pruner,
    after_pretraining,
    plan_pretrained,
    prune_chain,
)
from ckptlab.experiments.plans.parent_run import Parent, spread
from ckptlab.record.schedule import parse_step
from ckptlab.train.config import Config, change

Task = str | Mapping[str, Any]
"""A task's name, or a table of its settings such as ``{"name": "blur", "factor": 2}``."""


def plan_pretrain(
    plan: ExperimentPlan,
    parents: Sequence[Parent],
    *,
    tasks: Sequence[Task],
    lengths: Sequence[str | int],
    pruner: Pruner,
    budget: str,
) -> None:
    """Pre-train the dense network on proxies, then train it and prune it from there.

    Cells have the dims (task, length, level, replicate). ``supervised`` is training on the task
    itself, length 0 none; `budget` says what of the schedule follows.
    """
    labels = label_tasks(tasks)
    for parent in parents:
        for label, task in labels.items():
            for text in lengths:
                length = parse_step(text, parent.steps_per_epoch)
                source = _pretrained(plan, parent, task, length)
                runs = plan_pretrained(plan, parent, source, pruner=pruner, budget=budget)
                for level, run in enumerate(runs):
                    at = {"task": label, "length": length, "level": level}
                    plan.put(run, **at, replicate=parent.replicate)


def plan_pretrain_sparse(
    plan: ExperimentPlan,
    parents: Sequence[Parent],
    *,
    tasks: Sequence[Task],
    lengths: Sequence[str | int],
    pruner: Pruner,
    budget: str,
    rewind: str | int,
    levels: Sequence[int],
) -> None:
    """Pre-train sub-networks: the mask first, then the proxy, then the task.

    Masks come from iterative pruning of the dense network, rewound to `rewind`; cells have the dims
    (task, length, level, replicate).
    """
    labels = label_tasks(tasks)
    for parent in parents:
        source = parent.source(parent.step(rewind))
        chain = prune_chain(plan, parent, source, pruner, dense=parent.run)
        for level in levels:
            mask = pruner.prune(chain[level - 1]) if level else None
            for label, task in labels.items():
                for text in lengths:
                    length = parse_step(text, parent.steps_per_epoch)
                    run = _sparse(plan, parent, task, length, mask, budget)
                    at = {"task": label, "length": length, "level": level}
                    plan.put(run, **at, replicate=parent.replicate)


def label_tasks(tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Return tasks as tables by label: their name, with their settings where names repeat."""
    tables = [{"name": task} if isinstance(task, str) else dict(task) for task in tasks]
    names = [str(table.get("name")) for table in tables]
    labels = {}
    for name, table in zip(names, tables, strict=True):
        told = ",".join(f"{key}={value}" for key, value in table.items() if key != "name")
        labels[f"{name}:{told}" if told and names.count(name) > 1 else name] = table
    return labels


def pretraining_config(config: Config, task: Mapping[str, Any], length: int) -> Config:
    """Return the settings of pre-training: those of the training, with another task and length.

    A learning rate that depends on the length, as a cosine does, runs over this one.
    """
    sections: dict[str, dict[str, Any]] = {
        "task": dict(task),
        "train": {"steps": length},
        "record": {"steps": spread(0, length)},
    }
    return change(config, **sections)


def _sparse(
    plan: ExperimentPlan,
    parent: Parent,
    task: Mapping[str, Any],
    length: int,
    mask: Pruning | None,
    budget: str,
) -> str:
    source = _pretrained(plan, parent, task, length, mask)
    begun = after_pretraining(parent, source, budget)
    config = parent.branch(begun.number)
    return plan.add(TrainJob(config=config, source=begun, mask=mask))


def _pretrained(
    plan: ExperimentPlan,
    parent: Parent,
    task: Mapping[str, Any],
    length: int,
    mask: Pruning | None = None,
) -> BranchPoint:
    """Pre-train from the initialisation, which is the state itself if the length is 0."""
    if not length:
        return parent.source(parent.start)
    config = pretraining_config(parent.config, task, length)
    job = TrainJob(config=config, source=parent.source(parent.start), mask=mask)
    return BranchPoint(run=plan.add(job), step=length)
