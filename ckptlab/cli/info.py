"""``ckptlab info``: what a run holds.

Imports store; neither torch nor xarray, so that it answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ckptlab.cli.options import human_bytes, json_option, print_json

if TYPE_CHECKING:
    from ckptlab.store.reader import StoredRun


@click.command()
@click.argument("run")
@json_option
def info(run: str, as_json: bool) -> None:
    """Say what RUN holds: steps, tensors, bytes, compression, state, settings."""
    from ckptlab.store.reader import open_store

    stored = open_store(run)
    sizes = stored.file_sizes()
    weight_bytes = sum(
        size
        for key, size in sizes.items()
        if key.startswith("weights/") and not key.endswith("zarr.json")
    )
    raw_bytes = 4 * stored.layout.parameters * len(stored.steps)
    facts: dict[str, Any] = {
        "path": stored.path,
        "state": stored.state,
        "steps": len(stored.steps),
        "first_step": int(stored.steps[0]) if len(stored.steps) else None,
        "last_step": int(stored.steps[-1]) if len(stored.steps) else None,
        "tensors": len(stored.layout.tensors),
        "parameters": stored.layout.parameters,
        "buffers": sum(stored.layout.buffer_sizes.values()),
        "arrays": list(stored.arrays),
        "raw_bytes": raw_bytes,
        "stored_bytes": weight_bytes,
        "ratio": raw_bytes / weight_bytes if weight_bytes else None,
        "total_stored_bytes": sum(sizes.values()),
        "codec": stored.attributes["codec"],
        "block": stored.attributes["block"],
        "anchors": len(stored.anchors),
        "config": stored.attributes.get("config", {}),
        "seeds": stored.attributes.get("seeds", {}),
        "threads": stored.attributes.get("threads"),
        "device": stored.attributes.get("device", {}),
        "versions": stored.attributes.get("versions", {}),
        "started": stored.attributes.get("started"),
        "branch": stored.attributes.get("branch"),
        "density": _density(stored),
    }
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _density(stored: StoredRun) -> float | None:
    """Return the share of prunable weights that a sparse training kept."""
    mask = stored.mask()
    if mask is None:
        return None
    prunable = [mask[t.offset : t.offset + t.size] for t in stored.layout.tensors if t.prunable]
    count = sum(len(part) for part in prunable)
    return sum(int(part.sum()) for part in prunable) / count if count else 1.0


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
