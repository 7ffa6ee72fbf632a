"""What the commands of experiments share: where jobs run, progress, and how results are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from ckptlab.cli.options import data_root_option, json_option, print_json

if TYPE_CHECKING:
    import xarray as xr

    from ckptlab.experiments.jobs.folder import Folder
    from ckptlab.experiments.jobs.plan import Plan
    from ckptlab.experiments.jobs.scheduler import Outcome

Command = TypeVar("Command", bound=Callable[..., Any])

ROWS = 60
"""Rows of a printed table."""

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("-o", "output", metavar="DIR", help="Folder of jobs and results."),
    click.option(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="Cluster of dask.distributed; workers of this machine by default.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Processes on this machine [default: one for each GPU, or for the cores].",
    ),
    click.option("--threads", type=click.IntRange(min=1), help="Threads of each job [default: 1]."),
    click.option(
        "--together",
        type=click.IntRange(min=1),
        help="Trainings that each worker does at once [default: 8 on a GPU, else 1].",
    ),
    click.option("--retry-failed", is_flag=True, help="Do jobs again that failed the last time."),
    click.option("--dry-run", is_flag=True, help="Print jobs, steps and time, and do nothing."),
    data_root_option,
    json_option,
)


def conducted(command: Command) -> Command:
    """Add the options of every experiment to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def default_folder(plan: Plan, run: str) -> str:
    """Return where an experiment goes unless told otherwise."""
    import xxhash

    digest = xxhash.xxh3_64_hexdigest(repr([sorted(plan.jobs), plan.dims]).encode())
    return f"runs/{PurePath(run.rstrip('/')).stem}-{plan.kind}-{digest[:8]}"


def finish(plan: Plan, run: str, given: dict[str, Any]) -> int:
    """Conduct an experiment that is planned, and print its results.

    Parameters
    ----------
    plan : Plan
        The experiment.
    run : str
        What the default folder is named after.
    given : dict
        Options of the command.

    Returns
    -------
    int
        Exit code: 1 if a job failed.
    """
    from ckptlab.experiments.jobs.folder import Folder
    from ckptlab.experiments.run_experiment import Workforce, conduct

    folder = Folder(given["output"] or default_folder(plan, run))
    if given["dry_run"]:
        _print_estimate(plan, folder, given)
        return 0
    if given.get("mask_values") is not None:
        folder.make()
        folder.keep_mask(given["mask_values"])
    workforce = Workforce(
        **{name: given[name] for name in ("scheduler", "workers", "threads", "together")}
    )
    with JobProgress(plan) as progress:
        outcome, results = conduct(
            plan, folder, workforce, retry_failed=given["retry_failed"], on_change=progress
        )
    for warning in dict.fromkeys(outcome.warnings):
        click.echo(f"Warning: {warning}", err=True)
    if given["as_json"]:
        print_json({"path": str(folder.results), **_counts(plan, outcome), **results.to_dict()})
    else:
        print_results(results)
        click.echo(str(folder.results))
    return _report_failures(outcome, folder)


class JobProgress:
    """Shows how many jobs are done, on a terminal only.

    Parameters
    ----------
    plan : Plan
        The experiment.
    """

    def __init__(self, plan: Plan) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        console = Console(stderr=True)
        self._plan = plan
        self._progress = Progress(
            TextColumn("jobs"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: Any = None

    def __enter__(self) -> Self:
        self._progress.start()
        self._task = self._progress.add_task("jobs", total=len(self._plan.jobs), facts="")
        return self

    def __call__(self, outcome: Outcome) -> None:
        """Take how the jobs stand."""
        failed, blocked = len(outcome.failed), len(outcome.blocked)
        facts = f"{failed} failed, {blocked} blocked" if failed or blocked else ""
        self._progress.update(self._task, completed=len(outcome.done), facts=facts)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def print_results(results: xr.Dataset) -> None:
    """Print gathered results: mean and standard deviation over replicates."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from ckptlab.cli.results import stdout_console
    from ckptlab.experiments.results.summary import summarise

    summary = summarise(results)
    table = Table(*summary.columns, box=box.SIMPLE_HEAD)
    for row in summary.rows[:ROWS]:
        table.add_row(*(Text(cell) for cell in row))
    console = stdout_console()
    console.print(Text(str(results.attrs["title"])))
    console.print(table)
    if len(summary.rows) > ROWS:
        console.print(Text(f"shown: {ROWS} of {len(summary.rows)} rows; all of it in the results"))


def _print_estimate(plan: Plan, folder: Folder, given: dict[str, Any]) -> None:
    from ckptlab.cores import count_cores
    from ckptlab.experiments.jobs.cluster import count_gpus
    from ckptlab.experiments.jobs.estimate import estimate
    from ckptlab.experiments.jobs.scheduler import survey

    workers = given["workers"] or count_gpus() or max(count_cores() // given["threads"], 1)
    outcome = survey(plan, folder, retry_failed=given["retry_failed"])
    found = estimate(plan, outcome, workers)
    facts = {
        "path": str(folder.path),
        "jobs": found.jobs,
        "trainings": found.trainings,
        "done": found.done,
        "failed": found.failed,
        "steps": found.steps,
        "workers": workers,
        "estimated_seconds": found.seconds,
        "dims": plan.dims,
    }
    if given["as_json"]:
        print_json(facts)
        return
    click.echo(f"folder     {folder.path}")
    click.echo(f"jobs       {found.jobs:,} ({found.trainings:,} trainings), {found.done:,} done")
    click.echo(f"steps      {found.steps:,} left")
    click.echo(f"time       about {found.seconds:,.0f} s with {workers} workers of this machine")
    sizes = " x ".join(f"{len(values)} {dim}" for dim, values in plan.dims.items())
    click.echo(f"results    {sizes}")


def _counts(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    return {
        "jobs": len(plan.jobs),
        "done": len(outcome.done),
        "failed": outcome.failed,
        "blocked": sorted(outcome.blocked),
    }


def _report_failures(outcome: Outcome, folder: Folder) -> int:
    for key, reason in outcome.failed.items():
        text = " ".join(reason.split())
        click.echo(f"Error: job {key.removeprefix('job:')} failed: {text}", err=True)
    if outcome.failed:
        blocked = f"; {len(outcome.blocked)} more need them" if outcome.blocked else ""
        click.echo(
            f"{len(outcome.failed)} jobs failed{blocked}; once it is mended, the same command "
            f"with --retry-failed does them again in {Path(folder.path)}",
            err=True,
        )
    return 1 if outcome.failed else 0
