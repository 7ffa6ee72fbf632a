"""``ckptlab study FILE.toml``: a grid of experiments, from recording to results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptlab.cli.experiment_options import conducted, finish


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--scale", metavar="NAME", help="One of the file's scales [default: its first].")
@click.option(
    "-S",
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change a setting of the trainings, such as data.root=~/data; may be given often.",
)
@conducted
def study(file: Path, scale: str | None, overrides: tuple[str, ...], **given: Any) -> int:
    """Run the study in FILE: dense recordings, and all that branches from them.

    The same command again does what is left, and does again what failed with --retry-failed.
    """
    from ckptlab.experiments.jobs.plan import Plan
    from ckptlab.experiments.plans.study_file import load_study, planner

    found = load_study(file, scale, overrides)
    name = file.stem if scale is None else f"{file.stem}-{scale}"
    attributes = {"study": found.model_dump(mode="json"), "figure": found.figure}
    plan = Plan(title=found.summary or file.stem, kind=found.kind, attributes=attributes)
    given["threads"] = given["threads"] or 1
    planner(found)(plan, found, given["threads"])
    return finish(plan, name, given)
