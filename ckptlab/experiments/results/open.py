"""Open gathered results, which may be replaced as a whole at any moment."""

from __future__ import annotations

import json
import time
from collections.abc import Hashable
from pathlib import Path

import xarray as xr

from ckptlab.errors import StoreError

TRIES = 10
"""Attempts to read results that are replaced meanwhile."""

PAUSE = 0.01
"""Seconds between two attempts."""


def find_results(path: str | Path) -> Path | None:
    """Return the path of gathered results, given that or the experiment's folder; else None."""
    if "://" in str(path):
        return None
    for found in (Path(path) / "results.zarr", Path(path)):
        if _is_results(found):
            return found
    return None


def open_results(path: str | Path) -> xr.Dataset:
    """Open gathered results lazily; StoreError if there are none."""
    found = find_results(path)
    if found is None:
        raise StoreError(f"{path} holds no results of an experiment")
    try:
        dataset: xr.Dataset = xr.open_zarr(found, consolidated=True)
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise StoreError(f"{path} holds no results of an experiment") from error
    return dataset


def load_results(path: str | Path) -> xr.Dataset:
    """Load gathered results as of one moment, without the masks, which may be large.

    Lazy reading would take chunks for missing that were just replaced. StoreError if there are
    none, or they change all the time.
    """
    for attempt in range(TRIES):
        before = _stamp(path)
        try:
            dataset = open_results(path)
            masks: list[Hashable] = [n for n, v in dataset.variables.items() if "param" in v.dims]
            loaded = dataset.drop_vars(masks).load()
        except (OSError, StoreError):
            # Between the old ones and the new there are none for a moment.
            if _stamp(path) == before and (before is not None or attempt == TRIES - 1):
                raise
            time.sleep(PAUSE)
            continue
        if before is not None and _stamp(path) == before:
            return loaded
    raise StoreError(f"{path} is being written all the time; try again in a moment")


def _is_results(path: Path) -> bool:
    try:
        attributes = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError):
        return False
    return "kind" in attributes and "jobs" in attributes


def _stamp(path: str | Path) -> tuple[int, int] | None:
    """Return what differs from one writing of the results to the next."""
    found = find_results(path)
    try:
        status = None if found is None else (found / "zarr.json").stat()
    except OSError:
        return None
    return None if status is None else (status.st_ino, status.st_mtime_ns)
