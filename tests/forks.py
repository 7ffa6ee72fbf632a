"""Processes that start at once: forked from a server that has imported torch already."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import dask
import distributed.utils
import pytest


def fork_server() -> ForkServerContext:
    """A context whose processes cost some tens of milliseconds instead of seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def run_forked(
    work: Callable[..., Any], *arguments: Any, folder: Path | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Call a function in a process of its own; return its exit code and what it printed."""
    with tempfile.TemporaryDirectory() as aside:
        told = [Path(aside, name) for name in ("out", "err")]
        process = fork_server().Process(
            target=_alone, args=(work, arguments, folder or Path.cwd(), dict(os.environ), told)
        )
        process.start()
        process.join(timeout)
        assert process.exitcode is not None, f"{work} takes more than {timeout} s"
        out, err = (file.read_text() for file in told)
    return subprocess.CompletedProcess(arguments, process.exitcode, out, err)


def run_code(code: str, *arguments: str, folder: Path | None = None) -> Any:
    """Do `run_forked` of what ``python -c`` would run."""
    return run_forked(_execute, code, arguments, folder=folder)


def _execute(code: str, arguments: tuple[str, ...]) -> None:
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def _alone(
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
    folder: Path,
    environment: dict[str, str],
    told: list[Path],
) -> None:
    """Be as a new process is: its folder, its environment, its own output."""
    os.chdir(folder)
    sys.path.insert(0, "")
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(told, 1):
        with file.open("wb") as opened:
            os.dup2(opened.fileno(), number)
    work(*arguments)


@contextlib.contextmanager
def workers_forked() -> Iterator[None]:
    """Have dask fork its workers, too, which see the environment that the server began with."""
    fork_server()
    with pytest.MonkeyPatch.context() as patch, _started_by("forkserver"):
        # Or it would name other modules to import.
        patch.setattr(distributed.utils, "_forkserver_preload_set", True)
        yield


def workers_spawned() -> AbstractContextManager[None]:
    """Have dask start workers as it does for users: each imports torch, for 10 s of a core."""
    return _started_by("spawn")


@contextlib.contextmanager
def _started_by(method: str) -> Iterator[None]:
    names = ("distributed.worker.multiprocessing-method", "multiprocessing.context")
    with dask.config.set(dict.fromkeys(names, method)):
        yield
