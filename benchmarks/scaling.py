"""Time and memory against steps and weights.

Every case is a process of its own, so that its peak memory is its own: it records a walk, then
another reads it with telemetry. Exponents are slopes of a straight line through the logarithms.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Target
from benchmarks.runs import RESNET20, Options, walk
from ckptlab.run import open_run

COLUMNS = [
    "weights",
    "steps",
    "raw GB",
    "recorded in s",
    "peak GiB",
    "telemetry in s",
    "peak GiB",
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
    recorded = _apart("record", path, steps, parameters)
    measured = _apart("measure", path, steps, parameters)
    shutil.rmtree(path)
    raw = 4 * parameters * steps / 1e9
    row = [parameters, steps, raw, *recorded, *measured]
    print(dict(zip(COLUMNS, row, strict=False)), flush=True)
    return row


def _apart(name: str, path: Path, steps: int, parameters: int) -> list[float]:
    code = "import sys; from benchmarks import scaling; scaling.main(*sys.argv[1:])"
    arguments = [name, str(path), str(steps), str(parameters)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(name: str, path: str, steps: str, parameters: str) -> None:
    """Record or measure in this process, and print seconds and peak memory as JSON."""
    began = time.perf_counter()
    if name == "record":
        walk(Path(path), int(steps), int(parameters))
        print(json.dumps([time.perf_counter() - began, _peak()]))
        return
    run = open_run(path)
    run.analyze("telemetry")
    seconds, peak = time.perf_counter() - began, _peak()
    run.state_dict(0)  # imports torch, which is not what is asked
    order = np.random.default_rng(0).choice(run.steps, 10)
    began = time.perf_counter()
    for step in order:
        run.state_dict(int(step))
    print(json.dumps([seconds, peak, 100 * (time.perf_counter() - began)]))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


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
