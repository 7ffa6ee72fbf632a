"""Magnitude and noise of the recorded mini-batch gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.executor import open_executor
from ckptlab.analyze.engine.labels import labelled, share
from ckptlab.analyze.engine.moments import compute_moments
from ckptlab.analyze.engine.selection import Selection, select
from ckptlab.analyze.engine.source import BlockGrid, Source, require_arrays
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.errors import ConfigError, StepError

Array = npt.NDArray[Any]

UNIT = "loss per weight"


def gradient_magnitude(
    source: Source,
    *,
    steps: Any = None,
    by: str = "network",
    kinds: Any = None,
    mask: Any = None,
    scheduler: Any = None,
    full: bool = False,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "train",
    **inputs: Any,
) -> xr.Dataset:
    """L2 norm and mean absolute value of the mini-batch or the full gradient.

    Parameters
    ----------
    source : Source
        The recording.
    steps, by, kinds, mask : object
        As `selection.select` takes them.
    scheduler : object
        As `open_executor` takes it.
    full : bool, optional
        Not the recorded mini-batch gradients, but those over the training data at each step; needs
        a model, and is meant where one is given. ``log:2`` are the steps unless others are given.
    samples, seed, batch_size, batch_norm : object
        Of the full gradient, as `full_gradients` takes them; by default of all of the data.
    **inputs : object
        `model`, `data` and `loss`, as `full_gradients` takes them.

    Returns
    -------
    Dataset, dims (step,) or (layer | tensor, step)
        `gradient_norm` and `gradient_mean_abs` of the gradient of the update that led to a step;
        NaN at step 0. With `full` it is the gradient at the step itself. Frozen tensors are left
        out.

    Raises
    ------
    ConfigError
        If a setting of the full gradient is given for the other.
    StoreError
        If a mask, or a dataset of some parameters only, needs `gradients` and the run has none.
    """
    if samples is not None and not (full or "model" in inputs):
        raise ConfigError(
            f"samples={samples} is of the full gradient; ask for it: full", parameter="samples"
        )
    if full or "model" in inputs:
        from ckptlab.analyze.model.full_gradient import full_gradients
        from ckptlab.analyze.model.replay_model import surviving

        steps = "log:2" if steps is None else steps
        keep = surviving(source, mask)
        selection = select(source, steps=steps, by=by, kinds=kinds, mask=keep)
        norm, mean, about = full_gradients(
            source,
            selection,
            mask=mask,
            samples=samples,
            seed=seed,
            batch_size=batch_size,
            batch_norm=batch_norm,
            scheduler=scheduler,
            **inputs,
        )
        return xr.Dataset(_variables(norm, mean, selection, "full"), attrs=about)
    selection = select(source, steps=steps, by=by, kinds=kinds, mask=mask)
    if mask is None and _whole_tensors(source, selection):
        return xr.Dataset(pooled_gradients(source, selection))
    what = "gradient-magnitude " + ("with a mask" if mask is not None else "of some parameters")
    require_arrays(source, what, ("gradients",))
    moments = compute_moments(
        source, selection, array="gradients", previous=False, scheduler=scheduler
    )
    weights = selection.weights[:, None]
    norm = np.where(weights > 0, np.sqrt(moments.square), np.nan)
    return xr.Dataset(_variables(norm, share(moments.magnitude, weights), selection))


def pooled_gradients(source: Source, selection: Selection) -> dict[str, xr.DataArray]:
    """Combine what was recorded for each tensor.

    Parameters
    ----------
    source : Source
        The recording.
    selection : Selection
        Groups of tensors, and steps; no mask.

    Returns
    -------
    dict of str to DataArray
        `gradient_norm`, `gradient_mean_abs`; empty if the run holds neither.
    """
    if not (source.has("gradient_norm") and _whole_tensors(source, selection)):
        return {}
    tensors = source.layout.tensors
    chosen = (selection.tensor_group >= 0) & np.array([t.trainable for t in tensors])
    group = selection.tensor_group[chosen]
    sizes = np.array([t.size for t in tensors], float)[chosen]
    groups = len(selection.names)

    def pool(values: Array) -> Array:
        total = np.zeros((groups, values.shape[1]))
        np.add.at(total, group, values)
        return total

    norm = np.asarray(source.small("gradient_norm"), float)[chosen][:, selection.columns]
    mean = np.asarray(source.small("gradient_mean_abs"), float)[chosen][:, selection.columns]
    weights = np.bincount(group, sizes, groups)[:, None]
    squares, means = pool(norm * norm), share(pool(mean * sizes[:, None]), weights)
    return _variables(np.where(weights > 0, np.sqrt(squares), np.nan), means, selection)


def gradient_noise(
    source: Source,
    *,
    steps: Any = None,
    by: str = "network",
    kinds: Any = None,
    mask: Any = None,
    scheduler: Any = None,
    window: int = 10,
) -> xr.Dataset:
    """Gradient noise scale tr(Σ) / |G|², from recorded mini-batch gradients.

    Parameters
    ----------
    source : Source
        The recording; needs `gradients`.
    steps, by, kinds, mask : object
        As `selection.select` takes them.
    scheduler : object
        As `open_executor` takes it.
    window : int
        Recorded gradients in one window, at least 2. Within it the weights are taken to stand
        still: the mean over the window is the gradient of a batch `window` times as large.

    Returns
    -------
    Dataset, dims (step,) or (layer | tensor, step)
        At the last step of each window: `gradient_signal`, the unbiased estimate of |G|²;
        `gradient_variance`, that of tr(Σ)/B for the batch size B of the run; their quotient
        `gradient_noise_scale`, the batch size tr(Σ)/|G|² in mini-batches, NaN where the signal is
        not positive.

    Raises
    ------
    ConfigError
        If the window is shorter than 2.
    StepError
        If fewer gradients than one window are selected.

    References
    ----------
    McCandlish et al. (2018), arXiv:1812.06162, appendix A.1.
    """
    if window < 2:
        raise ConfigError(f"window {window} is too short; the noise needs at least 2 gradients")
    selection = select(source, steps=steps, by=by, kinds=kinds, mask=mask)
    # Step 0 is no update, it has no gradient.
    columns = selection.columns[selection.steps > 0]
    count = len(columns) // window
    if not count:
        raise StepError(
            f"{len(columns)} gradients are fewer than one window of {window}; "
            "select more steps or use a smaller window"
        )
    columns = columns[: count * window].reshape(count, window)
    small, large = _window_sums(source, selection, columns, scheduler)
    signal = (window * large - small) / (window - 1)
    variance = (small - large) / (1 - 1 / window)
    at = _at_last(selection, source, columns)
    rows = (
        ("gradient_noise_scale", share(variance, signal), "mini-batches", "gradient noise scale"),
        ("gradient_signal", signal, f"({UNIT})²", "squared norm of the true gradient"),
        ("gradient_variance", variance, f"({UNIT})²", "trace of the gradient's covariance"),
    )
    return xr.Dataset(
        {
            name: labelled(name, values, at, units=units, long_name=long_name, window=window)
            for name, values, units, long_name in rows
        }
    )


def window_task(
    blocks: list[Any], columns: list[slice], windows: Array, group: Array, groups: int
) -> tuple[Array, Array]:
    """Sum one stretch of parameters over whole windows; runs in a dask task.

    Parameters
    ----------
    blocks : list of Block
        Those that hold the windows, in order.
    columns : list of slice
        Recorded steps of each.
    windows : ndarray of int64, shape (windows, window)
        Positions of the recorded steps.
    group : ndarray of int32, shape (rows,)
        Group of each weight, −1 where it is not selected.
    groups : int
        Number of groups.

    Returns
    -------
    small, large : ndarray, shape (groups, windows)
        Mean over the window of Σg², and Σ over weights of the squared mean of g.
    """
    count, window = windows.shape
    small, large = np.zeros((groups, count)), np.zeros((groups, count))
    running = np.zeros(len(group))
    for block, stretch in zip(blocks, columns, strict=True):
        inside = [w[(w >= stretch.start) & (w < stretch.stop)] - stretch.start for w in windows]
        held = [k for k in range(count) if len(inside[k])]
        for start, chunk in block.chunks():
            rows = np.flatnonzero(group[start : start + len(chunk)] >= 0)
            own = group[start + rows]
            for k in held:
                part = chunk[np.ix_(rows, inside[k])].astype(float)
                running[start + rows] += part.sum(axis=1)
                small[:, k] += np.bincount(own, (part * part).sum(axis=1), groups) / window
                if inside[k][-1] + stretch.start == windows[k][-1]:
                    mean = running[start + rows] / window
                    large[:, k] += np.bincount(own, mean * mean, groups)
                    running[start + rows] = 0
    return small, large


def _window_sums(
    source: Source, selection: Selection, windows: Array, scheduler: Any
) -> tuple[Array, Array]:
    from dask.delayed import delayed

    grid = source.grid("gradients")
    task = delayed(window_task, pure=False)
    per_task = max(1, len(windows) // 16)
    groups = len(selection.names)
    with open_executor(scheduler) as executor:
        parts = [
            [
                _window_part(task, grid, i, windows[k : k + per_task], selection, groups)
                for k in range(0, len(windows), per_task)
            ]
            for i in range(len(grid.rows))
        ]
        done = executor.compute(parts)
    small = sum(np.concatenate([s for s, _ in line], axis=1) for line in done)
    large = sum(np.concatenate([m for _, m in line], axis=1) for line in done)
    return np.asarray(small), np.asarray(large)


def _window_part(
    task: Any, grid: BlockGrid, i: int, windows: Array, selection: Selection, groups: int
) -> Any:
    low, high = windows[0, 0], windows[-1, -1]
    held = [j for j, c in enumerate(grid.columns) if c.stop > low and c.start <= high]
    return task(
        [grid.blocks[i][j] for j in held],
        [grid.columns[j] for j in held],
        windows,
        selection.group[grid.rows[i]],
        groups,
    )


def _at_last(selection: Selection, source: Source, windows: Array) -> Selection:
    from dataclasses import replace

    return replace(selection, columns=windows[:, -1], steps=source.steps[windows[:, -1]])


def _whole_tensors(source: Source, selection: Selection) -> bool:
    """Say whether every weight of the selected tensors is there: a dataset may hold a part."""
    sizes = np.array([t.size for t in source.layout.tensors])
    there = np.bincount(source.tensor_index, minlength=len(sizes))
    return bool((sizes == there)[selection.tensor_group >= 0].all())


def _variables(
    norm: Array, mean: Array, selection: Selection, which: str = "mini-batch"
) -> dict[str, xr.DataArray]:
    metric = METRICS["gradient-magnitude"]
    return {
        name: labelled(name, values, selection, units=metric.unit, long_name=long_name)
        for name, values, long_name in (
            ("gradient_norm", norm, f"L2 norm of the {which} gradient"),
            ("gradient_mean_abs", mean, f"mean absolute {which} gradient"),
        )
    }
