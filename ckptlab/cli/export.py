"""``ckptlab export``: steps of a run as checkpoints that others load."""

from __future__ import annotations

import click


@click.command()
@click.argument("run")
@click.option("--step", type=click.IntRange(0, 2**63 - 1), help="Recorded step; default: the last.")
@click.option("--steps", metavar="A:B[:STRIDE]", help="Recorded steps; half-open.")
@click.option(
    "-o",
    "--output",
    required=True,
    help="File: .safetensors, .pt or .pth; or a folder. {step} in it is the step.",
)
@click.option(
    "--like", metavar="DIR", help="Copy config and tokenizer of this model into the folder."
)
@click.option(
    "--shard-size", default="5GiB", show_default=True, help="Above it, safetensors are in shards."
)
@click.option("--overwrite", is_flag=True, help="Replace what was exported there before.")
def export(
    run: str,
    step: int | None,
    steps: str | None,
    output: str,
    like: str | None,
    shard_size: str,
    overwrite: bool,
) -> None:
    """Write steps of RUN: state dicts for model.load_state_dict, or folders for from_pretrained.

    With --steps, a folder gets a checkpoint-STEP folder for each step, as the Trainer of
    transformers writes them.
    """
    from ckptlab.cli.progress import step_progress
    from ckptlab.errors import ConfigError, MissingStepError
    from ckptlab.shortcuts import export_checkpoints

    if step is not None and steps is not None:
        raise ConfigError("give --step or --steps, not both; --steps 0: is every recorded step")
    try:
        with step_progress("export") as show:
            written = export_checkpoints(
                run,
                output,
                step=step,
                steps=steps,
                like=like,
                shard_size=shard_size,
                overwrite=overwrite,
                progress=show,
            )
    except MissingStepError as error:
        raise MissingStepError(f"--step {step}: {error}".replace("step=", "--step ")) from error
    click.echo("\n".join(written))
