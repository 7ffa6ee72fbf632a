"""``ckptlab imp``, ``perturb`` and ``connect``: experiments on one run, as jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptlab.cli.experiment_options import conducted, finish
from ckptlab.errors import ConfigError
from ckptlab.experiments.operations.registry import PERTURBATIONS

if TYPE_CHECKING:
    from ckptlab.experiments.jobs.job import GivenMask
    from ckptlab.experiments.jobs.plan import Plan
    from ckptlab.experiments.plans.parent_run import Parent
    from ckptlab.store.read.reader import StoredRun

Command = TypeVar("Command", bound=Callable[..., Any])

_set = click.option(
    "-S",
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change a setting of the trainings, such as train.steps=300; may be given often.",
)
_replicates = click.option(
    "--replicates", type=click.IntRange(min=1), default=1, help="Repetitions with other seeds."
)
_vary = click.option(
    "--vary", metavar="order,augment", default="", help="What replicates vary besides."
)
_mask = click.option(
    "--mask", metavar="FILE.zarr[@LEVEL]|FILE.npy", help="Weights kept; all by default."
)


@click.command()
@click.argument("run")
@click.option("--rewind", metavar="STEP,...", help="Steps that each level is rewound to.")
@click.option("--levels", type=click.IntRange(min=0), default=10, help="How often is pruned.")
@click.option("--fraction", type=float, default=0.2, help="Share of survivors pruned each time.")
@click.option("--scope", default="global", metavar="global|layer", help="What weights compete in.")
@click.option(
    "--pruning",
    default="imp",
    metavar="NAME,...",
    help="imp, and as controls one-shot, random, reinit.",
)
@click.option("--from", "origin", metavar="RUN@STEP", help="Pre-trained state to rewind to.")
@click.option(
    "--budget",
    default="full",
    metavar="full|remaining",
    help="With --from: the schedule begins at 0, or goes on from STEP.",
)
@_replicates
@_vary
@_set
@conducted
def imp(run: str, **given: Any) -> int:
    """Prune RUN iteratively by magnitude, rewinding the survivors.

    RUN is a complete dense run: its final weights give the first mask, its snapshot at the rewind
    step is what every level is trained from. With --from, level 0 is trained from that state first.
    """
    from ckptlab.experiments.plans.imp import Pruner

    plan, stored = _plan("imp", run, given)
    pruner = Pruner(levels=given["levels"], fraction=given["fraction"], scope=given["scope"])
    parents = _parents(plan, stored, given, default_threads=1)
    if given["origin"] is not None:
        _plan_from(plan, parents, pruner, given)
    else:
        from ckptlab.experiments.plans.imp import plan_imp

        if given["rewind"] is None:
            raise ConfigError("--rewind STEP is needed: what each level is rewound to, such as 500")
        plan_imp(
            plan,
            parents,
            rewind=_listed(given["rewind"]),
            pruner=pruner,
            pruning=_listed(given["pruning"]),
            vary=_listed(given["vary"]),
        )
    return finish(plan, run, given)


@click.command()
@click.argument("run")
@click.option("--at", "rewind", metavar="STEP,...", required=True, help="Steps that are perturbed.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    required=True,
    metavar="KIND",
    help="May be given often: " + "; ".join(entry.form for entry in PERTURBATIONS.values()) + ".",
)
@click.option("--keep-optimizer", is_flag=True, help="Go on with the momentum.")
@_mask
@_replicates
@_vary
@_set
@conducted
def perturb(run: str, **given: Any) -> int:
    """Perturb the weights of RUN at a step, and train on.

    Only weights of convolutions and linear layers that the mask keeps are changed. Replicates vary
    the perturbation; order and augmentation stay those of RUN unless varied.
    """
    from ckptlab.experiments.plans.perturb import plan_perturb

    plan, stored = _plan("perturb", run, given)
    keeps = bool(given["keep_optimizer"])
    plan_perturb(
        plan,
        _parents(plan, stored, given, default_threads=_threads_of(stored) if keeps else 1),
        rewind=_listed(given["rewind"]),
        perturbations=list(dict.fromkeys(given["kinds"])),
        mask=_given_mask(stored, given),
        vary=_listed(given["vary"]),
        optimizer="stored" if keeps else "fresh",
    )
    return finish(plan, run, given)


@click.command()
@click.argument("run")
@click.option("--at", "rewind", metavar="STEP,...", required=True, help="Steps to branch at.")
@click.option("--alphas", type=click.IntRange(min=2), default=30, help="Points on the line.")
@click.option(
    "--statistics",
    default="recompute",
    metavar="recompute|average",
    help="Running statistics of batch norm between the ends.",
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=1024, help="Training images to recompute on."
)
@_mask
@_replicates
@_set
@conducted
def connect(run: str, **given: Any) -> int:
    """Train two children from a step of RUN in other orders, and measure the line between them.

    Dense children go on with the momentum; those of a mask begin without it, as after rewinding.
    """
    from ckptlab.analyze.model.connectivity import STATISTICS
    from ckptlab.errors import unknown_name
    from ckptlab.experiments.plans.connect import plan_connect

    if given["statistics"] not in STATISTICS:
        raise unknown_name("value of statistics", given["statistics"], STATISTICS)
    plan, stored = _plan("connect", run, given)
    mask = _given_mask(stored, given)
    plan_connect(
        plan,
        _parents(plan, stored, given, default_threads=1),
        rewind=_listed(given["rewind"]),
        options={key: given[key] for key in ("alphas", "statistics", "samples")},
        mask=mask,
        optimizer="stored" if mask is None else "fresh",
    )
    return finish(plan, run, given)


def _plan(kind: str, run: str, given: dict[str, Any]) -> tuple[Plan, StoredRun]:
    from ckptlab.experiments.jobs.plan import Plan
    from ckptlab.store.read.reader import open_store

    stored = open_store(run)
    asked = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in given.items()
        if key not in CONDUCT and value not in (None, "", (), False)
    }
    plan = Plan(title=f"{kind} of {run}", kind=kind, attributes={"run": run, "options": asked})
    return plan, stored


CONDUCT: tuple[str, ...] = (
    "output",
    "scheduler",
    "workers",
    "threads",
    "together",
    "retry_failed",
    "dry_run",
    "as_json",
)
"""Options that do not change what is computed."""


def _parents(
    plan: Plan, stored: StoredRun, given: dict[str, Any], *, default_threads: int
) -> list[Parent]:
    from ckptlab.experiments.plans.parent_run import recorded_parent

    threads = given["threads"] or default_threads
    given["threads"] = threads
    count = given["replicates"]
    if count > 1 and plan.kind == "imp" and not given["vary"]:
        raise ConfigError(
            f"replicates {count} would all be the same; give --vary order,augment as well"
        )
    return [
        recorded_parent(plan, stored, given["overrides"], threads=threads, replicate=replicate)
        for replicate in range(count)
    ]


def _plan_from(plan: Plan, parents: Sequence[Parent], pruner: Any, given: dict[str, Any]) -> None:
    from ckptlab.experiments.jobs.job import Source
    from ckptlab.experiments.plans.imp import plan_pretrained
    from ckptlab.experiments.plans.parent_run import require_usable
    from ckptlab.store.read.reader import open_store
    from ckptlab.train.branch import Point

    for name in ("rewind", "vary"):
        if given[name]:
            raise ConfigError(f"--from is the rewind point of all levels; drop --{name}")
    if _listed(given["pruning"]) != ["imp"]:
        raise ConfigError("--from goes with imp alone; drop --pruning")
    if len(parents) > 1:
        raise ConfigError("--from goes with one replicate; drop --replicates")
    point = Point.parse(given["origin"])
    stored = open_store(point.path)
    require_usable(stored)
    source = Source(run=plan.add_recording(stored), step=point.resolve(stored))
    runs = plan_pretrained(plan, parents[0], source, pruner=pruner, budget=given["budget"])
    for level, run in enumerate(runs):
        plan.put(run, pruning="imp", rewind=source.step, level=level, replicate=0)


def _given_mask(stored: StoredRun, given: dict[str, Any]) -> GivenMask | None:
    """Read a mask from a file; a copy is kept with the experiment."""
    from ckptlab.analyze.engine.masks import load_mask
    from ckptlab.analyze.engine.source import as_source
    from ckptlab.experiments.jobs.job import GivenMask
    from ckptlab.store.format.constants import mask_digest

    mask = load_mask(given["mask"], as_source(stored))
    if mask is None:
        return None
    given["mask_values"] = mask.values
    return GivenMask(digest=mask_digest(mask.values))


def _threads_of(stored: StoredRun) -> int:
    return int(stored.attributes.get("threads") or 1)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
