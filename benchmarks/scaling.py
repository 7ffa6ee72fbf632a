"""Time and memory against steps and weights.

Every case is a process of its own, so that its peak memory is its own: it records a walk, then
another reads it with telemetry. Exponents are slopes of a straight line through the logarithms.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import apart, peak
from benchmarks.runs import RESNET20, Options, walk
from benchmarks.targets import Target
from ckptlab.run import open_run

COLUMNS = [
    "weights",
    "steps",
    "raw GB",
    "recorded in s",
    "recording's peak GiB",
    "telemetry in s",
    "telemetry's peak GiB",
    "state_dict in ms",
]


def run(options: Options) -> dict[str, Any]:
    """Record and measure walks of several lengths and sizes."""
    lengths = (64, 128) if options.quick else (1000, 4000, 16000)
    sizes = (100_000, 400_000) if options.quick else (100_000, 1_000_000, 5_000_000, 25_000_000)
    steps = 32 if options.quick else 64
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        by_steps = [_case(folder, n, RESNET20) for n in lengths]
        by_size = [_case(folder, steps, n) for n in sizes]
    finally:
        shutil.rmtree(folder)
    tables = [
        _table("With the steps", by_steps, 1),
        _table("With the weights", by_size, 0),
    ]
    growth = [by_steps[-1][k] / by_steps[0][k] for k in (4, 6)]
    span = f"{lengths[0]:,} to {lengths[-1]:,} steps"
    targets = [
        Target(f"memory of {what}, {span}", "flat", f"{ratio:.2f}x", "dense, 2 threads")
        for what, ratio in zip(("recording", "telemetry"), growth, strict=True)
    ]
    question = "How do time and memory grow with steps and weights?"
    return {"question": question, "tables": tables, "targets": targets}


def _case(folder: Path, steps: int, parameters: int) -> list[float]:
    path = folder / "walk.zarr"
    recorded = apart("benchmarks.scaling", "record", str(path), str(steps), str(parameters))
    measured = apart("benchmarks.memory", "telemetry", str(path))
    times = [float(cell) for said in (recorded, measured) for cell in said.split()]
    snapshot = _snapshot_ms(path)
    shutil.rmtree(path)
    raw = 4 * parameters * steps / 1e9
    row = [parameters, steps, raw, *times, snapshot]
    print(dict(zip(COLUMNS, row, strict=False)), flush=True)
    return row


def record(path: str, steps: str, parameters: str) -> None:
    """Record a walk, and print seconds and peak memory."""
    began = time.perf_counter()
    walk(Path(path), int(steps), int(parameters))
    print(time.perf_counter() - began, peak())


def _snapshot_ms(path: Path) -> float:
    run = open_run(str(path))
    run.state_dict(0)
    order = np.random.default_rng(0).choice(run.steps, 10)
    began = time.perf_counter()
    for step in order:
        run.state_dict(int(step))
    return 100 * (time.perf_counter() - began)


def _table(title: str, rows: list[list[float]], along: int) -> dict[str, Any]:
    exponents = [_exponent([row[along] for row in rows], [row[k] for row in rows]) for k in (3, 5)]
    cells = [
        [
            f"{row[0]:,.0f}",
            f"{row[1]:,.0f}",
            *(f"{value:.2f}" for value in row[2:7]),
            f"{row[7]:.1f}",
        ]
        for row in rows
    ]
    note = (
        f"Time grows with the power {exponents[0]:.2f} (recording, the walk itself included) and "
        f"{exponents[1]:.2f} (telemetry, compilation included)."
    )
    return {"title": title, "columns": COLUMNS, "rows": cells, "note": note}


def _exponent(x: list[float], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
