"""What a page says in words and tables: key figures, phases, and the run card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ckptlab.analyze.weights.timeline import LONG_NAMES, PHASES, Phase
from ckptlab.report.html.markup import Markup, joined, tag
from ckptlab.report.html.numbers import number
from ckptlab.report.runs.measure import Measured
from ckptlab.store.read.info import human_bytes

Groups = dict[str, dict[str, str]]
"""Facts by heading and name."""

VERDICTS = {"yes": ("✓ agrees", "known"), "no": ("✕ differs", "known")}

SHARES = ("sign_flips", "accuracy")
"""Evidence that is written per cent."""


def figures(runs: Sequence[Measured]) -> Markup:
    """Show the key figures.

    Parameters
    ----------
    runs : sequence of Measured
        Those of the page.

    Returns
    -------
    Markup
        Large for one run, a table for several.
    """
    shown = [_figures(run) for run in runs]
    known = [name for name in shown[0] if any(figures[name] != "–" for figures in shown)]
    if len(runs) > 1:
        rows = {name.capitalize(): [figures[name] for figures in shown] for name in known}
        return side_by_side(runs, "Key figures", rows)
    pairs = (tag("div", tag("dt", name), tag("dd", shown[0][name])) for name in known)
    return tag("dl", *pairs, class_="tiles")


def _figures(run: Measured) -> dict[str, str]:
    facts = run.facts
    return {
        "snapshots": f"{facts['steps']:,}",
        "parameters": f"{facts['parameters']:,}",
        "test accuracy, last": number(_last(run, "eval_accuracy"), percent=True),
        "signs changed": number(_last(run, "sign_flips_init"), percent=True),
        "distance moved": number(_last(run, "weight_distance_init")),
        "stored weights": human_bytes(facts["stored_bytes"]),
        "smaller than float32": f"{facts['ratio']:.2f} ×" if facts["ratio"] else "–",
    }


def phases(runs: Sequence[Measured]) -> Markup:
    """Show the phases of early training side by side, with the evidence for each.

    Parameters
    ----------
    runs : sequence of Measured
        Those of the page.

    Returns
    -------
    Markup
        A table with a column for each phase that a run reaches.
    """
    reached = [p for p in PHASES if any(p.name in r.survey.timeline["phase"].values for r in runs)]
    rows = [
        tag("tr", tag("th", "The paper found", scope="row"), *_findings(reached), class_="finding")
    ]
    for name in (n for n in LONG_NAMES if n not in ("start", "stop", "gradient_min_step")):
        rows += _evidence(runs, reached, name)
    rows += _evidence(runs, reached, "agrees")
    head = [
        tag(
            "th",
            phase.name.capitalize(),
            tag("span", _span(runs, phase.name), class_="steps"),
            scope="col",
            data_phase=k,
        )
        for k, phase in enumerate(reached)
    ]
    table = tag(
        "table",
        tag(
            "thead",
            tag("tr", tag("th", tag("span", "Evidence", class_="unseen"), scope="col"), *head),
        ),
        tag("tbody", *rows),
        class_="phases",
        style=f"min-width:{9 + 8 * len(reached)}rem",
    )
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label="Phases, table")


def card(runs: Sequence[Measured]) -> Markup:
    """Show all that is known about how the runs were made.

    Parameters
    ----------
    runs : sequence of Measured
        Those of the page.

    Returns
    -------
    Markup
        Lists for one run; for several a table, with what differs first.
    """
    groups = [_groups(run.facts) for run in runs]
    return lists(groups[0]) if len(runs) == 1 else _comparison(runs, groups)


def _comparison(runs: Sequence[Measured], groups: list[Groups]) -> Markup:
    keys = dict.fromkeys((title, k) for g in groups for title, rows in g.items() for k in rows)
    values = {key: [g.get(key[0], {}).get(key[1], "–") for g in groups] for key in keys}
    differ = {f"{t}: {k}": row for (t, k), row in values.items() if len(set(row)) > 1}
    same: Groups = {}
    for (title, key), row in values.items():
        if len(set(row)) == 1:
            same.setdefault(title, {})[key] = row[0]
    return joined(
        side_by_side(runs, "What differs", differ),
        tag("h3", "What is the same", class_="apart"),
        lists(same),
    )


def side_by_side(
    runs: Sequence[Measured], title: str, rows: Mapping[str, Sequence[str | Markup]]
) -> Markup:
    """Make a table with a column for each run.

    Parameters
    ----------
    runs : sequence of Measured
        Those of the page.
    title : str
        What the table is of.
    rows : mapping
        By what they say, a value for each run.

    Returns
    -------
    Markup
        It can be scrolled where the screen is narrow.
    """
    head = (
        tag("th", tag("i", class_="dot", data_run=k), run.name, scope="col")
        for k, run in enumerate(runs)
    )
    table = tag(
        "table",
        tag("thead", tag("tr", tag("th", title, scope="col"), *head)),
        tag(
            "tbody",
            *(
                tag("tr", tag("th", name, scope="row"), *(tag("td", value) for value in values))
                for name, values in rows.items()
            ),
        ),
        class_="compare",
    )
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=title)


def lists(groups: Groups) -> Markup:
    """List facts under their headings, side by side where there is room.

    Parameters
    ----------
    groups : dict
        Facts by heading and name.

    Returns
    -------
    Markup
        All of them.
    """
    return tag(
        "div",
        *(
            tag(
                "section",
                tag("h3", title),
                tag("dl", *(joined(tag("dt", k), tag("dd", v)) for k, v in rows.items())),
            )
            for title, rows in groups.items()
        ),
        class_="card",
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
    }
    groups |= settings(facts["config"])
    return {title: rows for title, rows in groups.items() if rows}


def settings(config: Any) -> Groups:
    """Write settings of any form as facts.

    Parameters
    ----------
    config : object
        Usually tables by section.

    Returns
    -------
    dict
        Those in no section first; what is None is left out.
    """
    tables = config if isinstance(config, Mapping) else {"config": config}
    groups = {
        "Settings": {str(k): written(v) for k, v in tables.items() if not isinstance(v, Mapping)}
    }
    for section, chosen in tables.items():
        if isinstance(chosen, Mapping):
            groups[f"Settings: {section}"] = {
                str(k): written(v) for k, v in chosen.items() if v is not None
            }
    return {title: rows for title, rows in groups.items() if rows}


def written(value: Any) -> str:
    """Write a setting of any form on one line."""
    if isinstance(value, list | tuple):
        return ", ".join(map(written, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {written(v)}" for k, v in value.items())
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _findings(reached: Sequence[Phase]) -> list[Markup]:
    return [tag("td", phase.finding) for phase in reached]


def _span(runs: Sequence[Measured], name: str) -> str:
    spans = []
    for run in runs:
        table = run.survey.timeline
        if name in table["phase"].values:
            row = table.sel(phase=name)
            spans.append((int(row["start"]), int(row["stop"])))
    return f"steps {min(a for a, _ in spans):,} to {max(b for _, b in spans):,}"


def _evidence(runs: Sequence[Measured], reached: Sequence[Phase], name: str) -> list[Markup]:
    """Make the row of one piece of evidence, unless nobody has it."""
    cells = [[_cell(run, phase.name, name) for run in runs] for phase in reached]
    if all(cell == "–" for column in cells for cell in column):
        return []
    title, unit = "Compared with the paper", "1"
    if name != "agrees":
        unit, title = LONG_NAMES[name]
    head = title[:1].upper() + title[1:] + ("" if unit == "1" else f" [{unit}]")
    row = (tag("td", *_beside(column)) for column in cells)
    return [tag("tr", tag("th", head, scope="row"), *row)]


def _beside(cells: Sequence[str | Markup]) -> list[str | Markup]:
    """Put the values of several runs into one cell, each with the colour of its run."""
    if len(cells) == 1:
        return list(cells)
    return [
        tag("span", tag("i", class_="dot", data_run=k), cell, class_="of")
        for k, cell in enumerate(cells)
        if cell != "–"
    ] or ["–"]


def _cell(run: Measured, phase: str, name: str) -> str | Markup:
    table = run.survey.timeline
    if phase not in table["phase"].values:
        return "–"
    row = table.sel(phase=phase)
    if name == "agrees":
        text, kind = VERDICTS.get(str(row["agrees"].item()), ("not measured", "unknown"))
        return tag("span", text, class_=f"verdict {kind}")
    text = number(float(row[name]), percent=name in SHARES)
    if name == "gradient_min" and text != "–":
        text += f" at step {int(row['gradient_min_step']):,}"
    return text


def _last(run: Measured, name: str) -> float:
    if name not in run.survey.network:
        return float("nan")
    values = run.survey.network[name].values
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else float("nan")
