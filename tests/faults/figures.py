"""Figures of the long fault tests: kept with where and when, rendered into docs/reliability.md.

`make soak` runs the tests and then ``python -m tests.faults.figures``; no figure there is typed by
hand, and a test compares.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.measure import machine

RESULTS = Path(__file__).parent / "figures.json"
DOCS = Path(__file__).parent.parent.parent / "docs" / "reliability.md"

_PLACE = re.compile(r"(<!-- figures: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def note(table: str, row: str, **figures: Any) -> None:
    """Keep one row of a table, and print it.

    Parameters
    ----------
    table : str
        Such as ``"kills"``: where it goes in the docs.
    row : str
        What it was measured on.
    **figures
        Numbers or text, by column.
    """
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    rows = held.get(table, {}).get("rows", {})
    held[table] = {"machine": machine(), "rows": {**rows, row: figures}}
    RESULTS.write_text(json.dumps(held, indent=1, sort_keys=False) + "\n")
    print(f"\nFIGURE {table}, {row}: " + ", ".join(f"{k} {v}" for k, v in figures.items()))


def rendered(text: str, held: dict[str, Any]) -> str:
    """Return the page with every table between its marks replaced.

    Parameters
    ----------
    text : str
        The page.
    held : dict
        Content of the results file.

    Returns
    -------
    str
        The page with the figures.
    """

    def table(match: re.Match[str]) -> str:
        return match[1] + "\n" + _table(held[match[2]]) + "\n" + match[3]

    return _PLACE.sub(table, text)


def _table(held: dict[str, Any]) -> str:
    rows, here = held["rows"], held["machine"]
    columns = list(next(iter(rows.values())))
    lines = [
        "| " + " | ".join(["", *(column.replace("_", " ") for column in columns)]) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, figures in rows.items():
        lines.append("| " + " | ".join([name, *(_cell(figures[c]) for c in columns)]) + " |")
    if len(rows) > 1:
        sums = [_sum([figures[c] for figures in rows.values()], c) for c in columns]
        lines.append("| " + " | ".join(["**together**", *sums]) + " |")
    versions = ", ".join(f"{k} {v}" for k, v in here["versions"].items())
    where = f"`make soak` on {here['cpu']}, {here['cores']} cores; commit {here['commit']}"
    return "\n".join([*lines, "", f"{where}, {here['date']}; {versions}.", ""])


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _sum(values: list[Any], column: str) -> str:
    if not all(isinstance(value, int) for value in values):
        return ""
    whole = max(values) if column.startswith("most") else sum(values)
    return f"**{whole:,}**"


def main() -> None:
    """Render the page anew."""
    DOCS.write_text(rendered(DOCS.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
