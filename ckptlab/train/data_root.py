"""Decide where the data of a recorded run are read from: a path in a run is not simply followed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from ckptlab.errors import DataError

VARIABLE = "CKPTLAB_DATA_ROOT"
"""Environment variable: the folder that is read in place of those that runs and studies name."""

_trusted = ContextVar("trusted", default=False)


def use_data_root(path: str | os.PathLike[str]) -> None:
    """Read data from this folder whatever a run names, here and in processes started later."""
    os.environ[VARIABLE] = str(Path(path).expanduser().absolute())


def named_root() -> str | None:
    """Return the folder of data that the user has named for all runs, if any."""
    return os.environ.get(VARIABLE) or None


@contextlib.contextmanager
def trusted_roots() -> Iterator[None]:
    """Follow the paths that runs name, as where the user has planned these runs."""
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


def root_of(root: str | None, run: str) -> str | None:
    """Return the folder that the data of a run are read from.

    Raises
    ------
    DataError
        If the run names one outside the folder it lies in, and the user has not.
    """
    named = named_root()
    if named:
        return named
    if root is None or _trusted.get() or _lies_beside(root, run):
        return root
    raise DataError(
        f"{run} reads its images from data.root={root!r}, outside the folder of the run; to read "
        f"them there, name it: --data-root {root}, or {VARIABLE}={root}",
        parameter="data.root",
        fix=f"--data-root {root}",
    )


def _lies_beside(root: str, run: str) -> bool:
    folder = Path(run).expanduser().resolve().parent
    return "://" not in run and Path(root).expanduser().resolve().is_relative_to(folder)
