"""Lay out what a page says of runs in tables: key figures, phases, and how they were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ckptlab.analyze.weights.timeline import PHASES
from ckptlab.report.html.numbers import format_number, format_spread
from ckptlab.report.html.outline import Content, Facts, Heading, Row, Table, Tiles, Value
from ckptlab.report.phases import EVIDENCE, SHARES, Cell, count_verdicts, phase_table, verdict
from ckptlab.report.runs.measure import MeasuredRun
from ckptlab.report.runs.run_charts import MOST_COLOURS
from ckptlab.store.read.info import human_bytes

Groups = dict[str, dict[str, str]]


def key_figures(runs: Sequence[MeasuredRun]) -> Content:
    """Lay out the key figures: tiles for one run, a table for several."""
    shown = [_figures(run) for run in runs]
    known = [name for name in shown[0] if any(figures[name] != "–" for figures in shown)]
    if len(runs) == 1:
        return Tiles(tuple((name, shown[0][name]) for name in known))
    rows = {name.capitalize(): [figures[name] for figures in shown] for name in known}
    return side_by_side(runs, "Key figures", rows)


def _figures(run: MeasuredRun) -> dict[str, str]:
    facts = run.facts
    return {
        "snapshots": f"{facts['steps']:,}",
        "parameters": f"{facts['parameters']:,}",
        "test accuracy, last": format_number(_last(run, "eval_accuracy"), percent=True),
        "signs changed": format_number(_last(run, "sign_flips_init"), percent=True),
        "distance moved": format_number(_last(run, "weight_distance_init")),
        "stored weights": human_bytes(facts["stored_bytes"]),
        "smaller than float32": f"{facts['ratio']:.2f} ×" if facts["ratio"] else "–",
    }


def phases(runs: Sequence[MeasuredRun]) -> Table:
    """Lay out the phases that any run reaches, with the evidence of each run or of their mean."""
    spans = {phase.name: _span(runs, phase.name) for phase in PHASES}
    reached = {name: span for name, span in spans.items() if span}
    cell = _mean_cell if len(runs) > MOST_COLOURS else _cells
    return phase_table(reached, lambda phase, name: cell(runs, phase, name), EVIDENCE)


def health(runs: Sequence[MeasuredRun]) -> Table:
    """Lay out what is wrong with the series, a row for each finding."""
    found = [(run, finding) for run in runs for finding in run.health.findings]
    alone = len(runs) == 1
    return Table(
        style="compare",
        label="Health",
        corner="Finding",
        heads=tuple(Heading(text) for text in ("where", "evidence")),
        rows=tuple(
            Row(
                name=finding.rule if alone else f"{run.name}: {finding.rule}",
                cells=((Value(finding.where),), (Value(finding.evidence),)),
            )
            for run, finding in found
        ),
    )


def recording(runs: Sequence[MeasuredRun]) -> tuple[Content, ...]:
    """Lay out how the runs were recorded: lists for one; for several first what differs."""
    groups = [_groups(run.facts) for run in runs]
    if len(runs) == 1:
        return (Facts(groups[0]),)
    keys = dict.fromkeys((title, k) for g in groups for title, rows in g.items() for k in rows)
    values = {key: [g.get(key[0], {}).get(key[1], "–") for g in groups] for key in keys}
    differ = {f"{t}: {k}": row for (t, k), row in values.items() if len(set(row)) > 1}
    same: Groups = {}
    for (title, key), row in values.items():
        if len(set(row)) == 1:
            same.setdefault(title, {})[key] = row[0]
    return (side_by_side(runs, "What differs", differ), Facts(same, title="What is the same"))


def side_by_side(
    runs: Sequence[MeasuredRun], title: str, rows: Mapping[str, Sequence[str]]
) -> Table:
    """Lay out facts with a column for each run; with a row for each if there are many runs."""
    names = [run.name for run in runs]
    many = len(runs) > MOST_COLOURS
    heads = [Heading(name, run=None if many else k) for k, name in enumerate(names)]
    lines: list[tuple[str, Sequence[str]]] = list(rows.items())
    if many:
        heads = [Heading(name) for name in rows]
        lines = [(name, [row[k] for row in rows.values()]) for k, name in enumerate(names)]
    return Table(
        style="compare",
        label=title,
        corner=title,
        heads=tuple(heads),
        rows=tuple(
            Row(name=name, cells=tuple((Value(text),) for text in texts)) for name, texts in lines
        ),
    )


def _groups(facts: dict[str, Any]) -> Groups:
    span = f"{facts['first_step']:,} to {facts['last_step']:,}"
    ratio = f", {facts['ratio']:.2f} × smaller" if facts["ratio"] else ""
    groups = {
        "Recording": {
            "state": facts["state"],
            "snapshots": f"{facts['steps']:,}, steps {span}",
            "parameters": f"{facts['parameters']:,} in {facts['tensors']:,} tensors",
            "weights": f"{human_bytes(facts['raw_bytes'])} as float32, "
            f"{human_bytes(facts['stored_bytes'])} stored{ratio}",
            "all files": human_bytes(facts["total_stored_bytes"]),
            "codec": f"{facts['codec']}, blocks of {facts['block']} steps",
            "started": str(facts["started"] or "–"),
            "path": str(facts["path"]),
        },
        "Machine": {
            "device": str(facts["device"].get("model", "–")),
            "threads": str(facts["threads"] or "–"),
        },
        "Seeds": {name: str(seed) for name, seed in facts["seeds"].items()},
        "Versions": {name: str(version) for name, version in facts["versions"].items()},
        **settings(facts["config"]),
    }
    return {title: rows for title, rows in groups.items() if rows}


def learnt(config: Any) -> str | None:
    """Name what a run of ckptlab's trainer learns: a problem, or a network and data."""
    sections = config if isinstance(config, Mapping) else {}
    problem, model, data = (
        held.get("name") if isinstance(held := sections.get(part), Mapping) else None
        for part in ("problem", "model", "data")
    )
    return problem or (f"{model} learning {data}" if model and data else None)


