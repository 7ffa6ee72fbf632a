"""``ckptlab imp``, ``perturb`` and ``connect``: run experiments on one recording."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptlab.cli.experiment_options import experiment_options, finish, set_option
from ckptlab.errors import ConfigError
from ckptlab.experiments.operations.arguments import reference_in
from ckptlab.experiments.operations.criteria import PRUNING
from ckptlab.experiments.operations.registry import PERTURBATIONS
from ckptlab.registry import allow

if TYPE_CHECKING:
    from ckptlab.experiments.jobs.job import GivenMask
    from ckptlab.experiments.jobs.plan import ExperimentPlan
    from ckptlab.experiments.plans.parent_run import Parent
    from ckptlab.store.read.reader import StoredRun

Command = TypeVar("Command", bound=Callable[..., Any])

_replicates = click.option(
    "--replicates", type=click.IntRange(min=1), default=1, help="Repetitions with other seeds."
)
_vary = click.option(
    "--vary",
    metavar="seed|order,augment",
    default="",
    help="What replicates vary: seed trains a dense network for each, the others share RUN.",
)
_mask = click.option(
    "--mask", metavar="FILE.zarr[@LEVEL]|FILE.npy", help="Weights kept; all by default."
)


@click.command()
@click.argument("run")
@click.option("--rewind", metavar="STEP,...", help="Steps to rewind each level to.")
@click.option("--levels", type=click.IntRange(min=0), default=10, help="Number of prunings.")
@click.option("--fraction", type=float, default=0.2, help="Share of survivors pruned each time.")
@click.option("--scope", default="global", metavar="global|layer", help="Which weights compete.")
@click.option(
    "--pruning",
    default="imp",
    metavar="NAME,...",
    help=f"Criteria: {', '.join(PRUNING)}, or module:object.",
)
@click.option(
    "--keep", default="", metavar="TENSOR,...", help="Tensors never pruned; output: the last layer."
)
@click.option(
    "--structure",
    default="",
    metavar="filter",
    help="Remove whole output filters, not single weights.",
)
@click.option(
    "--retrain-dense",
    is_flag=True,
    help="Train level 0 from the rewind step, too, for its momentum.",
)
@click.option("--from", "origin", metavar="RUN@STEP", help="Pre-trained state to rewind to.")
@click.option(
    "--budget",
    default="full",
    metavar="full|remaining",
    help="With --from: the schedule begins at 0, or continues from STEP.",
)
@_replicates
@_vary
@set_option
@experiment_options
def imp(run: str, **given: Any) -> int:
    """Prune RUN iteratively by magnitude, rewinding the survivors.

    RUN is a complete dense run: its final weights give the first mask, and every level is trained
    from its snapshot at the rewind step. With --from, level 0 is trained from that state first.
    Replicates are independent from the seed on unless --vary says otherwise.
    """
    from ckptlab.experiments.plans.imp import Pruner

    plan, stored = _plan("imp", run, given)
    pruner = Pruner(
        levels=given["levels"],
        fraction=given["fraction"],
        scope=given["scope"],
        keep=tuple(_listed(given["keep"])),
        structure=given["structure"],
    )
    if given["replicates"] > 1 and not given["vary"]:
        given["vary"] = "seed"
    rewind = _listed(given["rewind"] or "")
    parents = _parents(plan, stored, given, rewind, default_threads=1)
    if given["origin"] is not None:
        _plan_from(plan, parents, pruner, given)
    else:
        from ckptlab.experiments.plans.imp import plan_imp

        if not rewind:
            raise ConfigError("--rewind STEP is needed: what each level is rewound to, such as 500")
        plan_imp(
            plan,
            parents,
            rewind=rewind,
            pruner=pruner,
            pruning=_user_names(_listed(given["pruning"])),
            vary=_listed(given["vary"]),
            retrain_dense=given["retrain_dense"],
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
    help="May be repeated: "
    + "; ".join(entry.form for entry in PERTURBATIONS.values())
    + "; module:object.",
)
@click.option("--keep-optimizer", is_flag=True, help="Continue with the momentum.")
@_mask
@_replicates
@_vary
@set_option
@experiment_options
def perturb(run: str, **given: Any) -> int:
    """Perturb the weights of RUN at a step, and train on.

    Only weights of convolutions and linear layers that the mask keeps are changed. Replicates vary
    the perturbation and share RUN; with --vary seed each has a dense network of its own.
    """
    from ckptlab.experiments.plans.perturb import plan_perturb

    plan, stored = _plan("perturb", run, given)
    keeps = bool(given["keep_optimizer"])
    rewind = _listed(given["rewind"])
    threads = _threads_of(stored) if keeps else 1
    plan_perturb(
        plan,
        _parents(plan, stored, given, rewind, default_threads=threads),
        rewind=rewind,
        perturbations=_user_names(dict.fromkeys(given["kinds"])),
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
@click.option(
    "--align",
    default="none",
    metavar="none|weights",
    help="Match the units of the two ends first, by their weights.",
)
@_mask
@_replicates
@set_option
@experiment_options
def connect(run: str, **given: Any) -> int:
    """Train two children from a step of RUN in other orders, and measure the line between them.

    Dense children continue with the momentum; those of a mask begin without it, as after rewinding.
    """
    from ckptlab.analyze.model.connectivity import ALIGNMENTS, STATISTICS
    from ckptlab.errors import unknown_name
    from ckptlab.experiments.plans.connect import plan_connect

    if given["statistics"] not in STATISTICS:
        raise unknown_name("value of statistics", given["statistics"], STATISTICS)
    if given["align"] not in ALIGNMENTS:
        raise unknown_name("value of align", given["align"], ALIGNMENTS)
    plan, stored = _plan("connect", run, given)
    mask = _given_mask(stored, given)
    rewind = _listed(given["rewind"])
    options = {key: given[key] for key in ("alphas", "statistics", "samples")}
    # Left out where it does nothing, so that measurements made before count.
    options |= {"align": given["align"]} if given["align"] != "none" else {}
    plan_connect(
        plan,
        _parents(plan, stored, given, rewind, default_threads=1),
        rewind=rewind,
        options=options,
        mask=mask,
        optimizer="stored" if mask is None else "fresh",
    )
    return finish(plan, run, given)


def _plan(kind: str, run: str, given: dict[str, Any]) -> tuple[ExperimentPlan, StoredRun]:
    from ckptlab.experiments.jobs.plan import ExperimentPlan
    from ckptlab.store.read.reader import open_store

    stored = open_store(run)
    asked = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in given.items()
        if key not in RUNNING and value not in (None, "", (), False)
    }
    attributes = {"run": run, "options": asked}
    return ExperimentPlan(title=f"{kind} of {run}", kind=kind, attributes=attributes), stored


RUNNING: tuple[str, ...] = (
    "output",
    "scheduler",
    "workers",
    "threads",
    "together",
    "retry_failed",
    "dry_run",
    "as_json",
)
"""Options that decide how jobs run, not what they compute."""


def _parents(
    plan: ExperimentPlan,
    stored: StoredRun,
    given: dict[str, Any],
    rewind: Sequence[str],
    *,
    default_threads: int,
) -> list[Parent]:
    """Return what each replicate branches from: RUN, or with vary=seed its network trained anew."""
    from ckptlab.experiments.plans.parent_run import recorded_parent, repeated_parent

    threads = given["threads"] or default_threads
    given["threads"] = threads
    parents = [recorded_parent(plan, stored, given["overrides"], threads=threads)]
    vary = _listed(given.get("vary", ""))
    for replicate in range(1, given["replicates"]):
        how: dict[str, Any] = {"threads": threads, "replicate": replicate}
        if "seed" in vary:
            parent = repeated_parent(plan, stored, given["overrides"], record=rewind, **how)
        else:
            parent = recorded_parent(plan, stored, given["overrides"], **how)
        parents.append(parent)
    if given["replicates"] > 1:
        plan.attributes["replicates"] = _told(plan.kind, vary, given.get("mask"))
    return parents


def _told(kind: str, vary: Sequence[str], mask: str | None) -> str:
    """Say what replicates share, since their spread leaves that out."""
    if "seed" in vary:
        return "independent, from train.seed on" + (", but for the given mask" if mask else "")
    if kind == "connect":
        vary = ["order and augmentation of the children"]
    shared = ["the dense run"]
    if mask:
        shared.append("the mask")
    elif kind == "imp":
        shared.append("the masks of level 1")
    return f"share {' and '.join(shared)}; they vary {', '.join(vary) or 'what is drawn'}"


def _plan_from(
    plan: ExperimentPlan, parents: Sequence[Parent], pruner: Any, given: dict[str, Any]
) -> None:
    from ckptlab.experiments.jobs.job import BranchPoint
    from ckptlab.experiments.plans.imp import plan_pretrained
    from ckptlab.experiments.plans.parent_run import require_usable
    from ckptlab.store.read.reader import open_store
    from ckptlab.train.branch import Point

    if len(parents) > 1:
        raise ConfigError("--from works with one replicate; drop --replicates")
    for name in ("rewind", "vary"):
        if given[name]:
            raise ConfigError(f"--from is the rewind point of all levels; drop --{name}")
    if _listed(given["pruning"]) != ["imp"]:
        raise ConfigError("--from works with imp alone; drop --pruning")
    if given["retrain_dense"]:
        raise ConfigError("--from trains level 0 from that state anyway; drop --retrain-dense")
    point = Point.parse(given["origin"])
    stored = open_store(point.path)
    require_usable(stored)
    source = BranchPoint(run=plan.add_recording(stored), step=point.resolve(stored))
    runs = plan_pretrained(plan, parents[0], source, pruner=pruner, budget=given["budget"])
    for level, run in enumerate(runs):
        plan.put(run, pruning="imp", rewind=source.step, level=level, replicate=0)


def _given_mask(stored: StoredRun, given: dict[str, Any]) -> GivenMask | None:
    """Read a mask from a file, of which the experiment keeps a copy."""
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


def _user_names(names: Iterable[str]) -> list[str]:
    """Allow the code that the user names as module:object."""
    listed = list(names)
    for name in listed:
        reference = reference_in(name)
        if reference is not None and reference.partition(":")[0] not in PERTURBATIONS:
            allow(reference)
    return listed


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
