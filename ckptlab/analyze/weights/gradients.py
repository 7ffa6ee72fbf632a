"""Measure magnitude and noise of the recorded mini-batch gradients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.executor import open_executor
from ckptlab.analyze.engine.labels import labelled, share
from ckptlab.analyze.engine.memory import share_memory
from ckptlab.analyze.engine.moments import compute_moments
from ckptlab.analyze.engine.selection import Rows, Selection, select
from ckptlab.analyze.engine.source import BlockGrid, Source, require_arrays
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.analyze.registry.options import Pooled
from ckptlab.errors import ConfigError, StepError, spell

Array = npt.NDArray[Any]

UNIT = "loss per weight"

WINDOW_ROW_BYTES = 40
"""What a task of `gradient_noise` holds for each parameter: groups and a running sum."""


def gradient_magnitude(
    source: Source,
    *,
    full: bool = False,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "train",
    steps: Any = None,
    by: str = "network",
    kinds: Any = None,
    mask: Any = None,
    scheduler: Any = None,
    memory: Any = None,
    **inputs: Any,
) -> xr.Dataset:
    """L2 norm and mean absolute value of the mini-batch or the full gradient.

    Parameters
    ----------
    source : Source
        The recording.
    full : bool
        Take not the recorded mini-batch gradients, but those over the training data at each step;
        implied by a model, which it needs.
    samples, seed, batch_size, batch_norm : object
        Of the full gradient, as `full_gradients` takes them; by default of all of the data.
    steps, by, kinds, mask : object
        As `engine.selection.select` takes them; of the full gradient ``log:2`` by default.
    scheduler, memory : object
        As `compute_moments` takes them.
    **inputs : object
        `model`, `data` and `loss`, as `full_gradients` takes them.

    Returns
    -------
    Dataset, dims (step,) or (layer | tensor, step)
        `gradient_norm` and `gradient_mean_abs` of the gradient of the update that led to a step;
        NaN at step 0. With `full` it is the gradient at the step itself. Frozen tensors and the
        pruned weights of a sub-network are left out.

    Raises
    ------
    ConfigError
        If a setting of the full gradient is given for the other.
    StoreError
        If a mask, or a dataset of some parameters only, needs `gradients` and the run has none.
    """
    full = full or "model" in inputs
    if samples is not None and not full:
        raise ConfigError(
            f"{spell('samples', samples)} is of the full gradient; ask for it with {spell('full')}",
            parameter="samples",
        )
    steps = "log:2" if full and steps is None else steps
    selection = select(source, steps=steps, by=by, kinds=kinds, mask=mask)
    if full:
        from ckptlab.analyze.model.full_gradient import full_gradients

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
    pooled = pooled_gradients(source, selection)
    if pooled:
        return xr.Dataset(pooled)
    what = "gradient-magnitude " + ("with a mask" if mask is not None else "of some parameters")
    require_arrays(source, what, ("gradients",))
    moments = compute_moments(
        source, selection, array="gradients", previous=False, scheduler=scheduler, memory=memory
    )
    mean = share(moments.get("magnitude"), selection.weights[:, None])
    return xr.Dataset(_variables(np.sqrt(moments.get("square")), mean, selection))


def pooled_gradients(source: Source, selection: Selection) -> dict[str, xr.DataArray]:
    """Pool the norms and means that were recorded for each tensor.

    Empty if the run holds none, or a mask beside the run's own makes them useless: the gradients
    of pruned weights are recorded as zero.
    """
    masked = selection.keep is not None and not selection.keep.own
    if masked or not source.has("gradient_norm") or not _whole_tensors(source, selection):
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
    kept = sizes
    if selection.keep is not None:
        keep = selection.keep.values
        parts = (keep[t.offset : t.offset + t.size] for t in tensors)
        kept = np.array([np.count_nonzero(part) for part in parts], float)[chosen]
    weights = np.bincount(group, kept, groups)[:, None]
    squares, means = pool(norm * norm), share(pool(mean * sizes[:, None]), weights)
    return _variables(np.where(weights > 0, np.sqrt(squares), np.nan), means, selection)


def gradient_noise(source: Source, *, window: int = 10, **selection: Unpack[Pooled]) -> xr.Dataset:
    """Gradient noise scale tr(Σ) / |G|², from recorded mini-batch gradients.

    Parameters
    ----------
    source : Source
        The recording; needs `gradients`.
    window : int
        Recorded gradients in one window, at least 2. Within it the weights are taken to stand
        still: the mean over the window is the gradient of a batch `window` times as large.
    **selection : object
        Steps and weights, as `engine.selection.select` takes them, `scheduler` and `memory`.

    Returns
    -------
    Dataset, dims (step,) or (layer | tensor, step)
        At the last step of each window: `gradient_signal`, the unbiased estimate of |G|²;
        `gradient_variance`, that of tr(Σ)/B for the batch size B of the run; their quotient
        `gradient_noise_scale`, the batch size tr(Σ)/|G|² in mini-batches, NaN where the signal is
        not positive. A gradient counts by its batch size, as far as the run says it (attribute
        `batch_sizes`): the last mini-batch of an epoch may be short.

    Raises
    ------
    StepError
        If fewer gradients than one window are selected.

    References
    ----------
    McCandlish et al. (2018), arXiv:1812.06162, appendix A.1.
    """
    options: dict[str, Any] = dict(selection)
    scheduler, memory = options.pop("scheduler", None), options.pop("memory", None)
    chosen = select(source, **options)
    # Step 0 is no update, it has no gradient.
    columns = chosen.columns[chosen.steps > 0]
    count = len(columns) // window
    if not count:
        raise StepError(
            f"{len(columns)} gradients are fewer than one window of {window}; "
            f"select more steps or use a smaller {spell('window')}"
        )
    columns = columns[: count * window].reshape(count, window)
    sizes = batch_sizes(source.attributes, source.steps[columns])
    weights = np.full(columns.shape, 1 / window) if sizes is None else _shares(sizes)
    # In full batches: how many a window holds.
    full = window if sizes is None else sizes.sum(axis=1) / sizes.max()
    small, large = _window_sums(source, chosen, columns, weights, scheduler, memory)
    signal = (window * large - small) / (window - 1)
    variance = (small - large) / (window - 1) * full
    at = replace(chosen, columns=columns[:, -1], steps=source.steps[columns[:, -1]])
    about: dict[str, Any] = {
        "window": window,
        "batch_sizes": "taken as equal: the run does not say" if sizes is None else "as recorded",
    }
    rows = (
        ("gradient_noise_scale", share(variance, signal), "mini-batches", "gradient noise scale"),
        ("gradient_signal", signal, f"({UNIT})²", "squared norm of the true gradient"),
        ("gradient_variance", variance, f"({UNIT})²", "trace of the gradient's covariance"),
    )
    return xr.Dataset(
        {
            name: labelled(name, values, at, units=units, long_name=long_name, **about)
            for name, values, units, long_name in rows
        }
    )


def batch_sizes(attributes: Mapping[str, Any], steps: Array) -> Array | None:
    """Return the batch size of the update that led to each step; None if the run does not say.

    An epoch is `steps_per_epoch` updates over `training_examples`, the last batch what is left.
    """
    examples, epoch = attributes.get("training_examples"), attributes.get("steps_per_epoch")
    config = attributes.get("config")
    train = config.get("train") if isinstance(config, Mapping) else None
    size = train.get("batch_size") if isinstance(train, Mapping) else None
    if not (isinstance(examples, int) and isinstance(epoch, int) and isinstance(size, int)):
        return None
    last = examples - (epoch - 1) * size
    if not 0 < last <= size:
        return None
    sizes: Array = np.where(np.asarray(steps % epoch) == 0, last, size).astype(float)
    return sizes


def _shares(sizes: Array) -> Array:
    shares: Array = sizes / sizes.sum(axis=1, keepdims=True)
    return shares


def window_task(
    blocks: list[Any],
    columns: list[slice],
    windows: Array,
    weights: Array,
    rows: Rows,
    groups: int,
) -> tuple[Array, Array]:
    """Sum one stretch of parameters over whole windows; runs in a dask task.

    `blocks` hold the recorded steps of `columns`, in order; `windows` are positions of recorded
    steps and `weights` the share of each gradient, shape (windows, window). Returns, of shape
    (groups, windows), the weighted mean of Σg², and Σ over weights of the squared mean of g.
    """
    count = len(windows)
    small, large = np.zeros((groups, count)), np.zeros((groups, count))
    group = rows.group()
    running = np.zeros(len(group))
    for block, stretch in zip(blocks, columns, strict=True):
        inside = [(w >= stretch.start) & (w < stretch.stop) for w in windows]
        held = [k for k in range(count) if inside[k].any()]
        for start, chunk in block.chunks():
            found = np.flatnonzero(group[start : start + len(chunk)] >= 0)
            own = group[start + found]
            for k in held:
                at = windows[k][inside[k]] - stretch.start
                part = chunk[np.ix_(found, at)].astype(float)
                share_of = weights[k][inside[k]]
                running[start + found] += part @ share_of
                small[:, k] += np.bincount(own, (part * part) @ share_of, groups)
                if inside[k][-1]:
                    mean = running[start + found]
                    large[:, k] += np.bincount(own, mean * mean, groups)
                    running[start + found] = 0
    return small, large


def _window_sums(
    source: Source,
    selection: Selection,
    windows: Array,
    weights: Array,
    scheduler: Any,
    memory: Any,
) -> tuple[Array, Array]:
    from dask.delayed import delayed

    task = delayed(window_task, pure=False)
    per_task = max(1, len(windows) // 16)
    groups = len(selection.names)
    with open_executor(scheduler) as executor:
        plan = share_memory(source, "gradients", WINDOW_ROW_BYTES, executor.workers, memory)
        grid = source.grid("gradients", plan.pieces)
        parts = []
        for i, stretch in enumerate(grid.rows):
            rows = selection.rows(stretch)
            if rows.selected:
                parts.append(
                    [
                        task(*_held(grid, i, windows[p]), windows[p], weights[p], rows, groups)
                        for p in (slice(k, k + per_task) for k in range(0, len(windows), per_task))
                    ]
                )
        done = executor.compute(parts, plan.workers)
    small = sum(np.concatenate([s for s, _ in line], axis=1) for line in done)
    large = sum(np.concatenate([m for _, m in line], axis=1) for line in done)
    return np.asarray(small), np.asarray(large)


def _held(grid: BlockGrid, i: int, windows: Array) -> tuple[list[Any], list[slice]]:
    low, high = windows[0, 0], windows[-1, -1]
    held = [j for j, c in enumerate(grid.columns) if c.stop > low and c.start <= high]
    return [grid.blocks[i][j] for j in held], [grid.columns[j] for j in held]


def _whole_tensors(source: Source, selection: Selection) -> bool:
    """Return whether every weight of the selected tensors is there; a dataset may hold a part."""
    sizes = np.array([t.size for t in source.layout.tensors])
    runs = source.tensor_runs(slice(0, source.parameters))
    there = np.bincount(runs.tensors, runs.counts, len(sizes))
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
