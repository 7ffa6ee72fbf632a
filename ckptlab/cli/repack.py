"""``ckptlab repack``: store a run with another codec."""

from __future__ import annotations

from dataclasses import asdict

import click

from ckptlab.cli.options import json_option, print_json


@click.command()
@click.argument("run")
@click.option(
    "--codec", default="dense", show_default=True, help="dense, fast, raw or a codec of yours."
)
@click.option("-o", "--output", help="Write a copy instead of replacing RUN.")
@click.option("--overwrite", is_flag=True, help="Replace an existing run at the output path.")
@json_option
@click.pass_context
def repack(
    ctx: click.Context, run: str, codec: str, output: str | None, overwrite: bool, as_json: bool
) -> None:
    """Store RUN with another codec, such as one recorded with a cheaper one; no value changes."""
    from ckptlab.cli.progress import step_progress
    from ckptlab.store.maintain.repack import repack as repack_run
    from ckptlab.store.read.info import human_bytes

    del ctx
    with step_progress("repack") as show:
        done = repack_run(run, output, codec=codec, overwrite=overwrite, progress=show)
    if as_json:
        print_json(asdict(done))
        return
    click.echo(
        f"{done.path}: {done.steps:,} steps, {human_bytes(done.before)} of weights became "
        f"{human_bytes(done.after)} ({done.codec})"
    )
