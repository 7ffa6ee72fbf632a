"""``ckptlab report RUN...``: one page about a run, or about several side by side.

Imports errors and cli; everything that measures and draws when called.
"""

from __future__ import annotations

from pathlib import Path, PurePath

import click

from ckptlab.errors import ConfigError, RunExistsError


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "output", metavar="FILE.html", help="Where [default: <run>-report.html].")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@click.option("--steps", metavar="A:B[:STRIDE]", help="Recorded steps to show; half-open.")
@click.option(
    "--kinds",
    metavar="KIND[,KIND...]|all",
    help="Kinds of tensors: conv, linear, norm, bias, embedding, other, or all. "
    "[default: conv,linear]",
)
@click.option(
    "--results",
    multiple=True,
    metavar="FILE.nc|FILE.zarr",
    help="Draw this result of `ckptlab analyze METRIC RUN -o FILE` too; may be given often.",
)
@click.option(
    "--curvature",
    is_flag=True,
    help="Measure Hessian spectrum and Fisher trace too; on a CPU that takes long.",
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
    steps: str | None,
    kinds: str | None,
    results: tuple[str, ...],
    curvature: bool,
    scheduler: str | None,
) -> None:
    """Draw RUN, or several of them side by side, on one page that needs no network.

    A run that is interrupted or still being recorded is shown as far as it is committed. Patterns
    such as 'runs/seed*.zarr' are expanded.
    """
    from ckptlab.runs import find_runs, run_names

    paths = find_runs(runs)
    names = run_names(paths)
    target = output or (
        f"{PurePath(names[0]).name}-report.html" if len(names) == 1 else "report.html"
    )
    _require_writable(target, overwrite)

    from ckptlab.cli.progress import metric_progress
    from ckptlab.report.measured import measure, read_results
    from ckptlab.report.overview import MOST_RUNS, overview
    from ckptlab.report.page import write_page
    from ckptlab.run import open_run

    if len(paths) > MOST_RUNS:
        raise ConfigError(
            f"{len(paths)} runs; at most {MOST_RUNS} can be told apart by colour. Report fewer, or "
            "take their mean with ckptlab.open_runs"
        )
    opened = [open_run(path) for path in paths]
    given = read_results(results, paths)
    measured = []
    for run, name, held in zip(opened, names, given, strict=True):
        with metric_progress(name):
            measured.append(
                measure(
                    run,
                    name,
                    steps=steps,
                    kinds=kinds,
                    scheduler=scheduler,
                    curvature=curvature,
                    results=held,
                )
            )
    page = overview(measured)
    for notice in page.notices:
        click.echo(f"Warning: {notice}", err=True)
    click.echo(write_page(page, target))


def _require_writable(path: str, overwrite: bool) -> None:
    if PurePath(path).suffix not in (".html", ".htm"):
        raise ConfigError(f"{path!r}: the ending must be .html")
    if Path(path).exists() and not overwrite:
        raise RunExistsError(f"{path} exists; give another name, or --overwrite to replace it")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"the folder {Path(path).parent} does not exist; make it first")