def settings(config: Any) -> Groups:
    """Lay out settings of any form, by section where they have sections; None is left out."""
    tables = config if isinstance(config, Mapping) else {"config": config}
    groups = {
        "Settings": {
            str(k): format_setting(v) for k, v in tables.items() if not isinstance(v, Mapping)
        }
    }
    for section, chosen in tables.items():
        if isinstance(chosen, Mapping):
            groups[f"Settings: {section}"] = {
                str(k): format_setting(v) for k, v in chosen.items() if v is not None
            }
    return {title: rows for title, rows in groups.items() if rows}


def format_setting(value: Any) -> str:
    """Write a setting of any form on one line."""
    if isinstance(value, list | tuple):
        return ", ".join(map(format_setting, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {format_setting(v)}" for k, v in value.items())
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _span(runs: Sequence[MeasuredRun], phase: str) -> str:
    rows = [row for run in runs if (row := _row(run, phase)) is not None]
    if not rows:
        return ""
    first, last = min(int(row["start"]) for row in rows), max(int(row["stop"]) for row in rows)
    return f"steps {first:,} to {last:,}"


def _row(run: MeasuredRun, phase: str) -> Any:
    table = run.survey.timeline
    return table.sel(phase=phase) if phase in table["phase"].values else None


def _cells(runs: Sequence[MeasuredRun], phase: str, name: str) -> Cell:
    """Return a value for each run that reaches the phase, in its colour if there are several."""
    values = [
        (k, _value(row, name))
        for k, run in enumerate(runs)
        if (row := _row(run, phase)) is not None
    ]
    shown = [(k, value) for k, value in values if value.text != "–"]
    if len(runs) == 1:
        return tuple(value for _, value in shown) or (Value("–"),)
    coloured = (Value(v.text, run=k, verdict=v.verdict) for k, v in shown)
    return tuple(coloured) or (Value("–"),)


def _value(row: Any, name: str) -> Value:
    if name == "agrees":
        return verdict(str(row["agrees"].item()))
    text = format_number(float(row[name]), percent=name in SHARES)
    if name == "gradient_min" and text != "–":
        text += f" at step {int(row['gradient_min_step']):,}"
    return Value(text)


def _mean_cell(runs: Sequence[MeasuredRun], phase: str, name: str) -> Cell:
    """Return the mean over runs with its sample standard deviation, or the count of verdicts."""
    rows = [row for run in runs if (row := _row(run, phase)) is not None]
    if name == "agrees":
        return (count_verdicts([str(row["agrees"].item()) for row in rows]),)
    values = np.array([float(row[name]) for row in rows])
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else np.nan
    std = float(known.std(ddof=1)) if len(known) > 1 else np.nan
    return (Value(format_spread(mean, std, percent=name in SHARES)),)


def _last(run: MeasuredRun, name: str) -> float:
    if name not in run.survey.network:
        return float("nan")
    values = run.survey.network[name].values
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else float("nan")
