"""``ckptlab verify``: check a run for damage, and repair it."""

from __future__ import annotations

import click

from ckptlab.cli.options import json_option, print_json


@click.command()
@click.argument("run")
@click.option("--deep", is_flag=True, help="Decode every snapshot and compare its digest.")
@click.option(
    "--repair", is_flag=True, help="Drop a broken tail block, after saving its files aside."
)
@click.option(
    "--memory",
    default="2GiB",
    show_default=True,
    help="Memory the check may take, whatever the number of parameters.",
)
@json_option
@click.pass_context
def verify(
    ctx: click.Context, run: str, deep: bool, repair: bool, memory: str, as_json: bool
) -> int:
    """Check RUN: structure, commit markers, checksums. Exits 1 if something is wrong."""
    from ckptlab.record.memory import parse_memory
    from ckptlab.store.maintain.repair import repair as repair_run
    from ckptlab.store.maintain.verify import verify as verify_run

    del ctx
    allowed = parse_memory(memory)
    outcome = repair_run(run, deep=deep, memory=allowed) if repair else None
    report = verify_run(run, deep=deep, memory=allowed)
    if as_json:
        print_json({**report.to_dict(), "repair": outcome.to_dict() if outcome else None})
    else:
        if outcome:
            click.echo(str(outcome))
        click.echo(str(report))
    return 0 if report.ok else 1
