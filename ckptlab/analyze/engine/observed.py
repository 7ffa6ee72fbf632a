"""Take what was summed while recording in place of a pass over the weights, where it is enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.engine.fields import COMBINE, PREVIOUS
from ckptlab.analyze.engine.partial_sums import NaNSpot
from ckptlab.analyze.engine.source import Source, StoredSource
from ckptlab.store.format import schema
from ckptlab.store.read.ancestry import is_branch

if TYPE_CHECKING:
    from ckptlab.analyze.engine.selection import Reference, Selection

Array = npt.NDArray[Any]


class ObservedSource(StoredSource):
    """A run at its observed steps; their snapshots may not be stored."""

    def __init__(self, recorded: StoredSource) -> None:
        super().__init__(recorded.run)
        self.recorded = recorded
        self.steps = np.asarray(recorded.run.observed)

    def has(self, name: str) -> bool:
        """Return whether an array is there, at observed or other steps."""
        return super().has(schema.OBSERVED_SERIES + name) or super().has(name)

    def small(self, name: str) -> Array:
        """Read a small array, at the observed steps if it is over steps."""
        observed = schema.OBSERVED_SERIES + name
        return super().small(observed if super().has(observed) else name)


def observed(source: Source, relative_to: Any = None, mask: Any = None) -> Source:
    """Return the source at its observed steps, if they are enough for a measurement.

    Enough are sums against ``init`` or ``previous`` without a mask, at as many steps as are stored.
    """
    start = source.attributes.get("start_step", 0)
    known = relative_to in (None, "previous", start, str(start))
    known |= relative_to == "init" and not is_branch(source.attributes)
    if type(source) is not StoredSource or not known or mask is not None:
        return source
    run = source.run
    if run.observed is None or len(run.observed) < len(run.steps) or schema.MASK in run.arrays:
        return source
    return ObservedSource(source)


def observed_sums(
    source: ObservedSource, selection: Selection, references: Mapping[int, Reference]
) -> tuple[dict[tuple[str, str | int | None], Array], dict[int, NaNSpot]]:
    """Pool what was summed for each tensor; return the sums of `Moments`, and NaN by tensor.

    Against a step other than the first, there are sums at the steps of other references and the
    last one, where snapshots are stored; elsewhere NaN.
    """
    rows = _pooled(source, selection)
    before = {name: rows[name][:, np.maximum(selection.columns - 1, 0)] for name in _SINGLE}
    origin = {name: rows[name][:, :1] for name in ("square", "total", "nan")}
    spots = _nan_spots(source, selection)
    found = {name: values[:, selection.columns] for name, values in rows.items()}
    # A run that was resumed between two observed steps has lost the previous one.
    lost = np.isnan(found["distance_previous"]) & (found["nan"] + before["nan"] == 0)
    first = (selection.columns == 0) | lost
    bad, empty = found["nan"] > 0, (selection.weights == 0)[:, None]
    unknown = first | bad | (before["nan"] > 0)
    sums: dict[tuple[str, str | int | None], Array] = {
        ("magnitude", None): found["magnitude"],
        ("square", None): found["square"],
        ("nan", None): found["nan"],
        ("zeros", None): selection.weights[:, None] - found["signs"] - found["nan"],
        ("low", None): np.where(bad | empty, np.nan, found["low"]),
        ("high", None): np.where(bad | empty, np.nan, found["high"]),
        ("distance", PREVIOUS): np.where(first, np.nan, found["distance_previous"]),
        ("flips", PREVIOUS): np.where(unknown, np.nan, found["flips_previous"]),
        ("square", PREVIOUS): np.where(first, np.nan, before["square"]),
        ("difference", PREVIOUS): np.where(first, np.nan, found["total"] - before["total"]),
        ("product", PREVIOUS): np.where(first, np.nan, found["product_previous"]),
    }
    for step, reference in references.items():
        if reference.column == 0:
            sums["distance", step] = found["distance_init"]
            sums["flips", step] = np.where(bad | (origin["nan"] > 0), np.nan, found["flips_init"])
            sums["difference", step] = found["total"] - origin["total"]
            sums["product", step] = found["product_init"]
            sums["square", step] = origin["square"]
        else:
            sums |= _from_snapshots(source, selection, step, references)
    return sums, spots


_SINGLE = ("square", "total", "nan")
"""Sums of the previous step that are asked for at this one."""


def _pooled(source: ObservedSource, selection: Selection) -> dict[str, Array]:
    """Combine the tensors of each group, shape (groups, observed_step), by the name of the sum."""
    members = [np.flatnonzero(selection.tensor_group == g) for g in range(len(selection.names))]

    def pool(values: Array, how: Any, start: float) -> Array:
        return np.stack([how.reduce(values[own], axis=0, initial=start) for own in members])

    pooled: dict[str, Array] = {}
    for array, (_, names) in schema.SUMS.items():
        table = source.run.small(array)
        for row, name in enumerate(names):
            start = {"low": np.inf, "high": -np.inf}.get(name, 0.0)
            pooled[name] = pool(table[row].astype(float), COMBINE.get(name, np.add), start)
    return pooled


def _nan_spots(source: ObservedSource, selection: Selection) -> dict[int, NaNSpot]:
    names = schema.SUMS["observed_counts"][1]
    nan = source.run.small("observed_counts")[names.index("nan")][:, selection.columns]
    spots = {}
    for tensor in np.flatnonzero(nan.any(axis=1) & (selection.tensor_group >= 0)):
        at = selection.columns[np.flatnonzero(nan[tensor])]
        spots[int(tensor)] = NaNSpot(int(at[0]), int(at[-1]), int(nan[tensor].sum()))
    return spots


def _from_snapshots(
    source: ObservedSource, selection: Selection, step: int, references: Mapping[int, Reference]
) -> dict[tuple[str, str | int | None], Array]:
    """Compare stored snapshots with that of `step`."""
    shape = len(selection.names), len(selection.steps)
    found = {name: np.full(shape, np.nan) for name in ("distance", "flips", "square")}
    stored = set(source.recorded.steps.tolist())
    wanted = {*references, int(selection.steps[-1])} & stored
    group = selection.group if step in stored and wanted else np.zeros(0, np.int32)
    chosen = group >= 0

    def read(at: int) -> Array:
        return source.run.snapshot(at)[chosen].astype(float)

    def pool(values: Array) -> Array:
        return np.bincount(group[chosen], values, shape[0])

    if step in stored:
        origin = read(step)
        found["square"][:] = pool(origin * origin)[:, None]
        for at in wanted & set(selection.steps.tolist()):
            column = int(np.searchsorted(selection.steps, at))
            now = read(at)
            found["distance"][:, column] = pool((now - origin) ** 2)
            found["flips"][:, column] = pool((now * np.sign(origin) < 0).astype(float))
    return {(name, step): values for name, values in found.items()}
