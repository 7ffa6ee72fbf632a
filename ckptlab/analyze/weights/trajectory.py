"""The path of the weights: single weights, and its principal components."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.executor import open_executor
from ckptlab.analyze.engine.labels import STEP_ATTRIBUTES
from ckptlab.analyze.engine.moments import compute_moments, warn_of_nan
from ckptlab.analyze.engine.partial_sums import NaNSpot, merge_spots, spots_of
from ckptlab.analyze.engine.selection import Selection, select
from ckptlab.analyze.engine.source import BlockGrid, Source
from ckptlab.errors import LayoutError, StepError
from ckptlab.store.format.zarr_metadata import CHUNK_PARAMETERS

Array = npt.NDArray[Any]

SLAB_BYTES = 2**26
"""Float64 bytes of the weights at all steps that one task of `subspace` holds."""


def trajectories(
    source: Source,
    *,
    steps: Any = None,
    kinds: Any = None,
    mask: Any = None,
    scheduler: Any = None,
    count: int = 10,
    seed: int = 0,
) -> xr.DataArray:
    """Values of a few randomly drawn weights at every step.

    Parameters
    ----------
    source : Source
        The recording.
    steps, kinds, mask : object
        As `selection.select` takes them.
    scheduler : object
        As `open_executor` takes it.
    count : int
        How many, drawn without replacement from all selected weights.
    seed : int
        Of NumPy's PCG64.

    Returns
    -------
    DataArray, dims (param, step)
        Coordinates: `param` is the position in the parameter vector, `tensor` its tensor.

    Raises
    ------
    LayoutError
        If fewer weights than `count` are selected.

    Warns
    -----
    NaNWarning
        If one of these weights is NaN at a selected step.
    """
    selection = select(source, steps=steps, kinds=kinds, mask=mask)
    candidates = np.flatnonzero(selection.group >= 0)
    if count > len(candidates):
        raise LayoutError(f"count {count} is more than the {len(candidates)} selected weights")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(candidates, count, replace=False))
    values = _histories(source, selection, chosen, scheduler)
    _warn_of_nan(source, selection, chosen, values)
    names = np.array([source.layout.names[t] for t in source.tensor_index[chosen]], object)
    return xr.DataArray(
        values,
        {
            "param": ("param", chosen, {"long_name": "position in the parameter vector"}),
            "tensor": ("param", names),
            "step": ("step", selection.steps, dict(STEP_ATTRIBUTES)),
        },
        ("param", "step"),
        "trajectories",
        {"seed": seed, "draw": "numpy PCG64, without replacement", **_pooling(selection)},
    )


def subspace(
    source: Source,
    *,
    steps: Any = None,
    kinds: Any = None,
    mask: Any = None,
    scheduler: Any = None,
    components: int = 10,
    points: int = 500,
) -> xr.Dataset:
    """Principal components of the path of the weights.

    Parameters
    ----------
    source : Source
        The recording.
    steps, kinds, mask : object
        As `selection.select` takes them.
    scheduler : object
        As `open_executor` takes it.
    components : int
        How many to return.
    points : int
        At most so many of the selected steps are used, evenly spaced, the last included. The work
        grows with its square, and steps so close lie in nearly the same place.

    Returns
    -------
    Dataset, dims (component,), (component, step)
        `explained_variance` (share); `projection` of w − w̄ on each component; `cosine` between
        w − w̄ and each component. w̄ is the mean over the steps used. Signs are such that the last
        projection is not negative.

    Raises
    ------
    StepError
        If fewer than two steps are selected.

    Warns
    -----
    NaNWarning
        If weights are NaN; everything is then, since a component is of all weights and steps.

    Notes
    -----
    From the Gram matrix over steps of the centred path, summed in float64 over stretches of
    parameters: nothing of the size of parameters × parameters is made.
    """
    selection = select(source, steps=steps, kinds=kinds, mask=mask)
    if len(selection.columns) < 2:
        raise StepError("principal components need at least 2 recorded steps; select more")
    at = _spaced(len(selection.columns), max(points, 2))
    columns, used = selection.columns[at], selection.steps[at]
    gram = _gram(source, selection, columns, scheduler)
    if not np.isfinite(gram).all():
        # Read again, rarely: this names tensors and steps.
        at_used = replace(selection, columns=columns, steps=used)
        compute_moments(source, at_used, previous=False, scheduler=scheduler)
    shares, projection = _principal(gram, min(components, len(columns) - 1))
    lengths = np.sqrt(np.maximum(np.diag(gram), 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = np.where(lengths > 0, projection / lengths, np.nan)
    by_step = ("component", "step")
    return xr.Dataset(
        {
            "explained_variance": ("component", shares, {"units": "1", "long_name": "share"}),
            "projection": (by_step, projection, {"units": "weight", "long_name": "projection"}),
            "cosine": (by_step, cosine, {"units": "1", "long_name": "cosine with component"}),
        },
        {
            "component": ("component", np.arange(1, len(shares) + 1)),
            "step": ("step", used, dict(STEP_ATTRIBUTES)),
        },
        {
            "total_variance": float(np.trace(gram) / len(columns)),
            "steps_selected": len(selection.columns),
            "steps_used": len(columns),
            **_pooling(selection),
        },
    )


def gram_task(
    blocks: list[Any], columns: list[slice], wanted: Array, rows: Array
) -> npt.NDArray[np.float64]:
    """Sum over some weights the products of their centred histories; runs in a dask task.

    Parameters
    ----------
    blocks : list of Block
        Those that hold the wanted steps, in order.
    columns : list of slice
        Recorded steps of each.
    wanted : ndarray of int64
        Positions of the recorded steps.
    rows : ndarray of int64
        Rows within the blocks.

    Returns
    -------
    ndarray of float64, shape (wanted, wanted)
        The Gram matrix of these weights.
    """
    path = np.empty((len(rows), len(wanted)))
    for block, stretch in zip(blocks, columns, strict=True):
        a, b = np.searchsorted(wanted, [stretch.start, stretch.stop])
        path[:, a:b] = block.take(rows)[:, wanted[a:b] - stretch.start]
    path -= path.mean(axis=1, keepdims=True)
    gram: npt.NDArray[np.float64] = path.T @ path
    return gram


def history_task(
    blocks: list[Any], columns: list[slice], wanted: Array, rows: Array
) -> list[Array]:
    """Read some weights at the wanted steps; runs in a dask task. See `gram_task`."""
    parts = []
    for block, stretch in zip(blocks, columns, strict=True):
        inside = wanted[(wanted >= stretch.start) & (wanted < stretch.stop)]
        parts.append(block.take(rows)[:, inside - stretch.start])
    return parts


def _histories(source: Source, selection: Selection, params: Array, scheduler: Any) -> Array:
    from dask.delayed import delayed

    grid = source.grid("weights")
    held = _held(grid, selection.columns)
    task = delayed(history_task, pure=False)
    lines = []
    for i, stretch in enumerate(grid.rows):
        rows = params[(params >= stretch.start) & (params < stretch.stop)] - stretch.start
        if len(rows):
            lines.append(
                [
                    task([grid.blocks[i][j]], [grid.columns[j]], selection.columns, rows)
                    for j in held
                ]
            )
    with open_executor(scheduler) as executor:
        done = executor.compute(lines)
    return np.concatenate(
        [np.concatenate([part for parts in line for part in parts], axis=1) for line in done]
    )


def _warn_of_nan(source: Source, selection: Selection, params: Array, values: Array) -> None:
    spots: dict[int, NaNSpot] = {}
    for row, column in np.argwhere(np.isnan(values)):
        tensor = source.tensor_index[params[row] : params[row] + 1]
        spots = merge_spots(spots, spots_of(tensor, int(selection.columns[column])))
    warn_of_nan(source, spots)


def _gram(source: Source, selection: Selection, columns: Array, scheduler: Any) -> Array:
    from dask.delayed import delayed

    grid = source.grid("weights")
    held = _held(grid, columns)
    task = delayed(gram_task, pure=False)
    # Whole chunks, so that none is decoded twice.
    slab = CHUNK_PARAMETERS * max(1, SLAB_BYTES // (8 * len(columns) * CHUNK_PARAMETERS))
    tasks = []
    for i, stretch in enumerate(grid.rows):
        rows = np.flatnonzero(selection.group[stretch] >= 0)
        blocks, spans = [grid.blocks[i][j] for j in held], [grid.columns[j] for j in held]
        edges = np.searchsorted(rows, np.arange(0, stretch.stop - stretch.start + slab, slab))
        tasks += [
            task(blocks, spans, columns, rows[a:b]) for a, b in pairwise(edges.tolist()) if b > a
        ]
    add = delayed(np.add, pure=False)
    while len(tasks) > 1:
        pairs = [add(a, b) for a, b in zip(tasks[::2], tasks[1::2], strict=False)]
        tasks = pairs + tasks[len(tasks) - len(tasks) % 2 :]
    with open_executor(scheduler) as executor:
        gram: Array = executor.compute(tasks[0])
    return gram


def _principal(gram: Array, count: int) -> tuple[Array, Array]:
    if not np.isfinite(gram).all():
        empty = np.full((count, len(gram)), np.nan)
        return empty[:, 0], empty
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values[::-1][:count], 0)
    vectors = vectors[:, ::-1][:, :count]
    projection = (vectors * np.sqrt(values)).T
    projection *= np.where(projection[:, -1:] < 0, -1.0, 1.0)
    total = np.trace(gram)
    return values / total if total > 0 else np.full(count, np.nan), projection


def _spaced(length: int, most: int) -> npt.NDArray[np.int64]:
    stride = math.ceil(length / most)
    # Counted from the end, so that the last step is one of them.
    return np.arange(length - 1, -1, -stride)[::-1].astype(np.int64)


def _held(grid: BlockGrid, columns: Array) -> list[int]:
    return [
        j for j, c in enumerate(grid.columns) if ((columns >= c.start) & (columns < c.stop)).any()
    ]


def _pooling(selection: Selection) -> dict[str, Any]:
    attrs: dict[str, Any] = {"kinds": ",".join(selection.kinds)}
    attrs["weights"] = int(selection.weights.sum())
    return attrs if selection.mask is None else {**attrs, "mask": selection.mask}
