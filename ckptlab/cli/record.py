"""``ckptlab record``: train a built-in network and record it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptlab.cli.options import json_option, print_json
from ckptlab.cli.record_from import Branch, parse_branch, require_branch
from ckptlab.errors import ConfigError, RunExistsError, StoppedError
from ckptlab.store.read.info import human_bytes

if TYPE_CHECKING:
    from ckptlab.train.config import Config


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "-S",
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change a setting, such as train.steps=300; may be given often.",
)
@click.option(
    "--preset", metavar="NAME", help="Start from a network of the paper; `list` shows all."
)
@click.option("-o", "--output", metavar="RUN.zarr", help="Where the run goes: a path or a URL.")
@click.option("--resume", metavar="RUN.zarr", help="Go on with a run from its last commit.")
@click.option("--from", "origin", metavar="RUN@STEP", help="Begin from any step of another run.")
@click.option(
    "--at", metavar="STEP", help="With --from: number the step has in the new run [default: STEP]."
)
@click.option("--fresh-optimizer", is_flag=True, help="With --from: begin without momentum.")
@click.option(
    "--mask",
    metavar="FILE.zarr[@LEVEL]|FILE.npy",
    help="With --from: weights kept; the others are zero throughout.",
)
@click.option("--overwrite", is_flag=True, help="Replace the run at the output path.")
@click.option("--arrays", metavar="NAMES", help="weights (default) or weights,gradients.")
@click.option("--memory", metavar="SIZE", help="Memory of the recording buffers, such as 2GiB.")
@click.option(
    "--data-root", metavar="DIR", help="Folder of the images, in place of the one a run names."
)
@click.option("--no-fsync", is_flag=True, help="Do not wait for the disk: faster, not power-safe.")
@click.option("--allow-inexact", is_flag=True, help="Resume on another machine or thread count.")
@click.option("--dry-run", is_flag=True, help="Print sizes and time, and train nothing.")
@json_option
def record(
    config: Path | None,
    overrides: tuple[str, ...],
    preset: str | None,
    output: str | None,
    resume: str | None,
    origin: str | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a network and record its weights at every step.

    Settings come from the defaults (ResNet-20 on digits, 500 steps), then a preset, then CONFIG (a
    TOML file with the sections model, data, task, optim, train, record, eval), then -S. Prints the
    path of the run.

    With --from, settings are those of the run that is left, then CONFIG, then -S; learning rate and
    order of the images go on from that step. At the end of a block the optimizer goes on exactly,
    elsewhere the training is repeated from the nearest one before.
    """
    if preset == "list":
        _print_presets()
        return
    inexact = bool(options["allow_inexact"])
    extra = [*overrides, *_shorthands(options)]
    branch = None
    if resume is not None:
        given = {
            "a config file": config,
            "--preset": preset,
            "-o": output,
            "--from": origin,
            "--mask": options["mask"],
            "--overwrite": overwrite,
        }
        _require_none(given, "--resume takes its settings and path from the run")
        settings, path = _resumed(resume, extra, inexact), resume
    else:
        if origin is not None:
            _require_none({"--preset": preset}, "--from takes its settings from the run")
            branch = parse_branch(origin, config, extra, options)
            settings, path = branch.config, output or branch.default_path()
        else:
            require_branch(options)
            settings, path = _fresh(config, extra, preset, output)
        if not overwrite and not dry_run:
            _require_free(path, settings)
    if dry_run:
        _print_plan(settings, path, as_json)
        return
    _train(settings, path, branch, resume=resume is not None, overwrite=overwrite, inexact=inexact)
    if as_json:
        print_json({"path": path})
    else:
        click.echo(path)


def _shorthands(options: Mapping[str, Any]) -> list[str]:
    """Write the options that stand for a setting as settings."""
    arrays, memory = options["arrays"], options["memory"]
    found = [f"record.arrays={arrays!r}"] if arrays else []
    found += [f"record.memory={memory!r}"] if memory else []
    found += [f"data.root={options['data_root']!r}"] if options["data_root"] else []
    return found + (["record.fsync=false"] if options["no_fsync"] else [])


def _require_none(given: Mapping[str, object], reason: str) -> None:
    for name, value in given.items():
        if value:
            raise ConfigError(f"{reason}; drop {name}")


def _fresh(
    file: Path | None, overrides: list[str], preset: str | None, output: str | None
) -> tuple[Config, str]:
    from ckptlab.train.config import default_path, load_config

    settings = load_config(file, overrides, preset)
    return settings, output or default_path(settings, preset)


