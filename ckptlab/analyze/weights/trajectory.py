"""Follow the path of the weights: single weights, and its principal components."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.executor import open_executor
from ckptlab.analyze.engine.histories import sum_over_paths
from ckptlab.analyze.engine.labels import STEP_ATTRIBUTES
from ckptlab.analyze.engine.moments import compute_moments, warn_of_nan
from ckptlab.analyze.engine.partial_sums import NaNSpot, merge_spots
from ckptlab.analyze.engine.selection import Selection, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.registry.options import Selected
from ckptlab.errors import LayoutError, StepError, spell

Array = npt.NDArray[Any]


def trajectories(
    source: Source,
    *,
    count: int = 10,
    seed: int = 0,
    **selected: Unpack[Selected],
) -> xr.DataArray:
    """Values of a few randomly drawn weights at every step.

    Parameters
    ----------
    source : Source
        The recording.
    count : int
        How many, drawn without replacement from all selected weights.
    seed : int
        Of NumPy's PCG64.
    **selected : object
        Steps and weights, as `engine.selection.select` takes them, `scheduler` and `memory`.

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
    options: dict[str, Any] = dict(selected)
    scheduler = options.pop("scheduler", None)
    options.pop("memory", None)  # It is as small as what is asked for.
    selection = select(source, **options)
    chosen = _draw(selection, count, seed)
    values = _histories(source, selection, chosen, scheduler)
    tensors = [int(source.tensor_runs(slice(p, p + 1)).tensors[0]) for p in chosen.tolist()]
    _warn_of_nan(source, selection, np.array(tensors), values)
    names = np.array([source.layout.names[t] for t in tensors], object)
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
    components: int = 10,
    points: int = 500,
    **selected: Unpack[Selected],
) -> xr.Dataset:
    """Principal components of the path of the weights.

    Parameters
    ----------
    source : Source
        The recording.
    components : int
        How many to return.
    points : int
        At most so many of the selected steps are used, evenly spaced, the last included. The work
        grows with its square, and steps so close lie in nearly the same place.
    **selected : object
        Steps and weights, as `engine.selection.select` takes them, `scheduler` and `memory`.

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
    options: dict[str, Any] = dict(selected)
    scheduler, memory = options.pop("scheduler", None), options.pop("memory", None)
    selection = select(source, **options)
    if len(selection.columns) < 2:
        raise StepError("principal components need at least 2 recorded steps; select more")
    at = spaced(len(selection.columns), max(points, 2))
    columns, used = selection.columns[at], selection.steps[at]
    gram = sum_over_paths(source, selection, columns, centred_gram, scheduler, memory)
    if not np.isfinite(gram).all():
        # Read again, rarely: this names tensors and steps.
        at_used = replace(selection, columns=columns, steps=used)
        compute_moments(source, at_used, previous=False, scheduler=scheduler, memory=memory)
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


def centred_gram(path: Array) -> Array:
    """Return the products of centred histories, summed over weights, shape (wanted, wanted)."""
    with np.errstate(invalid="ignore"):  # ∞ − ∞, of runs that diverged
        path -= path.mean(axis=1, keepdims=True)
        gram: Array = path.T @ path
    return gram


def history_task(block: Any, columns: Array, rows: Array) -> Array:
    """Read some weights of a block at some of its steps; runs in a dask task."""
    values: Array = block.take(rows, columns)
    return values


def _histories(source: Source, selection: Selection, params: Array, scheduler: Any) -> Array:
    from dask.delayed import delayed

    grid = source.grid("weights")
    task = delayed(history_task, pure=False)
    lines = []
    for i, stretch in enumerate(grid.rows):
        rows = params[(params >= stretch.start) & (params < stretch.stop)] - stretch.start
        if len(rows):
            line = []
            for j, span in enumerate(grid.columns):
                inside = (selection.columns >= span.start) & (selection.columns < span.stop)
                if inside.any():
                    at = selection.columns[inside] - span.start
                    line.append(task(grid.blocks[i][j], at, rows))
            lines.append(line)
    with open_executor(scheduler) as executor:
        done = executor.compute(lines)
    return np.concatenate([np.concatenate(line, axis=1) for line in done])


def _draw(selection: Selection, count: int, seed: int) -> Array:
    """Draw positions in the parameter vector, as from a list of all selected ones."""
    selected = int(selection.weights.sum())
    if count > selected:
        raise LayoutError(f"{spell('count', count)} is more than the {selected} selected weights")
    ranks = np.sort(np.random.default_rng(seed).choice(selected, count, replace=False))
    found, before = [], 0
    for start in range(0, selection.source.parameters, 2**22):
        stop = min(start + 2**22, selection.source.parameters)
        here = np.flatnonzero(selection.rows(slice(start, stop)).group() >= 0)
        own = ranks[(ranks >= before) & (ranks < before + len(here))] - before
        found.append(start + here[own])
        before += len(here)
    return np.concatenate(found)


def _warn_of_nan(source: Source, selection: Selection, names: Array, values: Array) -> None:
    spots: dict[int, NaNSpot] = {}
    for row, column in np.argwhere(np.isnan(values)):
        position = int(selection.columns[column])
        spots = merge_spots(spots, {int(names[row]): NaNSpot(position, position, 1)})
    warn_of_nan(source, spots)


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


def spaced(length: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most so many evenly spaced positions, the last among them."""
    stride = math.ceil(length / most)
    # Counted from the end, so that the last step is one of them.
    return np.arange(length - 1, -1, -stride)[::-1].astype(np.int64)


def _pooling(selection: Selection) -> dict[str, Any]:
    attrs: dict[str, Any] = {"kinds": ",".join(selection.kinds)}
    attrs["weights"] = int(selection.weights.sum())
    return attrs if selection.mask is None else {**attrs, "mask": selection.mask}
