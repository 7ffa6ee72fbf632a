"""How things are measured: variants interleaved in one run, medians and spread of ratios.

Absolute times depend on the machine and on who else uses it; ratios taken side by side much less.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PACKAGES = ("torch", "numpy", "zarr", "numcodecs", "pcodec", "xarray", "numba")


def interleave(
    variants: Mapping[str, Callable[[], float]],
    rounds: int,
    baseline: str,
    fewer: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Run every variant once a round, and compare each with the baseline of its own round.

    Parameters
    ----------
    variants : mapping of str to callable
        Each runs once and returns what it measured, in seconds.
    rounds : int
        How often; the order turns from round to round, so that none always comes first.
    baseline : str
        The variant the others are divided by.
    fewer : mapping of str to int, optional
        Variants that are run in the first rounds only.

    Returns
    -------
    dict
        For each variant its seconds, the ratio to the baseline (median) and its spread (quartiles).
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds):
        names = [name for name in variants if turn < (fewer or {}).get(name, rounds)]
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(variants[name]())
            print(f"  round {turn + 1}: {name} {seconds[name][-1]:.2f} s", flush=True)
    rows = {}
    for name, measured in seconds.items():
        ratios = [a / b for a, b in zip(measured, seconds[baseline], strict=False)]
        rows[name] = {
            "seconds": statistics.median(measured),
            "ratio": statistics.median(ratios),
            "quartiles": quartiles(ratios),
            "all_seconds": measured,
        }
        median, ratio = rows[name]["seconds"], rows[name]["ratio"]
        print(f"  {name:28} {median:9.3f} s   x{ratio:.3f}", flush=True)
    return rows


def wait_for(device: Any) -> None:
    """Wait until a device has done what it was asked."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the first and the third quartile."""
    if len(values) < 2:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def machine() -> dict[str, Any]:
    """Describe hardware, versions and commit."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    commit = os.environ.get("CKPTLAB_COMMIT", "") or _head()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in PACKAGES},
        "commit": commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _head() -> str:
    """Return the commit; a machine without git names it in CKPTLAB_COMMIT."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip()


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def save(name: str, result: Mapping[str, Any], only: str = "") -> None:
    """Write a benchmark's result into the file of this machine.

    Parameters
    ----------
    name : str
        Of the benchmark.
    result : mapping
        What it found.
    only : str
        If some cases alone were run, what their titles hold: the others' results stay.
    """
    here = machine()
    label = here["gpu"] or f"{here['cpu']}-{here['cores']}-cores"
    slug = "".join(c if c.isalnum() else "-" for c in label.lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{slug}.json"
    held = json.loads(path.read_text()) if path.exists() else {}
    targets = [asdict(target) for target in result.get("targets", ())]
    tables = [{**table, "commit": here["commit"]} for table in result["tables"]]
    if only and name in held:
        before = held[name]
        targets = [t for t in before["targets"] if only not in t["question"]] + targets
        kept = [t for t in before["tables"] if only not in t["title"]]
        tables = [{"commit": before["machine"]["commit"], **t} for t in kept] + tables
    held[name] = {"machine": here, **result, "tables": tables, "targets": targets}
    path.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")


def render() -> None:
    """Write docs/benchmarks.md from the result files; no figure in it is typed by hand."""
    from benchmarks.targets import promises

    results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# Benchmarks",
        "",
        "Rendered by `make bench` from `benchmarks/results/`; ratios are of variants that ran",
        "interleaved in one process, median and quartiles. `python -m benchmarks NAME` runs one.",
        "",
        *promises(results),
    ]
    for held in results:
        for name, result in held.items():
            here = result["machine"]
            hardware = here["gpu"] or f"{here['cpu']}, {here['cores']} cores"
            versions = ", ".join(f"{k} {v}" for k, v in here["versions"].items())
            where = f"`python -m benchmarks {name}` on {hardware}; commit {here['commit']}"
            lines += [f"## {result['question']}", "", f"{where}, {here['date']}; {versions}.", ""]
            for table in result["tables"]:
                lines += _table(table, here["commit"])
    DOCS.write_text("\n".join(lines))


def _table(table: Mapping[str, Any], commit: str) -> list[str]:
    measured = table.get("commit", commit)
    notes = [table.get("note", ""), f"Measured at commit {measured}." if measured != commit else ""]
    note = " ".join(filter(None, notes))
    header = table["columns"]
    rows = [
        f"**{table['title']}**",
        "",
        "| " + " | ".join(header) + " |",
        "|---" * len(header) + "|",
    ]
    rows += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in table["rows"]]
    return [*rows, "", *([note, ""] if note else [])]


def ratio_table(title: str, rows: Mapping[str, Any], note: str = "") -> dict[str, Any]:
    """Turn the result of `interleave` into a table."""
    return {
        "title": title,
        "columns": ["variant", "seconds", "ratio", "quartiles"],
        "rows": [
            [
                name,
                f"{row['seconds']:.3f}",
                f"{row['ratio']:.3f}",
                f"{row['quartiles'][0]:.3f}-{row['quartiles'][1]:.3f}",
            ]
            for name, row in rows.items()
        ],
        "note": note,
    }
