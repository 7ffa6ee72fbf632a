"""Lay out the page about the results of a study, complete or not."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Callable, Mapping

import xarray as xr

from ckptlab._version import __version__
from ckptlab.report.choices import choices_of
from ckptlab.report.html.numbers import format_number
from ckptlab.report.html.outline import Facts, Page, Section, Tiles
from ckptlab.report.runs import tables
from ckptlab.report.studies.curve_charts import (
    connectivity_sections,
    deficit_sections,
    legend_of,
    pretraining_sections,
    pruning_sections,
)
from ckptlab.report.studies.perturbation_charts import perturbation_sections
from ckptlab.report.studies.recording_charts import recorded_sections, steps_of
from ckptlab.report.studies.study_results import StudyResults

KINDS: Mapping[str, tuple[str, Callable[[StudyResults], list[Section]]]] = {
    "record": ("Recordings side by side", recorded_sections),
    "imp": ("Iterative magnitude pruning with rewinding", pruning_sections),
    "perturb": ("Perturb a snapshot, then train on", perturbation_sections),
    "pretrain": ("Pre-training on proxy tasks", pretraining_sections),
    "connect": ("Linear mode connectivity", connectivity_sections),
    "critical": ("Critical periods", deficit_sections),
}
"""What each kind of study does, and what draws its results."""

FAILURES = 10
"""Number of failures listed with their reasons."""


def study_page(results: xr.Dataset, name: str) -> Page:
    """Lay out the page about results of `load_results`; files saved from it begin with `name`."""
    study = StudyResults(results)
    kind = str(results.attrs["kind"])
    kicker, sections = KINDS.get(kind, (kind, _unknown))
    legend, entries = legend_of(study)
    steps = steps_of(study) if kind == "record" else None
    drawn = sections(study)
    return Page(
        title=str(results.attrs.get("title") or name),
        kicker=kicker,
        lede=_lede(study),
        runs=entries,
        head=(_tiles(study),),
        sections=(*drawn, *_failures(results), *_warnings(results), _about(study)),
        notices=tuple(_notices(results, bool(drawn))),
        notes=tuple(_notes(results)),
        steps=steps,
        legend=legend,
        switch=_switch(drawn),
        ordered=True,
        file=name,
    )


def _unknown(study: StudyResults) -> list[Section]:
    del study
    return []


def _lede(study: StudyResults) -> str:
    name = tables.learnt(study.results.attrs.get("config"))
    what = f"{name}: " if name else ""
    count = study.results.sizes.get("replicate", 1)
    grid = [
        f"{len(values)} {_plural(dim, len(values))}"
        for dim in study.dims
        if len(values := study.values(dim)) > 1
    ]
    told = f"{what}{', '.join(grid)}" if grid else what.removesuffix(": ")
    times = f"{count} replicates" if count > 1 else "one replicate"
    return f"{told}{'; ' if told else ''}{times}."


def _plural(dim: str, count: int) -> str:
    named = {
        "pruning": "way to prune",
        "rewind": "step to branch from",
        "length": "length of pre-training",
    }
    text = named.get(dim, dim)
    first, _, rest = text.partition(" ")
    return f"{first}{'s' if count > 1 else ''}{' ' if rest else ''}{rest}"


def _tiles(study: StudyResults) -> Tiles:
    facts = _facts(study.results)
    pairs = [(name, facts[name]) for name in ("jobs done", "failed", "still missing")]
    pairs = [(name, value) for name, value in pairs if value != "0"]
    if study.has("accuracy") and set(study.results["accuracy"].dims) <= {*study.dims, "replicate"}:
        mean = study.reduced("accuracy")["mean"]
        for name, value in (("highest", mean.max()), ("lowest", mean.min())):
            pairs.append((f"{name} mean accuracy", format_number(float(value), percent=True)))
    return Tiles(tuple(pairs))


def _facts(results: xr.Dataset) -> dict[str, str]:
    attrs = results.attrs
    return {
        "jobs done": f"{int(attrs.get('jobs_done', 0)):,} of {int(attrs.get('jobs', 0)):,}",
        "failed": f"{int(attrs.get('jobs_failed', 0)):,}",
        "blocked": f"{int(attrs.get('jobs_blocked', 0)):,}",
        "still missing": f"{int(attrs.get('jobs_open', 0)):,}",
    }


def _notices(results: xr.Dataset, drawn: bool) -> list[str]:
    attrs = results.attrs
    jobs, left = int(attrs.get("jobs", 0)), int(attrs.get("jobs_open", 0))
    failed, blocked = int(attrs.get("jobs_failed", 0)), int(attrs.get("jobs_blocked", 0))
    notices = []
    if left:
        notices.append(
            f"Results so far: {left:,} of {jobs:,} jobs are still to be done. The same command on "
            "the same folder continues them."
        )
    if failed:
        more = f", and {blocked:,} more need them" if blocked else ""
        notices.append(
            f"{failed:,} of {jobs:,} jobs failed{more}; their values are missing below. Once the "
            "cause is fixed, the same command with --retry-failed runs them again."
        )
    if not drawn:
        kind = str(attrs["kind"])
        notices.append(
            "There are no results to draw yet."
            if kind in KINDS
            else f"This version cannot draw results of the kind {kind!r}."
        )
    return notices


def _failures(results: xr.Dataset) -> list[Section]:
    failures = results.attrs.get("failures") or {}
    if not failures:
        return []
    listed = list(failures.items())[:FAILURES]
    rows = {str(key).removeprefix("job:"): " ".join(str(why).split()) for key, why in listed}
    more = len(failures) - len(listed)
    return [
        Section(
            key="failures",
            title="What failed",
            text=f"The first {len(listed)} of {len(failures):,} jobs." if more else "By job.",
            content=(Facts({"Jobs": rows}),),
        )
    ]


def _warnings(results: xr.Dataset) -> list[Section]:
    """List what jobs warned of, each text once with the number of jobs."""
    warned = results.attrs.get("warnings") or {}
    counts = Counter(" ".join(str(text).split()) for texts in warned.values() for text in texts)
    if not counts:
        return []
    rows = {}
    for number, (text, count) in enumerate(counts.most_common(FAILURES), 1):
        rows[f"{number}. in {count:,} {_plural('job', count)}"] = text
    return [
        Section(
            key="warnings",
            title="What jobs warned of",
            text=f"{len(warned):,} of {int(results.attrs.get('jobs', 0)):,} jobs have warnings.",
            content=(Facts({"Warnings": rows}),),
        )
    ]


def _about(study: StudyResults) -> Section:
    attrs = study.results.attrs
    plan = attrs.get("study") or {}
    said = {
        name: tables.format_setting(value)
        for name, value in plan.items()
        if name not in ("config", "scales", "summary") and value not in (None, "", [], {})
    }
    groups = {
        "Jobs": {name: text for name, text in _facts(study.results).items() if text != "0"},
        "Study": {"kind": str(attrs["kind"]), **said},
        "Coordinates": {dim: tables.format_setting(study.values(dim)) for dim in study.dims},
        **tables.settings(attrs.get("config") or {}),
    }
    return Section(
        key="study",
        title="The study",
        text="What was done, and the settings of the first training; the study says how the others "
        f"differ. {choices_of([study.results])}".rstrip(),
        content=(Facts({title: rows for title, rows in groups.items() if rows}),),
    )


def _switch(sections: list[Section]) -> str:
    """Name the axes that can be logarithmic or linear; empty if none can."""
    axes = [axis for s in sections for c in s.charts if (axis := getattr(c, "axis", None))]
    switched = [axis for axis in axes if axis.switched or axis.step]
    if not switched:
        return ""
    if all(axis.step for axis in switched):
        return "Step axis"
    return "Density axis" if all(axis.percent for axis in switched) else "Axes across"


def _notes(results: xr.Dataset) -> list[str]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    figure = str(results.attrs.get("figure") or "").removeprefix("fig")
    paper = "Frankle, Schwab & Morcos (2020), arXiv:2002.10365"
    notes = [
        f"After figure {figure} of {paper}." if figure else "",
        (
            "Standard deviations are those of the sample (n − 1). Replicates that share a "
            "training, because nothing random differs between them, count as one. Tables and CSV "
            "files hold exact values."
        ),
        f"Made by ckptlab {__version__}, {now}.",
    ]
    return [note for note in notes if note]
