"""Lay out the phases of early training as a table: the paper's findings beside the evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ckptlab.analyze.weights.timeline import LONG_NAMES, PHASES
from ckptlab.report.html.outline import Heading, Row, Table, Value

SHARES = ("sign_flips", "accuracy")
"""Evidence that is written per cent."""

Cell = tuple[Value, ...]

VERDICTS = {"yes": Value("✓ agrees", verdict="known"), "no": Value("✕ differs", verdict="known")}


def phase_table(
    spans: Mapping[str, str], cell: Callable[[str, str], Cell], names: Sequence[str]
) -> Table:
    """Make the table of the phases in `spans`, which names the steps of each.

    `cell(phase, name)` gives the evidence called `name`, or the verdict for ``agrees``; rows
    without any are left out.
    """
    findings = {phase.name: phase.finding for phase in PHASES}
    rows = [
        Row(
            name="The paper found",
            cells=tuple((Value(findings.get(phase, "–")),) for phase in spans),
            finding=True,
        )
    ]
    for name in names:
        cells = tuple(cell(phase, name) for phase in spans)
        if any(value.text != "–" for values in cells for value in values):
            rows.append(Row(name=_title(name), cells=cells))
    heads = (
        Heading(phase.capitalize(), note=steps, phase=k)
        for k, (phase, steps) in enumerate(spans.items())
    )
    return Table(
        style="phases",
        label="Phases, table",
        corner="Evidence",
        heads=tuple(heads),
        rows=tuple(rows),
    )


EVIDENCE: tuple[str, ...] = (
    *(name for name in LONG_NAMES if name not in ("start", "stop", "gradient_min_step")),
    "agrees",
)
"""The rows of the table, in order."""


def verdict(agrees: str) -> Value:
    """Write a verdict; what is neither yes nor no, such as ``not evaluated``, stands as it is."""
    return VERDICTS.get(agrees, Value(agrees, verdict="unknown"))


def count_verdicts(verdicts: Sequence[str]) -> Value:
    """Say how many of several runs agree, and why others were not counted."""
    known = [text for text in verdicts if text in VERDICTS]
    others = sorted(set(verdicts) - {"yes", "no", ""})
    if not known:
        return Value(", ".join(others) or "–", verdict="unknown")
    agree = f"{known.count('yes')} of {len(known)} agree"
    left = len(verdicts) - len(known)
    return Value(f"{agree}; {left} {', '.join(others)}" if left and others else agree)


def _title(name: str) -> str:
    if name == "agrees":
        return "Compared with the paper"
    unit, title = LONG_NAMES[name]
    return title[:1].upper() + title[1:] + ("" if unit == "1" else f" [{unit}]")
