"""``ckptlab info``: show what a run holds."""

from __future__ import annotations

from typing import Any

import click

from ckptlab.cli.options import json_option, print_json
from ckptlab.store.read.info import human_bytes


@click.command()
@click.argument("run")
@json_option
def info(run: str, as_json: bool) -> None:
    """Show what RUN holds: steps, tensors, bytes, compression, state, settings."""
    from ckptlab.store.read.info import run_facts
    from ckptlab.store.read.reader import open_store

    facts = run_facts(open_store(run))
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ratio = f"{facts['ratio']:.2f}" if facts["ratio"] else "-"
    span = f"{facts['first_step']}..{facts['last_step']}" if facts["steps"] else "none"
    rows = {
        "state": facts["state"],
        "steps": f"{facts['steps']:,} ({span})",
        "tensors": f"{facts['tensors']:,}",
        "parameters": f"{facts['parameters']:,}",
        "weights": f"{human_bytes(facts['raw_bytes'])} raw, "
        f"{human_bytes(facts['stored_bytes'])} stored, ratio {ratio}",
        "all files": human_bytes(facts["total_stored_bytes"]),
        "codec": f"{facts['codec']}, blocks of {facts['block']} steps",
        "arrays": ", ".join(facts["arrays"]),
        "seeds": ", ".join(f"{name} {seed}" for name, seed in facts["seeds"].items()) or "-",
        "device": f"{facts['device'].get('model', '-')}, {facts['threads']} threads",
        "versions": ", ".join(f"{name} {v}" for name, v in facts["versions"].items()),
        "started": str(facts["started"]),
    }
    if facts["branch"]:
        rows["branch"] = " ".join(f"{key}={value}" for key, value in facts["branch"].items())
    if facts["density"] is not None:
        rows["density"] = f"{facts['density']:.3f} of the prunable weights"
    for section, settings in facts["config"].items():
        if isinstance(settings, dict):
            chosen = [f"{key}={value}" for key, value in settings.items() if value is not None]
            rows[section] = " ".join(chosen)
    table = Table(title=Text(facts["path"]), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(value))
    Console().print(table)
