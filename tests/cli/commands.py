"""Running the command line as a user does."""

from __future__ import annotations

import contextlib
import io
import subprocess
import warnings
from pathlib import Path

from tests.forks import run_forked

SMALL = ["-S", "model.name=mlp", "-S", "train.threads=1"]


def ckptlab(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process: starting one costs seconds."""
    from ckptlab.cli import main

    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),  # puts back how they are shown, too
    ):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def ckptlab_process(
    *arguments: str | Path, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, where it leaves something behind in it."""
    from ckptlab.cli import main

    return run_forked(main, [str(argument) for argument in arguments], timeout=timeout)
