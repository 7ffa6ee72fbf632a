"""``ckptlab report RUN...|RESULTS``: write a page about runs, or about the results of a study."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import click

from ckptlab.cli.options import data_root_option
from ckptlab.errors import ConfigError, RunExistsError

if TYPE_CHECKING:
    from ckptlab.report.html.outline import Page


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...|RESULTS")
@click.option("-o", "output", metavar="FILE.html", help="Where [default: <run>-report.html].")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@click.option("--steps", metavar="A:B[:STRIDE]", help="Recorded steps to show; half-open.")
@click.option(
    "--kinds",
    metavar="KIND[,KIND...]|all",
    help="Kinds of tensors: conv, linear, norm, bias, embedding, other, or all; or parts of the "
    "network: attention, mlp, head. [default: conv,linear]",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Also measure and draw this metric; repeatable. `ckptlab analyze list` names them.",
)
@click.option(
    "--results",
    multiple=True,
    metavar="FILE.nc|FILE.zarr",
    help="Also draw this result of `ckptlab analyze METRIC RUN -o FILE`; repeatable.",
)
@click.option(
    "--curvature",
    is_flag=True,
    help="Also measure the Hessian spectrum and the Fisher trace; slow on a CPU.",
)
@data_root_option
@click.option(
    "--memory",
    metavar="SIZE",
    help="What measuring a run may take; it is cut into tasks that fit. [default: 2GiB]",
)
@click.option(
    "--scheduler",
    metavar="threads|processes|tcp://HOST:PORT",
    help="Where dask runs the tasks. [default: threads]",
)
def report(
    runs: tuple[str, ...],
    *,
    output: str | None,
    overwrite: bool,
    metrics: tuple[str, ...],
    results: tuple[str, ...],
    curvature: bool,
    **options: Any,
) -> None:
    """Draw RUN, or several of them side by side, on one page that needs no network.

    From 9 runs on, the page shows the mean and the spread over runs. A run that was interrupted or
    is still being recorded is shown as far as it is committed. Patterns such as 'runs/seed*.zarr'
    are expanded. The results of a study or another experiment (results.zarr, or its folder) make
    a page of their own, complete or not.
    """
    from ckptlab.experiments.results.open import find_results
    from ckptlab.runs import find_runs, run_names

    if any(find_results(path) for path in runs):
        _require_alone(
            runs, {"metric": metrics, "results": results, "curvature": curvature, **options}
        )
        _report_study(runs[0], output, overwrite)
        return
    paths = find_runs(runs)
    names = run_names(paths)
    target = output or (
        f"{PurePath(names[0]).name}-report.html" if len(names) == 1 else "report.html"
    )
    _require_writable(target, overwrite)

    from ckptlab.cli.progress import metric_progress
    from ckptlab.report.runs.measure import measure_run, read_results
    from ckptlab.report.runs.page import runs_page
    from ckptlab.run import open_run

    chosen = {option: value for option, value in options.items() if value is not None}
    opened = [open_run(path) for path in paths]
    given = read_results(results, paths)
    measured = []
    for run, name, held in zip(opened, names, given, strict=True):
        with metric_progress(name):
            measured.append(
                measure_run(run, name, curvature=curvature, metrics=metrics, results=held, **chosen)
            )
    _write(runs_page(measured), target)


def _report_study(path: str, output: str | None, overwrite: bool) -> None:
    """Write the page about the results of an experiment."""
    from ckptlab.experiments.results.open import load_results
    from ckptlab.report.studies.page import study_page

    given = Path(path).absolute()
    name = given.parent.name if given.name == "results.zarr" else given.stem
    target = output or f"{name}-report.html"
    _require_writable(target, overwrite)
    _write(study_page(load_results(path), name), target)


def _write(page: Page, target: str) -> None:
    from ckptlab.report.page import write_page

    for notice in page.notices:
        click.echo(f"Warning: {notice}", err=True)
    click.echo(write_page(page, target))


def _require_alone(paths: tuple[str, ...], options: dict[str, Any]) -> None:
    if len(paths) > 1:
        raise ConfigError(
            f"{len(paths)} paths, results of an experiment among them; report each results.zarr "
            "on a page of its own"
        )
    for option, value in options.items():
        if value:
            raise ConfigError(
                f"--{option} is for runs; {paths[0]} holds results of an experiment, which are "
                f"drawn as they are. Leave --{option} out"
            )


def _require_writable(path: str, overwrite: bool) -> None:
    if PurePath(path).suffix not in (".html", ".htm"):
        raise ConfigError(f"{path!r}: the ending must be .html")
    if Path(path).exists() and not overwrite:
        raise RunExistsError(f"{path} exists; give another name, or --overwrite to replace it")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"the folder {Path(path).parent} does not exist; make it first")
