"""Keep results as committed files: a row for each cell, known by the hash of its job."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

DIGITS = 6
"""Significant digits that are kept."""

POINTS = 32
"""Steps of a curve that are kept, about evenly on a logarithmic axis."""

MARKS = (0, 10, 100, 200, 391, 500, 1000, 2000, 4000)
"""Steps that the paper or the independent trainer speak of."""

AROUND = 0.05
"""Share of the step on both sides that the mean around a point of a curve is over."""


def read(path: Path) -> dict[str, Any]:
    """Read a file of results; an empty one if there is none."""
    if not path.exists():
        return {"sources": [], "rows": []}
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return held


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write results aside, a row a line, and rename: a killed driver leaves the old file."""
    head = {k: v for k, v in results.items() if k != "rows"}
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in results["rows"])
    lines = [f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in head.items()]
    text = "{\n" + ",\n".join(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    aside.write_text(f'{text},\n "rows": [\n{rows}\n]}}\n', encoding="utf-8")
    aside.replace(path)


def merge(
    held: dict[str, Any], rows: Iterable[Mapping[str, Any]], source: Mapping[str, str]
) -> int:
    """Add rows whose cells are not there yet, and say where they come from; return how many."""
    there = {cell(row) for row in held["rows"]}
    added = [dict(row) for row in rows if cell(row) not in there]
    if added:
        if dict(source) not in held["sources"]:
            held["sources"].append(dict(source))
        number = held["sources"].index(dict(source))
        held["rows"] += [row if "source" in row else {**row, "source": number} for row in added]
        held["rows"].sort(key=lambda row: json.dumps(row["at"]))
    return len(added)


def cell(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return what tells a row from others: job and coordinates."""
    return row["job"], json.dumps(row["at"], sort_keys=True)


def rounded(value: Any) -> float | None:
    """Round to `DIGITS` significant digits; None for what is not finite."""
    number = float(value)
    return float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None


def reduced(result: xr.Dataset) -> dict[str, Any]:
    """Reduce what a metric measured: numbers, short vectors, and curves at some steps."""
    found: dict[str, Any] = {}
    for name, variable in result.data_vars.items():
        if variable.dtype.kind not in "fiu" or variable.ndim > 1:
            continue
        if variable.ndim == 0:
            found[str(name)] = rounded(variable)
        elif variable.dims[0] == "step":
            curve = _curve(result["step"].values, variable.values.astype(float))
            if curve is not None:
                found[str(name)] = curve
        else:
            found[str(name)] = [rounded(v) for v in variable.values]
    for dim in result.dims:
        if dim != "step" and dim in result.coords:
            values = result[dim].values
            text = values.dtype.kind not in "fiu"
            found[str(dim)] = [str(v) if text else rounded(v) for v in values]
    return found


def _curve(steps: Any, values: Any) -> dict[str, list[Any]] | None:
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if not len(steps):
        return None
    last = int(steps[-1])
    grid = np.geomspace(1, max(last, 2), POINTS).round().astype(int)
    wanted = sorted({*grid.tolist(), *MARKS, last} & set(steps.tolist()))
    if len(steps) <= POINTS:
        wanted = steps.tolist()
    curve: dict[str, list[Any]] = {
        "step": [int(s) for s in wanted],
        "value": [rounded(values[np.searchsorted(steps, s)]) for s in wanted],
    }
    # Single updates are noisy, but a window is one-sided at the ends: both are kept.
    if len(steps) > POINTS and last - steps[0] == len(steps) - 1:
        around = (values[np.abs(steps - s) <= AROUND * s] for s in wanted)
        curve["mean"] = [rounded(part.mean()) for part in around]
    return curve


def smooth(curve: Mapping[str, list[Any]]) -> list[Any]:
    """Return a curve's means around its steps; its values where not every step was measured."""
    return curve.get("mean", curve["value"])
