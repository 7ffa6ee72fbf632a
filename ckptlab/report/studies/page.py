"""The page about the results of a study, whole or as far as there are any."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping

import xarray as xr

from ckptlab._version import __version__
from ckptlab.report.html.markup import NOTHING, Markup, joined, tag
from ckptlab.report.html.numbers import number
from ckptlab.report.html.outline import Page, Section
from ckptlab.report.runs import tables
from ckptlab.report.studies.curves import (
    connectivity_sections,
    deficit_sections,
    legend_of,
    pretraining_sections,
    pruning_sections,
)
from ckptlab.report.studies.perturbations import perturbation_sections
from ckptlab.report.studies.recordings import recorded_sections, steps_of
from ckptlab.report.studies.results import Cells

KINDS: Mapping[str, tuple[str, Callable[[Cells], list[Section]]]] = {
    "record": ("Recordings side by side", recorded_sections),
    "imp": ("Iterative magnitude pruning with rewinding", pruning_sections),
    "perturb": ("Perturb a snapshot, then train on", perturbation_sections),
    "pretrain": ("Pre-training on proxy tasks", pretraining_sections),
    "connect": ("Linear mode connectivity", connectivity_sections),
    "critical": ("Critical periods", deficit_sections),
}
"""Kinds of studies: what they do, and what draws their results."""

FAILURES = 10
"""Failures that are listed with their reasons."""


def study_page(results: xr.Dataset, name: str) -> Page:
    """Lay out the page about a study.

    Parameters
    ----------
    results : Dataset
        As `results.load_results` gives them; what is not there yet is NaN.
    name : str
        What files saved from the page begin with.

    Returns
    -------
    Page
        Ready to be written.
    """
    cells = Cells(results)
    kind = str(results.attrs["kind"])
    kicker, sections = KINDS.get(kind, (kind, _unknown))
    legend, entries = legend_of(cells)
    steps = steps_of(cells) if kind == "record" else None
    drawn = sections(cells)
    return Page(
        title=str(results.attrs.get("title") or name),
        kicker=kicker,
        lede=_lede(cells),
        runs=entries,
        head=_tiles(cells),
        sections=(*drawn, *_failures(results), _about(cells)),
        notices=tuple(_notices(results, bool(drawn))),
        notes=tuple(_notes(results)),
        steps=steps,
        legend=legend,
        switch=_switch(drawn),
        ordered=True,
        file=name,
    )


def _unknown(cells: Cells) -> list[Section]:
    del cells
    return []


def _lede(cells: Cells) -> str:
    config = cells.results.attrs.get("config") or {}
    names = [str((config.get(part) or {}).get("name", "")) for part in ("model", "data")]
    what = f"{names[0]} learning {names[1]}: " if all(names) else ""
    count = cells.results.sizes.get("replicate", 1)
    grid = [
        f"{len(values)} {_plural(dim, len(values))}"
        for dim in cells.dims
        if len(values := cells.values(dim)) > 1
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


def _tiles(cells: Cells) -> Markup:
    facts = _facts(cells.results)
    pairs = [(name, facts[name]) for name in ("jobs done", "failed", "still missing")]
    pairs = [(name, value) for name, value in pairs if value != "0"]
    if cells.has("accuracy") and set(cells.results["accuracy"].dims) <= {*cells.dims, "replicate"}:
        mean = cells.reduced("accuracy")["mean"]
        for name, value in (("highest", mean.max()), ("lowest", mean.min())):
            pairs.append((f"{name} mean accuracy", number(float(value), percent=True)))
    return tag(
        "dl",
        *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs),
        class_="tiles",
    )


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
            "the same folder goes on with them."
        )
    if failed:
        more = f", and {blocked:,} more need them" if blocked else ""
        notices.append(
            f"{failed:,} of {jobs:,} jobs failed{more}; what they would have given is missing "
            "below. Once it is mended, the same command with --retry-failed does them again."
        )
    if not drawn:
        kind = str(attrs["kind"])
        notices.append(
            "Nothing is there to be drawn yet."
            if kind in KINDS
            else f"Results of the kind {kind!r} are not known to this version."
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
            markup=tables.lists({"Jobs": rows}),
        )
    ]


def _about(cells: Cells) -> Section:
    attrs = cells.results.attrs
    study = attrs.get("study") or {}
    said = {
        name: tables.written(value)
        for name, value in study.items()
        if name not in ("config", "scales", "summary") and value not in (None, "", [], {})
    }
    groups = {
        "Jobs": {name: text for name, text in _facts(cells.results).items() if text != "0"},
        "Study": {"kind": str(attrs["kind"]), **said},
        "Coordinates": {dim: tables.written(cells.values(dim)) for dim in cells.dims},
        **tables.settings(attrs.get("config") or {}),
    }
    return Section(
        key="study",
        title="The study",
        text="What was done, and the settings of its first training, from which the others differ "
        "as the study says.",
        markup=tables.lists({title: rows for title, rows in groups.items() if rows}),
    )


def _switch(sections: list[Section]) -> str:
    """Name the axes that are logarithmic or linear; empty if there are none."""
    axes = [axis for s in sections for c in s.charts if (axis := getattr(c, "axis", None))]
    switched = [axis for axis in axes if axis.switched or axis.step]
    if not switched:
        return ""
    if all(axis.step for axis in switched):
        return "Step axis"
    return "Density axis" if all(axis.percent for axis in switched) else "Axes across"


def _notes(results: xr.Dataset) -> list[Markup]:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    figure = str(results.attrs.get("figure") or "").removeprefix("fig")
    paper = "Frankle, Schwab & Morcos (2020), arXiv:2002.10365"
    notes = [
        joined("After figure ", figure, " of ", paper, ".") if figure else NOTHING,
        joined(
            "Standard deviations are those of the sample. Replicates that share a training, since "
            "nothing in them is drawn, count as one. Tables and CSV files hold exact values."
        ),
        joined("Made by ckptlab ", __version__, ", ", now, "."),
    ]
    return [note for note in notes if note]
