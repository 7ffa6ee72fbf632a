"""``ckptlab import`` and ``ckptlab export``: checkpoints to a run, and back."""

from __future__ import annotations

from dataclasses import asdict

import click

from ckptlab.cli.options import json_option, print_json


@click.command("import")
@click.argument("folder")
@click.option("-o", "--output", required=True, help="The run to write.")
@click.option("--codec", default="dense", show_default=True, help="Codec: dense, fast, raw.")
@click.option("--overwrite", is_flag=True, help="Replace an existing run.")
@json_option
def import_run(folder: str, output: str, codec: str, overwrite: bool, as_json: bool) -> None:
    """Turn the .pt, .pth and .safetensors files in FOLDER into a run; steps come from their names.

    Code in the files is never run (torch.load with weights_only=True). The run is measured like any
    other, but has only what checkpoints hold: no losses, gradients or optimizer state.
    """
    from ckptlab.cli.progress import step_progress
    from ckptlab.record.convert.import_checkpoints import import_checkpoints

    with step_progress("import") as show:
        done = import_checkpoints(folder, output, codec=codec, overwrite=overwrite, progress=show)
    if as_json:
        print_json(asdict(done))
        return
    click.echo(
        f"{done.path}: {done.steps:,} checkpoints, steps {done.first}..{done.last}, "
        f"{done.parameters:,} parameters"
    )


@click.command()
@click.argument("run")
@click.option("--step", type=click.IntRange(0, 2**63 - 1), help="Recorded step; default: the last.")
@click.option("-o", "--output", required=True, help="File: .safetensors, .pt or .pth.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def export(run: str, step: int | None, output: str, overwrite: bool) -> None:
    """Write one step of RUN as a state dict for model.load_state_dict."""
    from ckptlab.errors import MissingStepError, StepError
    from ckptlab.record.convert.checkpoint_files import write_checkpoint
    from ckptlab.run import open_run

    opened = open_run(run)
    if not len(opened.steps):
        raise StepError(f"{run} holds no steps yet")
    chosen = int(opened.steps[-1]) if step is None else step
    try:
        state = opened.state_dict(chosen)
    except MissingStepError as error:
        raise MissingStepError(f"--step {chosen}: {error}".replace("step=", "--step ")) from error
    write_checkpoint(state, output, overwrite=overwrite)
    click.echo(output)
