"""Lay out the page about one run, or about several side by side."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from ckptlab._version import __version__
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.analyze.weights.timeline import PHASES
from ckptlab.report.choices import choices_of
from ckptlab.report.html.outline import Choice, Page, Section
from ckptlab.report.runs import run_charts, tables
from ckptlab.report.runs.measure import CURVATURE, MeasuredRun
from ckptlab.report.runs.run_charts import MOST_COLOURS
from ckptlab.store.read.info import human_bytes

ON_LOSS: tuple[str, ...] = (*CURVATURE, "gradient-subspace")
"""Metrics that stand under the heading of curvature."""


def runs_page(runs: Sequence[MeasuredRun]) -> Page:
    """Lay out the page about measured runs, ready for `write_page`."""
    names = tuple(run.name for run in runs)
    ends = [run.survey.network["step"].values[[0, -1]] for run in runs]
    sections = (
        _phases(runs),
        _telemetry(runs),
        _layers(runs),
        _path(runs),
        *_further(runs),
        _health(runs),
        _recording(runs),
    )
    return Page(
        title=", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more",
        kicker="Early training, step by step",
        lede=_lede(runs),
        runs=names,
        head=(tables.key_figures(runs),),
        sections=tuple(section for section in sections if section is not None),
        notices=tuple(_notices(runs)),
        notes=tuple(_notes(runs)),
        steps=(int(min(a for a, _ in ends)), int(max(b for _, b in ends))),
        marks=tuple(phase.start for phase in PHASES),
        averaged=len(runs) > MOST_COLOURS,
        file="" if len(runs) <= MOST_COLOURS else f"{names[0]}-and-{len(names) - 1}-more",
    )


def _lede(runs: Sequence[MeasuredRun]) -> str:
    facts = [run.facts for run in runs]
    trained = {tables.learnt(f["config"]) for f in facts}
    what = f" of {trained.pop()}" if len(trained) == 1 and None not in trained else ""
    if len(runs) > 1:
        stored = human_bytes(sum(f["stored_bytes"] for f in facts))
        how = "side by side" if len(runs) <= MOST_COLOURS else "and their means"
        return (
            f"{len(runs)} recordings{what} {how}: "
            f"{sum(f['steps'] for f in facts):,} snapshots in all, {stored} of weights."
        )
    (only,) = facts
    return (
        f"{only['steps']:,} snapshots{what} between step {only['first_step']:,} and step "
        f"{only['last_step']:,}: how far the weights moved, which of them changed sign, and what "
        "the gradient did meanwhile."
    )


def _phases(runs: Sequence[MeasuredRun]) -> Section:
    means = (
        " Values are means over runs ± the standard deviation of the sample (n − 1)."
        if len(runs) > MOST_COLOURS
        else ""
    )
    return Section(
        key="phases",
        title="The phases",
        text="The paper's timeline for ResNet-20 on CIFAR-10 at batch 128, and what these weights "
        f"show over the same steps.{means} Fine dotted lines mark the same steps in the charts "
        "below.",
        content=(tables.phases(runs),),
    )


def _telemetry(runs: Sequence[MeasuredRun]) -> Section:
    kinds = runs[0].survey.network["weight_magnitude"].attrs["kinds"].replace(",", " and ")
    # Without conv and linear layers, the default is every tensor of two dims or more.
    selected = "weights of all matrices" if kinds == "matrices" else f"{kinds} weights"
    means = (
        f"Lines are means over {len(runs)} runs, at the steps that all of them recorded; bands are "
        "standard deviations of the sample (n − 1); single runs are faint. "
        if len(runs) > MOST_COLOURS
        else ""
    )
    return Section(
        key="telemetry",
        title="Telemetry",
        text=f"Measured over the {selected}. {means}Move the pointer, or the arrow keys on a "
        "chart, to read one step in all of them; drag to look closer, double-click to return. "
        "Where neighbouring steps differ much, the strong line is their mean over a hundredth of "
        "the axis (geometric on logarithmic scales).",
        charts=(*run_charts.telemetry_charts(runs), run_charts.weights_chart(runs)),
    )


def _layers(runs: Sequence[MeasuredRun]) -> Section:
    return Section(
        key="layers",
        title="Layer by layer",
        text="From the input at the top to the output; logarithmic scales of colour.",
        charts=tuple(run_charts.layer_charts(runs)),
        arranged="thirds",
        choice=_one_run(runs),
    )


def _path(runs: Sequence[MeasuredRun]) -> Section | None:
    drawn = tuple(run_charts.path_charts(runs))
    if not drawn:
        return None
    each = " Each run has components of its own." if len(runs) > 1 else ""
    return Section(
        key="path",
        title="The path of the weights",
        text="All selected weights as one point that moves, seen along the directions in which it "
        f"moved most (principal components of the path).{each}",
        charts=drawn,
        choice=_one_run(runs),
    )


def _one_run(runs: Sequence[MeasuredRun]) -> Choice:
    return Choice(name="run", legend="Run", options=tuple(run.name for run in runs))


def _further(runs: Sequence[MeasuredRun]) -> list[Section]:
    found = {name for run in runs for name in run.results}
    drawn = {}
    for name in sorted(found, key=[*METRICS, *sorted(found)].index):
        held = [(k, run.results[name]) for k, run in enumerate(runs) if name in run.results]
        choices = choices_of(result for _, result in held)
        drawn[name] = run_charts.line_charts(name, held, choices=choices)
    curvature = tuple(chart for name in drawn if name in ON_LOSS for chart in drawn[name])
    others = tuple(chart for name in drawn if name not in ON_LOSS for chart in drawn[name])
    sections = (
        Section(
            key="curvature",
            title="Curvature",
            text="Of the training loss, on a fixed subset of the training examples.",
            charts=curvature,
        ),
        Section(
            key="further",
            title="Further measurements",
            text="Of metrics that were asked for, or from results that were measured before.",
            charts=others,
        ),
    )
    return [section for section in sections if section.charts]


def _health(runs: Sequence[MeasuredRun]) -> Section:
    findings = any(run.health.findings for run in runs)
    found = "What was found:" if findings else "Nothing of it was found."
    return Section(
        key="health",
        title="Health",
        text="Damage that recordings and published checkpoints were seen to have: copies, "
        f"snapshots of another training, NaN, rows of zeros. {found}",
        content=(tables.health(runs),) if findings else (),
    )


def _recording(runs: Sequence[MeasuredRun]) -> Section:
    alone = len(runs) == 1
    return Section(
        key="run",
        title="The run" if alone else "The runs",
        text="How it was recorded and what it holds."
        if alone
        else "How they were recorded and what they hold.",
        content=tables.recording(runs),
    )


def _notices(runs: Sequence[MeasuredRun]) -> list[str]:
    notices = []
    for run in runs:
        steps, last = run.facts["steps"], run.facts["last_step"]
        name = f"{run.name} " if len(runs) > 1 else "This run "
        if run.facts["state"] == "recording":
            notices.append(
                f"{name}is still being recorded: the page shows the {steps:,} steps committed when "
                f"it was made. The last of them, {last:,}, stands for the final weights."
            )
        elif run.facts["state"] != "complete":
            notices.append(
                f"{name}was interrupted: {steps:,} steps were committed. The last of them, "
                f"{last:,}, stands for the final weights. Continue with ckptlab record --resume."
            )
        notices += run.warnings
    return list(dict.fromkeys(notices))


def _notes(runs: Sequence[MeasuredRun]) -> list[str]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    exact = (
        "A cell of a heat map is the mean of the steps under it; zoom in to see single steps. "
        "Tables and CSV files hold exact values."
    )
    paper = "Frankle, Schwab & Morcos (2020), arXiv:2002.10365"
    notes = [
        f"The phases and most measures are those of {paper}.",
        exact,
        _missing(runs),
        f"Made by ckptlab {__version__}, {now}.",
    ]
    return [note for note in notes if note]


def _missing(runs: Sequence[MeasuredRun]) -> str:
    wanted = {
        "sign_flips_init": "comparisons with step 0, which was not recorded",
        "gradient_norm": "gradients, which were not recorded",
        "eval_loss": "evaluations on the test set, of which there are none",
        "loss": "the loss, which the recorder was not given",
    }
    absent = [text for name, text in wanted.items() if not any(_has(run, name) for run in runs)]
    return f"Not shown: {'; '.join(absent)}." if absent else ""


def _has(run: MeasuredRun, name: str) -> bool:
    return name in run.survey.network and bool(run.survey.network[name].notnull().any())
