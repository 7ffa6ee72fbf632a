"""``ckptlab import``: checkpoints, in a folder or on the Hub, to a run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ckptlab.cli.options import choice_of, choice_options, json_option, print_json

if TYPE_CHECKING:
    from ckptlab.record.convert.estimate_import import Estimate

SHOWN_NOTES = 20
"""Lines about what was chosen and left out that are printed."""


@click.command("import")
@click.argument("folder", metavar="FOLDER|hf://OWNER/NAME[@REVISION]")
@click.option("-o", "--output", help="The run to write.")
@choice_options
@click.option(
    "--revisions",
    metavar="GLOB",
    help="Branches and tags of a repository on the Hub, each one step: 'step*'.",
)
@click.option("--codec", default="dense", show_default=True, help="dense, fast, raw or yours.")
@click.option("--memory", default="1GiB", show_default=True, help="Upper bound for what is held.")
@click.option("--follow", is_flag=True, help="Add what is new to the run at OUTPUT.")
@click.option("--dry-run", is_flag=True, help="Tell what would be imported; write nothing.")
@click.option("--overwrite", is_flag=True, help="Replace an existing run.")
@json_option
def import_run(
    folder: str,
    output: str | None,
    revisions: str | None,
    codec: str,
    memory: str,
    follow: bool,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Turn the checkpoints in FOLDER into a run; each file, or folder, is one step.

    Steps come from what the checkpoints tell, or from their names. Code in the files is never run.
    The run is measured like any other, but has only what checkpoints hold: no losses or gradients.

    Of a repository on the Hub, revisions are downloaded and imported one after the other; run the
    command again to go on with a run that was stopped. HF_HOME says where downloads lie meanwhile.
    """
    from ckptlab.cli.progress import step_progress
    from ckptlab.errors import ConfigError
    from ckptlab.record.convert.estimate_import import estimate_import
    from ckptlab.record.convert.find_checkpoints import find_checkpoints
    from ckptlab.record.convert.import_checkpoints import import_checkpoints
    from ckptlab.record.memory import parse_memory

    choice = choice_of(chosen)
    on_hub = folder.startswith("hf://")
    if revisions is not None and not on_hub:
        raise ConfigError(
            f"--revisions is for repositories on the Hub, and {folder} is none; give "
            "hf://OWNER/NAME, or choose by --pattern"
        )
    if on_hub and choice.pattern is not None:
        raise ConfigError(
            "--pattern is for folders; leave it out, and choose revisions by --revisions"
        )
    if dry_run and on_hub:
        from ckptlab.record.hub.estimate_revisions import estimate_revisions

        earlier = None if overwrite else output
        _show_estimate(
            estimate_revisions(folder, earlier, revisions=revisions, choice=choice), as_json
        )
        return
    if dry_run:
        series = find_checkpoints(folder, choice)
        estimate = estimate_import(series, codec=codec, memory=parse_memory(memory))
        _show_estimate(estimate, as_json)
        return
    if output is None:
        raise ConfigError("--output is missing: give the run to write, or --dry-run")
    common: dict[str, Any] = {"choice": choice, "codec": codec, "memory": memory}
    with step_progress("import") as show:
        common |= {"overwrite": overwrite, "progress": show}
        if on_hub:
            from ckptlab.record.hub.import_revisions import import_revisions

            done = import_revisions(folder, output, revisions=revisions, **common)
        else:
            done = import_checkpoints(folder, output, follow=follow, **common)
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
    count = len(estimate.steps)
    if not count:
        click.echo("nothing to import")
        return
    told = f"{count:,} checkpoints, steps {estimate.steps[0]}..{estimate.steps[-1]}"
    if estimate.parameters is not None:
        told += f", {estimate.parameters:,} parameters"
    told += f": {human_bytes(estimate.bytes_read)} to read"
    if estimate.bytes_stored is not None:
        most = "about" if estimate.seconds is not None else "at most"
        told += f", {most} {human_bytes(estimate.bytes_stored)} stored"
    click.echo(told + (f", {estimate.seconds:,.0f} s" if estimate.seconds is not None else ""))


def _show_notes(notes: list[str]) -> None:
    for note in notes[:SHOWN_NOTES]:
        click.echo(note)
    if len(notes) > SHOWN_NOTES:
        click.echo(f"and {len(notes) - SHOWN_NOTES} more lines; --json has all")
