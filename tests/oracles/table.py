"""Write the matrix of oracles into docs/reliability.md: ``python -m tests.oracles.table``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from tests.oracles.matrix import RUNS
from tests.oracles.plain import ORACLES

DOCUMENT = Path(__file__).parents[2] / "docs" / "reliability.md"
START, END = "<!-- oracles -->", "<!-- end of oracles -->"
MODULES = ("weights", "networks", "replayed", "updates", "images", "subnetworks", "saliency")


def load() -> None:
    """Import every family, so that its oracles are registered."""
    for name in MODULES:
        import_module(f"tests.oracles.{name}")


def render() -> str:
    """Return the two tables: what is compared under which settings, and how closely."""
    load()
    lines = ["| run | settings |", "|---|---|"]
    lines += [f"| `{name}` | {row.what} |" for name, row in RUNS.items()]
    lines += ["", "| what | oracle in `tests/oracles` | agrees to | from |", "|---|---|---|---|"]
    for (kind, name), entry in sorted(ORACLES.items()):
        module = entry.function.__module__.rpartition(".")[2]
        place = f"`{module}.{entry.function.__name__}`"
        lines.append(f"| {kind} `{name}` | {place} | {entry.tolerance} | {entry.source} |")
    return "\n".join(lines)


def insert(text: str) -> str:
    """Put the tables between the markers."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{render()}\n\n{END}{after}"


def main() -> None:
    """Write the tables into the documentation."""
    DOCUMENT.write_text(insert(DOCUMENT.read_text()))
    sys.stdout.write(f"{DOCUMENT}\n")


if __name__ == "__main__":
    main()
