"""``ckptlab analyze METRIC RUN``: one command for each entry of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ckptlab.analyze.registry.metrics import METRICS, Metric, find_metric
from ckptlab.analyze.registry.options import Option
from ckptlab.cli.options import data_root_option, json_option, print_json
from ckptlab.errors import ConfigError, RunExistsError


class MetricGroup(click.Group):
    """Makes a command from a registry entry when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name `list` and every metric."""
        return [*super().list_commands(ctx), *METRICS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Make the command of a metric; suggests the nearest for an unknown one."""
        own = super().get_command(ctx, cmd_name)
        return own or metric_command(find_metric(cmd_name))


@click.group(cls=MetricGroup)
def analyze() -> None:
    """Measure a run.

    Every metric takes a run, or several of one network side by side, prints a table, and can write
    files, figures and JSON.
    """


@analyze.command("list")
@json_option
def list_metrics(as_json: bool) -> None:
    """List the metrics."""
    if as_json:
        print_json([_entry(metric) for metric in METRICS.values()])
        return
    from rich import box
    from rich.table import Table

    from ckptlab.cli.results import stdout_console

    table = Table("metric", "what", "needs", box=box.SIMPLE_HEAD)
    for metric in METRICS.values():
        table.add_row(metric.name, metric.summary, ", ".join(metric.needs))
    stdout_console().print(table)


def metric_command(metric: Metric) -> click.Command:
    """Make the command of a metric.

    Parameters
    ----------
    metric : Metric
        Its registry entry.

    Returns
    -------
    Command
        Takes runs and the options of the entry.
    """

    def run(**given: Any) -> None:
        _measure(metric, **given)

    parameters: list[click.Parameter] = [
        click.Argument(["runs"], nargs=-1, required=True, metavar="RUN...")
    ]
    parameters += [_flag(option) for option in metric.options.values()]
    command = click.Command(
        metric.name,
        callback=run,
        params=parameters,
        help=f"{metric.summary}\n\nReference: {metric.reference}.",
        short_help=metric.summary,
    )
    for decorate in (_output, _plot, _to, _overwrite, data_root_option, json_option):
        command = decorate(command)
    return command


_output = click.option(
    "-o", "output", metavar="FILE", help="Write the result: .nc, .zarr, .csv (long) or .parquet."
)
_plot = click.option("--plot", metavar="FILE", help="Draw a figure: .html (offline), .png or .svg.")
_to = click.option(
    "--to",
    metavar="NAME[=PLACE]",
    help="Send the numbers to a tracker: wandb=PROJECT, tensorboard=FOLDER, mlflow=EXPERIMENT.",
)
_overwrite = click.option("--overwrite", is_flag=True, help="Replace files that exist.")


def _flag(option: Option) -> click.Option:
    names = [option.flag, option.name]
    if option.switch and not option.default:
        return click.Option(names, is_flag=True, help=option.help)
    kind: Any = option.type
    if option.switch:
        names[0] += f"/--no-{option.flag[2:]}"
    elif option.choices:
        kind = click.Choice(option.choices)
    elif option.least is not None:
        kind = click.IntRange(min=option.least)
    shown = "" if option.default in (None, "") else f" [default: {option.default}]"
    return click.Option(
        names,
        type=kind,
        metavar=option.metavar or None,
        default=None,
        help=(option.help + shown).strip(),
    )


def _measure(
    metric: Metric,
    runs: tuple[str, ...],
    *,
    output: str | None,
    plot: str | None,
    to: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    for path in (output, plot):
        if path is not None:
            _require_writable(path, overwrite)
    from ckptlab.cli import results
    from ckptlab.cli.progress import metric_progress

    if output is not None:
        results.require_format(output)
    if plot is not None:
        from ckptlab.report.plotly_figures import require_format

        require_format(plot)
    if to is not None:
        from ckptlab.analyze.trackers import find_tracker, send

        tracker, place = find_tracker(to)
    with metric_progress(metric.name):
        result = _open(runs).analyze(metric, **options)
    written = []
    if output is not None:
        written.append(results.save(result, output))
    if plot is not None:
        from ckptlab.report.plotly_figures import figure, write_figure

        written.append(write_figure(figure(result, metric), plot))
    if to is not None:
        written += send(result, tracker, place)
    if as_json:
        print_json(result.to_dict())
    else:
        results.print_result(result)
    for path in written:
        # With --json, stdout is one document.
        click.echo(path, err=as_json)


def _open(paths: tuple[str, ...]) -> Any:
    """Open one run, or several of one network; a path may be a pattern."""
    from ckptlab.run import open_run
    from ckptlab.runs import open_runs

    opened = open_runs(paths) if len(paths) > 1 or set("*?[") & set(paths[0]) else None
    if opened is not None and len(opened) > 1:
        return opened
    return open_run(paths[0]) if opened is None else opened[0]


def _require_writable(path: str, overwrite: bool) -> None:
    if Path(path).exists() and not overwrite:
        raise RunExistsError(f"{path} exists; give another name, or --overwrite to replace it")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigError(f"the folder {Path(path).parent} does not exist; make it first")


def _entry(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "summary": metric.summary,
        "needs": list(metric.needs),
        "dims": list(metric.dims),
        "unit": metric.unit,
        "reference": metric.reference,
        "options": {name: metric.default(name) for name in metric.options},
    }
