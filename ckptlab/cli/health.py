"""``ckptlab health``: find what is wrong with a series of snapshots."""

from __future__ import annotations

from typing import Any

import click

from ckptlab.cli.options import choice_of, choice_options, json_option, print_json


@click.command()
@click.argument("series", metavar="RUN|DIR")
@click.option("--strict", is_flag=True, help="Exit 1 if something is found.")
@click.option(
    "--memory", default="1GiB", show_default=True, help="What the look may hold at a time."
)
@choice_options
@json_option
def health(series: str, strict: bool, memory: str, as_json: bool, **chosen: Any) -> int:
    """Look for damage in a run, or in a folder of checkpoints, whatever they were written by.

    Found are: snapshots and tensors with the same values at different steps; snapshots away from
    their neighbours, or nearer to a far step; jumps; a first or last step of another training;
    tensors that never move; NaN; rows of zeros; types that change. Each comes with its evidence.
    """
    from ckptlab.analyze.health.check import check_health
    from ckptlab.cli.progress import step_progress

    choice = choice_of(chosen) if any(chosen.values()) else None
    with step_progress("health") as show:
        found = check_health(series, choice=choice, memory=memory, progress=show)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo(str(found))
    return 1 if strict and not found.ok else 0
