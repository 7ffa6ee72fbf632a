"""Apply a function to the histories of weights: some weights at many steps, as matrices.

For what the one pass of `moments` does not sum: products of steps, higher powers, equal bits. Tasks
own a stretch of parameters and a span of steps, so memory grows with neither.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.engine.executor import open_executor
from ckptlab.analyze.engine.memory import share_memory
from ckptlab.analyze.engine.moments import combine_tree
from ckptlab.analyze.engine.selection import Rows, Selection
from ckptlab.analyze.engine.source import BlockGrid, Source
from ckptlab.errors import LayoutError
from ckptlab.store.format.zarr_metadata import CHUNK_PARAMETERS

Array = npt.NDArray[Any]

SLAB_BYTES = 2**26
"""Float64 bytes of the weights at all its steps that one task holds."""

SPAN = 256
"""Recorded steps that one task reads, beside those before the first of them."""


@dataclass(frozen=True, slots=True)
class Histories:
    """Some weights at some recorded steps.

    `values` float32, shape (weights, wanted), one for each array asked for; `wanted` are positions
    of recorded steps, `at` where among them the selected steps of the span are; `group`, shape
    (weights,), counts from 0; `reference`, (weights,) or (weights, n), is what to compare with.
    """

    values: tuple[Array, ...]
    wanted: Array
    at: Array
    group: Array
    reference: Array | None


def histories_task(
    grids: list[tuple[list[Any], list[slice]]],
    span: Array,
    wanted: Array,
    rows: Rows,
    part: slice,
    reference: Array | None,
    function: Callable[[Histories], Any],
) -> Any:
    """Read the histories of some weights and apply the function; runs in a dask task.

    For each array, blocks and the recorded steps that they hold; `part` is the stretch of the
    blocks to take, `span` and `wanted` are positions of recorded steps.
    """
    group = rows.group()
    inside = np.flatnonzero(group >= 0)
    found = []
    for blocks, columns in grids:
        path = np.empty((len(inside), len(wanted)), np.float32)
        for block, stretch in zip(blocks, columns, strict=True):
            a, b = np.searchsorted(wanted, [stretch.start, stretch.stop])
            path[:, a:b] = block.take(inside + part.start, wanted[a:b] - stretch.start)
        found.append(path)
    kept = None if reference is None else reference[inside]
    at = np.searchsorted(wanted, span)
    return function(Histories(tuple(found), wanted, at, group[inside], kept))


def fold_histories(
    source: Source,
    selection: Selection,
    function: Callable[[Histories], Any],
    combine: Callable[[Any, Any], Any] = np.add,
    *,
    columns: Array | None = None,
    whole: bool = False,
    lead: int = 0,
    arrays: tuple[str, ...] = ("weights",),
    reference: Array | None = None,
    scheduler: Any = None,
    memory: Any = None,
) -> list[Any]:
    """Combine over stretches of the selected weights what a function makes of their histories.

    Returns one result for each span of the selected steps, or of `columns`, or for all of them if
    `whole`. A span is handed over with the `lead` recorded steps before each of its steps.
    """
    from dask.delayed import delayed

    task, join = delayed(histories_task, pure=False), delayed(combine, pure=False)
    columns = selection.columns if columns is None else columns
    spans = [columns] if whole else _spans(columns, lead)
    with open_executor(scheduler) as executor:
        # What is read, and what the function makes of it in float64.
        width = (4 * len(arrays) + 8) * (len(columns) if whole else SPAN + lead)
        least = width * CHUNK_PARAMETERS
        share = share_memory(source, arrays[0], 0, executor.workers, memory, least)
        grids = [source.grid(name, share.pieces) for name in arrays]
        if any(grid.rows != grids[0].rows for grid in grids):
            raise LayoutError(
                f"{' and '.join(arrays)} of {source.path} are cut differently along `param`; chunk "
                "the dataset alike, or pass the run"
            )
        # Whole chunks, so that none is decoded twice.
        slab = CHUNK_PARAMETERS * max(1, min(SLAB_BYTES, share.bytes) // least)
        totals = []
        for own in spans:
            wanted = np.unique(np.maximum(own[:, None] - np.arange(lead + 1), 0))
            tasks = []
            for i, stretch in enumerate(grids[0].rows):
                blocks = [_held(grid, i, wanted) for grid in grids]
                for start in range(stretch.start, stretch.stop, slab):
                    rows = slice(start, min(start + slab, stretch.stop))
                    chosen = selection.rows(rows)
                    if chosen.selected:
                        part = slice(start - stretch.start, rows.stop - stretch.start)
                        kept = None if reference is None else reference[rows]
                        tasks.append(task(blocks, own, wanted, chosen, part, kept, function))
            totals.append(combine_tree(tasks, join))
        found: list[Any] = executor.compute(totals, share.workers)
    return found


def _spans(columns: Array, lead: int) -> list[Array]:
    """Cut steps into spans that need at most `SPAN` recorded steps, and `lead` before these."""
    needed = np.minimum(np.diff(columns, prepend=columns[:1] - lead - 1), lead + 1).cumsum()
    return np.split(columns, np.flatnonzero(np.diff((needed - 1) // SPAN)) + 1)


def _held(grid: BlockGrid, i: int, wanted: Array) -> tuple[list[Any], list[slice]]:
    """Return the blocks of a stretch that hold a wanted step, and the steps that they hold."""
    held = [
        j for j, c in enumerate(grid.columns) if ((wanted >= c.start) & (wanted < c.stop)).any()
    ]
    return [grid.blocks[i][j] for j in held], [grid.columns[j] for j in held]


def sum_over_paths(
    source: Source,
    selection: Selection,
    columns: Array,
    function: Callable[[Array], Array],
    scheduler: Any = None,
    memory: Any = None,
) -> Array:
    """Sum over stretches of the selected weights what a function makes of their whole histories.

    The function gets float64, shape (weights, columns).
    """
    (total,) = fold_histories(
        source,
        selection,
        partial(_on_path, function),
        columns=columns,
        whole=True,
        scheduler=scheduler,
        memory=memory,
    )
    return np.asarray(total)


def _on_path(function: Callable[[Array], Array], histories: Histories) -> Array:
    return function(histories.values[0].astype(float))


def sum_groups(values: Array, group: Array, groups: int) -> Array:
    """Sum rows by group in float64, shape (groups, columns)."""
    total = np.zeros((groups, values.shape[1]))
    if len(group):
        # Weights of a tensor are neighbours: few runs, whatever the number of weights.
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        np.add.at(total, group[starts], np.add.reduceat(values, starts, axis=0, dtype=float))
    return total