def _require_free(path: str, settings: Config) -> None:
    """Refuse a taken path before torch is imported and data are loaded."""
    from ckptlab.errors import StoreError
    from ckptlab.store.backends.open import open_storage
    from ckptlab.store.read.reader import read_root
    from ckptlab.store.write.target import is_free, require_free

    storage = open_storage(path)
    if is_free(storage):
        return
    try:
        attributes, _ = read_root(storage)
    except StoreError:
        require_free(storage, overwrite=False)  # says what it is: no run, damaged, newer
        raise
    if attributes.get("state") != "complete" and _is_same(attributes.get("config"), settings):
        raise RunExistsError(
            f"{path} holds this recording, unfinished; go on with: ckptlab record "
            f"--resume {path} (or start again with --overwrite)"
        )
    raise RunExistsError(
        f"{path} exists and holds a run ({attributes.get('state')}); "
        "use another path with -o, or --overwrite"
    )


def _is_same(recorded: Any, settings: Config) -> bool:
    """Compare settings; one that a run is too old to name had its default."""
    from ckptlab.train.config import as_written, parse_config

    try:
        return parse_config(as_written(recorded or {})) == settings
    except ConfigError:
        return False


def _resumed(path: str, overrides: list[str], inexact: bool) -> Config:
    from ckptlab.train.resume import resume_config

    return resume_config(path, overrides, allow_inexact=inexact)


def _train(
    settings: Config,
    path: str,
    branch: Branch | None,
    *,
    resume: bool,
    overwrite: bool,
    inexact: bool,
) -> None:
    from ckptlab.cli.progress import RecordProgress
    from ckptlab.train.trainer import train

    start = None if branch is None else branch.start()
    try:
        with RecordProgress() as progress:
            train(
                settings,
                path,
                start=start,
                mask=None if branch is None else branch.mask,
                resume=resume,
                overwrite=overwrite,
                allow_inexact=inexact,
                on_progress=progress,
            )
    except KeyboardInterrupt:
        raise StoppedError(f"interrupted{_how_to_go_on(path)}") from None
    except SystemExit:
        # SIGTERM: the recorder has committed what there was, and the exit code stays 143.
        click.echo(f"Stopped{_how_to_go_on(path)}", err=True)
        raise


def _how_to_go_on(path: str) -> str:
    """Return the command that resumes a run, where one was begun."""
    from ckptlab.errors import StoreError
    from ckptlab.store.read.reader import open_store

    try:
        open_store(path)
    except StoreError:
        return ""
    return f"; go on with: ckptlab record --resume {path}"


def _print_plan(settings: Config, path: str, as_json: bool) -> None:
    import shutil

    from ckptlab.train.choices import choices
    from ckptlab.train.estimate import measure_step, training_size

    sizes = training_size(settings)
    step = measure_step(settings)
    seconds, chosen = step * sizes.steps, choices(settings, step)
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = None if "://" in path else shutil.disk_usage(folder).free
    facts: dict[str, Any] = {
        "path": path,
        "parameters": sizes.parameters,
        "buffers": sizes.buffers,
        "steps": sizes.steps,
        "steps_per_epoch": sizes.steps_per_epoch,
        "recorded_steps": sizes.recorded_steps,
        "bytes_per_step": sizes.bytes_per_step,
        "raw_bytes": sizes.raw_bytes,
        "estimated_seconds": seconds,
        "free_bytes": free,
        "choices": {c.what: {"value": c.value, "why": c.why} for c in chosen},
        "config": settings.model_dump(mode="json"),
    }
    if as_json:
        print_json(facts)
        return
    click.echo(f"path            {path}")
    click.echo(f"parameters      {sizes.parameters:,}")
    click.echo(f"steps           {sizes.steps:,} ({sizes.steps_per_epoch:,} an epoch)")
    click.echo(f"recorded steps  {sizes.recorded_steps:,}")
    step_bytes = human_bytes(sizes.bytes_per_step)
    click.echo(f"raw size        {human_bytes(sizes.raw_bytes)} ({step_bytes} a step)")
    click.echo(f"training time   about {seconds:,.0f} s on this machine")
    if free is not None:
        click.echo(f"free space      {human_bytes(free)}")
    for choice in chosen:
        click.echo(f"{choice.what:15} {choice.value} ({choice.why})")


def _print_presets() -> None:
    from ckptlab.train.presets import PRESETS

    for preset in PRESETS.values():
        click.echo(f"{preset.name:24}{preset.summary}")
