"""Share options, progress and output between the commands of experiments."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from ckptlab.cli.options import data_root_option, json_option, print_json
from ckptlab.cli.progress import ProgressDisplay, human_seconds, step_progress

if TYPE_CHECKING:
    import xarray as xr

    from ckptlab.experiments.jobs.folder import Folder
    from ckptlab.experiments.jobs.plan import ExperimentPlan
    from ckptlab.experiments.jobs.scheduler import Outcome

Command = TypeVar("Command", bound=Callable[..., Any])

ROWS = 60
"""Most rows of a printed table."""

TICK_SECONDS = 5.0
"""Progress is shown at least this often."""

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("-o", "output", metavar="DIR", help="Folder of jobs and results."),
    click.option(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="Cluster of dask.distributed [default: workers on this machine].",
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
        help="Trainings that each worker runs at once [default: 8 on a GPU, else 1].",
    ),
    click.option("--retry-failed", is_flag=True, help="Run jobs again that failed the last time."),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Print jobs, steps and an estimate of the time; run nothing.",
    ),
    data_root_option,
    json_option,
)


set_option = click.option(
    "-S",
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change a setting of the trainings, such as train.steps=300; may be repeated.",
)


def experiment_options(command: Command) -> Command:
    """Add the options of every experiment to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def default_folder(plan: ExperimentPlan, run: str) -> str:
    """Return the default folder of an experiment."""
    import xxhash

    digest = xxhash.xxh3_64_hexdigest(repr([sorted(plan.jobs), plan.dims]).encode())
    return f"runs/{PurePath(run.rstrip('/')).stem}-{plan.kind}-{digest[:8]}"


def finish(plan: ExperimentPlan, run: str, given: dict[str, Any]) -> int:
    """Run a planned experiment and print its results; return 1 if a job failed.

    `run` names the default folder, `given` are the options of the command.
    """
    from ckptlab.experiments.jobs.folder import Folder
    from ckptlab.experiments.run_experiment import Workforce, run_experiment

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
        outcome, results = run_experiment(
            plan, folder, workforce, retry_failed=given["retry_failed"], on_change=progress
        )
    _print_warnings(outcome)
    if given["as_json"]:
        print_json({"path": str(folder.results), **_counts(plan, outcome), **results.to_dict()})
    else:
        print_results(results)
        click.echo(str(folder.results))
    return _report_failures(outcome, folder)


class JobProgress(ProgressDisplay):
    """Shows how many jobs are done, also while none ends."""

    def __init__(self, plan: ExperimentPlan) -> None:
        super().__init__("jobs")
        self._total = len(plan.jobs)
        self._last: tuple[int, str] = (0, "")
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Self:
        super().__enter__()
        self._ticker.start()
        return self

    def __call__(self, outcome: Outcome) -> None:
        """Show an outcome."""
        failed, blocked = len(outcome.failed), len(outcome.blocked)
        facts = f"{failed} failed, {blocked} blocked" if failed or blocked else ""
        self._last = (len(outcome.done), facts)
        self.show(self._last[0], self._total, facts)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._ticker.join()
        super().__exit__(kind, error, traceback)

    def _tick(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            done, facts = self._last
            self.show(done, self._total, facts)


def print_results(results: xr.Dataset) -> None:
    """Print gathered results, reduced over replicates."""
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
    if results.sizes.get("replicate", 1) > 1:
        told = results.attrs.get("replicates", "")
        line = f"replicates: {told}; " if told else ""
        line += "± is the standard deviation of the sample (n - 1), with n in brackets"
        if any("−" in column for column in summary.columns):
            line += (
                "\ndifferences: paired t over the seeds that both have, unless Welch's is named; "
            )
            line += "intervals of 95 %"
        console.print(Text(line))
    if len(summary.rows) > ROWS:
        console.print(Text(f"shown: {ROWS} of {len(summary.rows)} rows; the results hold all"))


def _print_estimate(plan: ExperimentPlan, folder: Folder, given: dict[str, Any]) -> None:
    from ckptlab.experiments.jobs.estimate import estimate

    with step_progress("measuring") as show:
        found = estimate(
            plan,
            folder,
            workers=given["workers"],
            threads=given["threads"],
            retry_failed=given["retry_failed"],
            on_measured=show,
        )
    if given["as_json"]:
        facts = {key: getattr(found, key) for key in ("jobs", "trainings", "done", "failed")}
        facts |= {"steps": found.steps, "workers": found.workers, "dims": plan.dims}
        print_json({"path": str(folder.path), "estimated_seconds": found.seconds, **facts})
        return
    click.echo(f"folder     {folder.path}")
    click.echo(f"jobs       {found.jobs:,} ({found.trainings:,} trainings), {found.done:,} done")
    click.echo(f"steps      {found.steps:,} left")
    time = human_seconds(found.seconds)
    click.echo(f"time       about {time} with {found.workers} workers of this machine")
    sizes = " x ".join(f"{len(values)} {dim}" for dim, values in plan.dims.items())
    click.echo(f"results    {sizes}")


def _print_warnings(outcome: Outcome) -> None:
    jobs = Counter(text for texts in outcome.warnings.values() for text in texts)
    for text, count in jobs.items():
        times = f" ({count} jobs)" if count > 1 else ""
        click.echo(f"Warning: {text}{times}", err=True)
    if outcome.warnings:
        click.echo(f"{len(outcome.warnings)} jobs have warnings; results hold them", err=True)


def _counts(plan: ExperimentPlan, outcome: Outcome) -> dict[str, Any]:
    return {
        "jobs": len(plan.jobs),
        "done": len(outcome.done),
        "failed": outcome.failed,
        "blocked": sorted(outcome.blocked),
        "warnings": {key: list(texts) for key, texts in outcome.warnings.items()},
    }


def _report_failures(outcome: Outcome, folder: Folder) -> int:
    for key, reason in outcome.failed.items():
        text = " ".join(reason.split())
        click.echo(f"Error: job {key.removeprefix('job:')} failed: {text}", err=True)
    if outcome.failed:
        blocked = f"; {len(outcome.blocked)} more need them" if outcome.blocked else ""
        click.echo(
            f"{len(outcome.failed)} jobs failed{blocked}; once the cause is fixed, the same "
            f"command with --retry-failed runs them again in {Path(folder.path)}",
            err=True,
        )
    return 1 if outcome.failed else 0
