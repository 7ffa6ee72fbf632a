"""``ckptlab record``: train a built-in network and record it.

Imports train when called; settings are checked before torch is imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptlab.cli.options import human_bytes, json_option, print_json
from ckptlab.errors import ConfigError, RunExistsError

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
@click.option("--resume", metavar="RUN.zarr", help="Take a run up again where it was committed.")
@click.option("--overwrite", is_flag=True, help="Replace the run at the output path.")
@click.option("--arrays", metavar="NAMES", help="weights (default) or weights,gradients.")
@click.option("--memory", metavar="SIZE", help="Memory of the recording buffers, such as 2GiB.")
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
    overwrite: bool,
    arrays: str | None,
    memory: str | None,
    no_fsync: bool,
    allow_inexact: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train a network and record its weights at every step.

    Settings come from the defaults (ResNet-20 on digits, 500 steps), then a preset, then CONFIG (a
    TOML file with the sections model, data, task, optim, train, record, eval), then -S. Prints the
    path of the run.
    """
    if preset == "list":
        _print_presets()
        return
    extra = [*overrides]
    extra += [f"record.arrays={arrays!r}"] if arrays else []
    extra += [f"record.memory={memory!r}"] if memory else []
    extra += ["record.fsync=false"] if no_fsync else []
    if resume is not None:
        given = {
            "a config file": config,
            "--preset": preset,
            "-o": output,
            "--overwrite": overwrite,
        }
        for name, value in given.items():
            if value:
                raise ConfigError(f"--resume takes its settings and path from the run; drop {name}")
        settings, path = _resumed(resume, extra, allow_inexact), resume
    else:
        settings, path = _fresh(config, extra, preset, output, overwrite, dry_run)
    if dry_run:
        _print_plan(settings, path, as_json)
        return
    _train(settings, path, resume=resume is not None, overwrite=overwrite, inexact=allow_inexact)
    if as_json:
        print_json({"path": path})
    else:
        click.echo(path)


def _fresh(
    file: Path | None,
    overrides: list[str],
    preset: str | None,
    output: str | None,
    overwrite: bool,
    dry_run: bool,
) -> tuple[Config, str]:
    from ckptlab.train.config import default_path, load_config

    settings = load_config(file, overrides, preset)
    path = output or default_path(settings, preset)
    if not overwrite and not dry_run:
        _require_free(path, settings)
    return settings, path


def _require_free(path: str, settings: Config) -> None:
    """Refuse a taken path before torch is imported and data are loaded."""
    from ckptlab.errors import StoreError
    from ckptlab.store.reader import read_root
    from ckptlab.store.storage import open_storage
    from ckptlab.store.vacancy import is_free, require_free

    storage = open_storage(path)
    if is_free(storage):
        return
    try:
        attributes, _ = read_root(storage)
    except StoreError:
        require_free(storage, overwrite=False)  # says what it is: no run, damaged, newer
        raise
    same = attributes.get("config") == settings.model_dump(mode="json")
    if attributes.get("state") != "complete" and same:
        raise RunExistsError(
            f"{path} holds this recording, unfinished; take it up with: ckptlab record "
            f"--resume {path} (or start again with --overwrite)"
        )
    raise RunExistsError(
        f"{path} exists and holds a run ({attributes.get('state')}); "
        "use another path with -o, or --overwrite"
    )


def _resumed(path: str, overrides: list[str], inexact: bool) -> Config:
    from ckptlab.train.resume import resume_config

    return resume_config(path, overrides, allow_inexact=inexact)


def _train(settings: Config, path: str, *, resume: bool, overwrite: bool, inexact: bool) -> None:
    from ckptlab.cli.progress import RecordProgress
    from ckptlab.train.trainer import train

    with RecordProgress(path) as progress:
        train(
            settings,
            path,
            resume=resume,
            overwrite=overwrite,
            allow_inexact=inexact,
            on_progress=progress,
        )


def _print_plan(settings: Config, path: str, as_json: bool) -> None:
    import shutil

    from ckptlab.train.plan import measure_step, plan

    sizes = plan(settings)
    seconds = measure_step(settings) * sizes.steps
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


def _print_presets() -> None:
    from ckptlab.train.presets import PRESETS

    for preset in PRESETS:
        click.echo(f"{preset.name:24}{preset.summary}")
