"""``ckptlab study FILE.toml``: run a grid of experiments, from recordings to results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptlab.cli.experiment_options import experiment_options, finish, set_option


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--scale", metavar="NAME", help="One of the file's scales [default: its first].")
@set_option
@experiment_options
def study(file: Path, scale: str | None, overrides: tuple[str, ...], **given: Any) -> int:
    """Run the study in FILE: dense recordings, and all that branches from them.

    The same command again does what is left, and with --retry-failed what failed.
    """
    from ckptlab.experiments.jobs.plan import ExperimentPlan
    from ckptlab.experiments.plans.study_file import load_study, planner

    found = load_study(file, scale, overrides)
    name = file.stem if scale is None else f"{file.stem}-{scale}"
    attributes: dict[str, Any] = {"study": found.model_dump(mode="json"), "figure": found.figure}
    if found.replicates > 1:
        attributes["replicates"] = "independent, from train.seed on"
    plan = ExperimentPlan(title=found.summary or file.stem, kind=found.kind, attributes=attributes)
    given["threads"] = given["threads"] or 1
    planner(found)(plan, found, given["threads"])
    return finish(plan, name, given)
