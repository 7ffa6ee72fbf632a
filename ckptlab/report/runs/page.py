"""The page about one run, or about several side by side."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from ckptlab._version import __version__
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.analyze.weights.timeline import PHASES
from ckptlab.report.html.markup import Markup, joined
from ckptlab.report.html.outline import Choice, Page, Section
from ckptlab.report.runs import charts, tables
from ckptlab.report.runs.measure import CURVATURE, Measured
from ckptlab.report.theme import COLOURS
from ckptlab.store.read.info import human_bytes

MOST_RUNS = len(COLOURS)
"""More cannot be told apart."""

ON_LOSS: tuple[str, ...] = (*CURVATURE, "gradient-subspace")
"""What is told under the heading of curvature."""


def overview(runs: Sequence[Measured]) -> Page:
    """Lay out the page about runs.

    Parameters
    ----------
    runs : sequence of Measured
        One, or several side by side.

    Returns
    -------
    Page
        Ready to be written.
    """
    names = tuple(run.name for run in runs)
    ends = [run.survey.network["step"].values[[0, -1]] for run in runs]
    sections = (
        _phases(runs),
        _telemetry(runs),
        _layers(runs),
        _path(runs),
        *_further(runs),
        _card(runs),
    )
    return Page(
        title=", ".join(names) if len(names) < 4 else f"{names[0]} and {len(names) - 1} more",
        kicker="Early training, step by step",
        lede=_lede(runs),
        runs=names,
        head=tables.figures(runs),
        sections=tuple(section for section in sections if section is not None),
        notices=tuple(_notices(runs)),
        notes=tuple(_notes(runs)),
        steps=(int(min(a for a, _ in ends)), int(max(b for _, b in ends))),
        marks=tuple(phase.start for phase in PHASES),
    )


def _lede(runs: Sequence[Measured]) -> str:
    facts = [run.facts for run in runs]
    trained = {_trained(f["config"]) for f in facts}
    what = f" of {trained.pop()}" if len(trained) == 1 and None not in trained else ""
    if len(runs) > 1:
        stored = human_bytes(sum(f["stored_bytes"] for f in facts))
        return (
            f"{len(runs)} recordings{what} side by side: "
            f"{sum(f['steps'] for f in facts):,} snapshots in all, {stored} of weights."
        )
    (only,) = facts
    return (
        f"{only['steps']:,} snapshots{what} between step {only['first_step']:,} and step "
        f"{only['last_step']:,}: how far the weights moved, which of them changed sign, and what "
        "the gradient did meanwhile."
    )


def _trained(config: Any) -> str | None:
    """Name network and data of the built-in trainer."""
    if not isinstance(config, Mapping):
        return None
    model, data = config.get("model"), config.get("data")
    if not isinstance(model, Mapping) or not isinstance(data, Mapping):
        return None
    names = model.get("name"), data.get("name")
    return f"{names[0]} learning {names[1]}" if None not in names else None


def _phases(runs: Sequence[Measured]) -> Section:
    return Section(
        key="phases",
        title="The phases",
        text="The paper's timeline for ResNet-20 on CIFAR-10 at batch 128, and what these weights "
        "show over the same steps. Fine dotted lines mark the same steps in the charts below.",
        markup=tables.phases(runs),
    )


def _telemetry(runs: Sequence[Measured]) -> Section:
    kinds = runs[0].survey.network["weight_magnitude"].attrs["kinds"].replace(",", " and ")
    return Section(
        key="telemetry",
        title="Telemetry",
        text=f"Measured over the {kinds} weights. Move the pointer, or the arrow keys on a chart, "
        "to read one step in all of them; drag to look closer, double-click to return. Where "
        "neighbouring steps differ much, the strong line is their mean over a hundredth of the "
        "axis (geometric on logarithmic scales).",
        charts=(*charts.telemetry_charts(runs), charts.weights_chart(runs)),
    )


def _layers(runs: Sequence[Measured]) -> Section:
    return Section(
        key="layers",
        title="Layer by layer",
        text="From the input at the top to the output; logarithmic scales of colour.",
        charts=tuple(charts.layer_charts(runs)),
        arranged="thirds",
        choice=_one_run(runs),
    )


def _path(runs: Sequence[Measured]) -> Section | None:
    drawn = tuple(charts.path_charts(runs))
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


def _one_run(runs: Sequence[Measured]) -> Choice:
    return Choice(name="run", legend="Run", options=tuple(run.name for run in runs))


def _further(runs: Sequence[Measured]) -> list[Section]:
    found = list(dict.fromkeys(name for run in runs for name in run.results))
    drawn = {
        name: charts.line_charts(
            name, [(k, run.results[name]) for k, run in enumerate(runs) if name in run.results]
        )
        for name in METRICS
        if name in found
    }
    sections = []
    for key, title, text, names in (
        (
            "curvature",
            "Curvature",
            "Of the training loss, on a fixed subset of the training examples.",
            [name for name in drawn if name in ON_LOSS],
        ),
        (
            "further",
            "Further measurements",
            "From results that were computed before.",
            [name for name in drawn if name not in ON_LOSS],
        ),
    ):
        shown = tuple(chart for name in names for chart in drawn[name])
        if shown:
            sections.append(Section(key=key, title=title, text=text, charts=shown))
    return sections


def _card(runs: Sequence[Measured]) -> Section:
    return Section(
        key="run",
        title="The run" if len(runs) == 1 else "The runs",
        text="How it was made and what it holds."
        if len(runs) == 1
        else "How they were made and what they hold.",
        markup=tables.card(runs),
    )


def _notices(runs: Sequence[Measured]) -> list[str]:
    notices = []
    for run in runs:
        steps, last = run.facts["steps"], run.facts["last_step"]
        name = f"{run.name} " if len(runs) > 1 else "This run "
        if run.facts["state"] == "recording":
            notices.append(
                f"{name}is still being recorded: the page shows the {steps:,} steps that were "
                f"committed when it was made, the last of which, {last:,}, stands for the last "
                "weights."
            )
        elif run.facts["state"] != "complete":
            notices.append(
                f"{name}was interrupted: {steps:,} steps were committed, the last of which, "
                f"{last:,}, stands for the last weights. ckptlab record --resume takes it up again."
            )
        notices += run.warnings
    return notices


def _notes(runs: Sequence[Measured]) -> list[Markup]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    paper = "Frankle, Schwab & Morcos (2020), arXiv:2002.10365"
    kept = (
        "A screen has fewer pixels than a run has steps: each line shows the lowest and the "
        "highest value of the steps under a pixel, each cell of a heat map their mean; look closer "
        "to see single steps. Tables and CSV files hold exact values."
    )
    missing = _missing(runs)
    notes = [
        joined("The phases and most measures are those of ", paper, "."),
        Markup(kept),
        joined(missing) if missing else None,
        joined("Made by ckptlab ", __version__, ", ", now, "."),
    ]
    return [note for note in notes if note is not None]


def _missing(runs: Sequence[Measured]) -> str:
    wanted = {
        "sign_flips_init": "comparisons with step 0, which was not recorded",
        "gradient_norm": "gradients, which were not recorded",
        "eval_loss": "evaluations on the test set, of which there are none",
        "loss": "the loss, which the recorder was not given",
    }
    absent = [text for name, text in wanted.items() if not any(_has(run, name) for run in runs)]
    return f"Not shown: {'; '.join(absent)}." if absent else ""


def _has(run: Measured, name: str) -> bool:
    return name in run.survey.network and bool(run.survey.network[name].notnull().any())
