"""Find the initialisation of a run that branched from another: step 0 of its ancestor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import MissingStepError, StoreError
from ckptlab.store.format.layout import Layout
from ckptlab.store.read.reader import StoredRun, open_store

MOST_GENERATIONS = 64
"""Runs that branch from each other in a circle end here."""


def is_branch(attributes: Mapping[str, Any]) -> bool:
    """Return whether a run began at a later state of another, so that step 0 lies elsewhere."""
    return bool(attributes.get("branch")) and int(attributes.get("start_step", 0)) > 0


def find_ancestor(
    path: str, attributes: Mapping[str, Any], layout: Layout, first: npt.NDArray[Any] | None
) -> StoredRun:
    """Open the run that holds step 0 of a branch.

    Parameters
    ----------
    path : str
        The branch.
    attributes : mapping
        Its root attributes.
    layout : Layout
        Its tensors, which the ancestor must have as well.
    first : ndarray of float32, shape (param,), or None
        Its first weights, if they are at hand: those it kept must be the parent's.

    Returns
    -------
    StoredRun
        Whose step 0 is recorded.

    Raises
    ------
    MissingStepError
        If a run on the way is gone, is another one now, or did not record step 0.
    """
    for _ in range(MOST_GENERATIONS):
        parent = _open_parent(path, attributes, layout, first)
        path, attributes = parent.path, parent.attributes
        if not is_branch(attributes):
            if 0 not in parent.steps:
                raise MissingStepError(f"step 0 was not recorded in {path}, where the run begins")
            return parent
        first = parent.snapshot(int(parent.steps[0]))
    raise MissingStepError(f"step 0 is not found within {MOST_GENERATIONS} runs, last {path}")


def _open_parent(
    path: str, attributes: Mapping[str, Any], layout: Layout, first: npt.NDArray[Any] | None
) -> StoredRun:
    origin = attributes["branch"]
    named, step = str(origin["run"]), int(origin["step"])
    for candidate in _candidates(named, path):
        try:
            parent = open_store(candidate)
        except (StoreError, OSError):
            continue
        if parent.layout.tensors != layout.tensors or origin.get("new_tensors"):
            problem = "which has other tensors"
        elif not _continues(parent, step, attributes, first):
            problem = "which is another run now"
        else:
            return parent
        raise MissingStepError(f"step 0 lies in {candidate}, {problem}")
    raise MissingStepError(f"step 0 lies in {named}, which is not there")


def _candidates(named: str, path: str) -> Iterator[str]:
    """Yield where a parent may lie: where it was, and beside its branch if both were moved."""
    if "://" not in named:
        yield named
        if "://" not in path:
            yield str(Path(path).parent / PurePath(named).name)
    # An attribute must not send requests to a host that the user did not name.
    elif named.split("/")[:3] == path.split("/")[:3]:
        yield named


def _continues(
    parent: StoredRun, step: int, attributes: Mapping[str, Any], first: npt.NDArray[Any] | None
) -> bool:
    """Return whether a branch begins with the parent's weights, but for what was pruned."""
    if first is None or step not in parent.steps or "effective_std" in attributes:
        return True  # repeated up to there, or perturbed
    return bool(np.all((first == 0) | (first == parent.snapshot(step))))
