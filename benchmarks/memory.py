"""Peak memory of a process of its own; imports no more than what is measured needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def peak() -> float:
    """Return the peak resident memory of this process in GiB.

    As the kernel counts it for this program: `getrusage` also counts the process that started it.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("the peak memory of a process is read from Linux's /proc")


def apart(module: str, function: str, *arguments: str) -> str:
    """Call a function in a process of its own, and return the last line it prints."""
    code = f"import sys; from {module} import {function}; {function}(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def telemetry(path: str) -> None:
    """Measure a run, and print seconds and peak memory, imports included in both."""
    import time

    began = time.perf_counter()
    import ckptlab

    ckptlab.open_run(path).analyze("telemetry")
    print(time.perf_counter() - began, peak())
