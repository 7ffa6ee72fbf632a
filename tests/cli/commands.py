"""Running the command line as a user does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SMALL = ["-S", "model.name=mlp", "-S", "train.threads=1"]


def ckptlab(*arguments: str | Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    command = [sys.executable, "-m", "ckptlab", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
