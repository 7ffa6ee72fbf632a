"""What does a large model take? Seconds and peak memory of reading commands, each on its own."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.memory import apart

if TYPE_CHECKING:  # torch counts in what is measured here
    from benchmarks.runs import Options

SIZES = ((126_000_000, 33), (400_000_000, 3))
"""Parameters, and snapshots."""

COMMANDS: dict[str, tuple[str, ...]] = {
    "verify": ("verify", "{run}"),
    "sign-flips": ("analyze", "sign-flips", "{run}"),
    "telemetry by tensor": ("analyze", "telemetry", "{run}", "--by", "tensor"),
    "report": ("report", "{run}", "-o", "{run}.html"),
}


def run(options: Options) -> dict[str, Any]:
    """Make a run of each size and read it; every command has its default memory of 2 GiB."""
    from benchmarks.targets import Target

    rows: list[list[str]] = []
    snapshot = ""
    for parameters, steps in ((1_000_000, 5),) if options.quick else SIZES:
        folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
        try:
            path = folder / "run.zarr"
            apart("benchmarks.large", "make", str(path), str(parameters), str(steps))
            size = f"{parameters / 1e6:,.0f} M, {steps} steps"
            seconds, held = apart("benchmarks.large", "read_one", str(path)).split()
            snapshot = snapshot or seconds
            rows.append([size, "run.state_dict(last)", f"{float(seconds):.1f}", held])
            for name, words in COMMANDS.items():
                print(f"  {size}: {name}", flush=True)
                found = apart("benchmarks.large", "command", *(w.format(run=path) for w in words))
                rows.append([size, name, *found.split()])
        finally:
            shutil.rmtree(folder)
    table = {
        "title": "Reading runs of large models",
        "columns": ["run", "command", "seconds", "peak GiB"],
        "rows": rows,
        "note": "Dense; processes of their own, imports included; `--memory` is 2 GiB.",
    }
    target = Target("one snapshot of 126 M parameters", "<= 3 s", f"{snapshot} s", "dense, warm")
    return {"question": "What does a large model take?", "tables": [table], "targets": [target]}


def make(path: str, parameters: str, steps: str) -> None:
    """Record a walk."""
    from benchmarks.runs import walk

    walk(Path(path), int(steps), int(parameters))
    print()


def read_one(path: str) -> None:
    """Read the last snapshot; print seconds, the best of three, and peak memory."""
    import ckptlab
    from benchmarks.memory import peak

    run, seconds = ckptlab.open_run(path), []
    for _ in range(3):
        began = time.perf_counter()
        run.state_dict(int(run.steps[-1]))
        seconds.append(time.perf_counter() - began)
    print(f"{min(seconds):.2f} {peak():.2f}")


def command(*words: str) -> None:
    """Run a command of `ckptlab`; print its seconds and this process's peak memory."""
    from benchmarks.memory import peak

    began = time.perf_counter()
    from ckptlab.cli import main

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main(words)
    except SystemExit as done:
        if done.code:
            raise
    print(f"{time.perf_counter() - began:.1f} {peak():.2f}")
