"""``ckptlab import`` and ``ckptlab export``: checkpoints to a run, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ckptlab.cli.options import json_option, print_json

if TYPE_CHECKING:
    from ckptlab.record.convert.estimate_import import Estimate

SHOWN_NOTES = 20
"""Lines about what was chosen and left out that are printed."""


@click.command("import")
@click.argument("folder")
@click.option("-o", "--output", help="The run to write.")
@click.option("--pattern", help="Which files or folders in FOLDER: 'stage1-*', '*.pt'.")
@click.option("--step-from", help="Regular expression whose group is the step: 'upd(\\d+)'.")
@click.option(
    "--steps-per-epoch", type=click.IntRange(1), help="Where names count epochs and steps in them."
)
@click.option("--key", help="The dict that holds the weights: state.model.")
@click.option("--weights", help="Which copy of the weights: model (default), ema, or a name.")
@click.option("--reader", help="Read all by this reader, or by module:function.")
@click.option("--codec", default="dense", show_default=True, help="Codec: dense, fast, raw.")
@click.option("--memory", default="1GiB", show_default=True, help="Upper bound for what is held.")
@click.option("--follow", is_flag=True, help="Add what is new to the run at OUTPUT.")
@click.option("--dry-run", is_flag=True, help="Tell what would be imported; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an existing run.")
@json_option
def import_run(
    folder: str,
    output: str | None,
    pattern: str | None,
    step_from: str | None,
    steps_per_epoch: int | None,
    key: str | None,
    weights: str | None,
    reader: str | None,
    codec: str,
    memory: str,
    follow: bool,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn the checkpoints in FOLDER into a run; each file, or folder, is one step.

    Steps come from what the checkpoints tell, or from their names. Code in the files is never run.
    The run is measured like any other, but has only what checkpoints hold: no losses or gradients.
    """
    from ckptlab.cli.progress import step_progress
    from ckptlab.errors import ConfigError
    from ckptlab.record.convert.estimate_import import estimate_import
    from ckptlab.record.convert.find_checkpoints import Choice, find_checkpoints
    from ckptlab.record.convert.import_checkpoints import import_checkpoints
    from ckptlab.record.memory import parse_memory
    from ckptlab.registry import allow, is_reference

    if reader and is_reference(reader):
        allow(reader)
    choice = Choice(
        pattern=pattern,
        step_from=step_from,
        steps_per_epoch=steps_per_epoch,
        key=key,
        weights=weights,
        reader=reader,
    )
    if dry_run:
        series = find_checkpoints(folder, choice)
        estimate = estimate_import(series, codec=codec, memory=parse_memory(memory))
        _show_estimate(estimate, as_json)
        return
    if output is None:
        raise ConfigError("--output is missing: give the run to write, or --dry-run")
    with step_progress("import") as show:
        done = import_checkpoints(
            folder,
            output,
            choice=choice,
            follow=follow,
            codec=codec,
            memory=memory,
            overwrite=overwrite,
            progress=show,
        )
    if as_json:
        print_json(asdict(done))
        return
    _show_notes(done.notes)
    click.echo(
        f"{done.path}: {done.steps:,} checkpoints, {done.new:,} new, steps "
        f"{done.first}..{done.last}, {done.parameters:,} parameters"
    )


def _show_estimate(estimate: Estimate, as_json: bool) -> None:
    from ckptlab.store.read.info import human_bytes

    if as_json:
        print_json(asdict(estimate))
        return
    for name, form in estimate.tensors.items():
        click.echo(f"  {name}  {form}")
    _show_notes(estimate.notes)
    click.echo(
        f"{len(estimate.steps):,} checkpoints, steps {estimate.steps[0]}..{estimate.steps[-1]}, "
        f"{estimate.parameters:,} parameters: {human_bytes(estimate.bytes_read)} to read, about "
        f"{human_bytes(estimate.bytes_stored)} stored, {estimate.seconds:,.0f} s"
    )


def _show_notes(notes: list[str]) -> None:
    for note in notes[:SHOWN_NOTES]:
        click.echo(note)
    if len(notes) > SHOWN_NOTES:
        click.echo(f"and {len(notes) - SHOWN_NOTES} more lines; --json has all")


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
