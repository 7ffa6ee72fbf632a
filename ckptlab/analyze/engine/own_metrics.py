"""Run the metrics that users register: on whole snapshots, or on chunks of them.

Tasks read one block each, for as many groups as fit the memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.executor import Executor, open_executor
from ckptlab.analyze.engine.labels import labelled
from ckptlab.analyze.engine.memory import share_memory
from ckptlab.analyze.engine.moments import combine_tree
from ckptlab.analyze.engine.selection import Rows, Selection, count_weights, select
from ckptlab.analyze.engine.source import BlockGrid, Source
from ckptlab.analyze.registry.spec import Metric
from ckptlab.errors import ConfigError, LayoutError, spell
from ckptlab.registry import PLUGIN_PREFIX, resolve

Array = npt.NDArray[Any]
Cells = dict[tuple[int, int], Any]
"""What a task found, by group and by position among the selected steps."""

COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "sum": np.add,
    "min": np.minimum,
    "max": np.maximum,
}

ROW_BYTES = 16
"""What a task holds for each parameter beside the weights."""


class Portable:
    """A function that workers of other processes can import, also from a plug-in file."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function."""
        return self.function(*arguments, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        module = self.function.__module__
        if not module.startswith(PLUGIN_PREFIX):
            return (Portable, (self.function,))
        file = sys.modules[module].__file__
        return (_from_plugin, (file, self.function.__qualname__))


def _from_plugin(file: str, name: str) -> Portable:
    from ckptlab.plugins import load_plugin

    function: Any = load_plugin(file)
    for part in name.split("."):
        function = getattr(function, part)
    return Portable(function)


def run_snapshot(metric: Metric, source: Source, **settings: Any) -> xr.DataArray | xr.Dataset:
    """Call the function with the weights of each group at each step."""
    selection, own, scheduler, memory = _settings(metric, source, settings)
    function = Portable(_function(metric))
    return call_on_snapshots(
        metric, source, selection, function, own, scheduler=scheduler, memory=memory
    )


def call_on_snapshots(
    metric: Metric,
    source: Source,
    selection: Selection,
    function: Callable[..., Any],
    options: dict[str, Any],
    *,
    scheduler: Any = None,
    memory: Any = None,
) -> xr.DataArray | xr.Dataset:
    """Call a function with the weights of each group at each step, and label what it returns."""
    shapes = [t.shape for t in source.layout.tensors] if metric.shaped else None
    if shapes is not None:
        _require_whole(metric, selection)
    with open_executor(scheduler) as executor:
        parts = _snapshot_tasks(source, selection, executor, memory, (function, options, shapes))
        done = executor.compute(parts)
    cells = {cell: value for part in done for cell, value in part.items()}
    return _labelled(metric, selection, cells)


def run_reduce(metric: Metric, source: Source, **settings: Any) -> xr.DataArray | xr.Dataset:
    """Call the function with chunks of weights, combine what it returns, and finalize it."""
    from dask.delayed import delayed

    selection, own, scheduler, memory = _settings(metric, source, settings)
    function = Portable(_function(metric))
    join = metric.combine if not callable(metric.combine) else Portable(metric.combine)
    _require_combine(metric)
    task, add = delayed(reduce_task, pure=False), delayed(_add_cells, pure=False)
    with open_executor(scheduler) as executor:
        share = share_memory(source, "weights", ROW_BYTES, executor.workers, memory)
        grid = source.grid("weights", share.pieces)
        columns = []
        for j, span in enumerate(grid.columns):
            at = np.flatnonzero((selection.columns >= span.start) & (selection.columns < span.stop))
            if len(at):
                steps = dict(
                    zip(at.tolist(), (selection.columns[at] - span.start).tolist(), strict=True)
                )
                parts = [
                    task(grid.blocks[i][j], steps, rows, function, own, join)
                    for i, rows in enumerate(map(selection.rows, grid.rows))
                    if rows.selected
                ]
                columns.append(combine_tree(parts, lambda a, b: add(a, b, join)))
        done = executor.compute(columns, share.workers)
    cells = {cell: value for part in done for cell, value in part.items()}
    if metric.finalize is not None:
        cells = {cell: metric.finalize(value) for cell, value in cells.items()}
    return _labelled(metric, selection, cells)


def snapshot_task(
    blocks: list[tuple[Any, Rows]],
    steps: dict[int, int],
    groups: list[int],
    what: tuple[Callable[..., Any], dict[str, Any], list[tuple[int, ...]] | None],
) -> Cells:
    """Read some groups at some steps of one block, and call the function; a dask task.

    `steps` are positions among the selected steps, and within the block.
    """
    function, options, shapes = what
    at = np.array(list(steps.values()))
    taken = []
    for block, rows in blocks:
        # Whole tensors keep their shape: what a mask prunes is zero in them.
        group = rows.group() if shapes is None else replace(rows, keep=None).group()
        inside = np.flatnonzero(np.isin(group, groups))
        found = block.take(inside, at)
        if shapes is not None and rows.keep is not None:
            found[~rows.keep[inside]] = 0
        taken.append((group[inside], rows.tensor()[inside], found))
    owner = np.concatenate([group for group, _, _ in taken])
    tensor = np.concatenate([tensor for _, tensor, _ in taken])
    values = np.concatenate([values for _, _, values in taken])
    cells = {}
    for g in groups:
        mine = np.flatnonzero(owner == g)
        if not len(mine):
            continue
        shape = None if shapes is None else shapes[tensor[mine[0]]]
        for k, n in enumerate(steps):
            weights = np.ascontiguousarray(values[mine, k])
            cells[g, n] = function(weights if shape is None else weights.reshape(shape), **options)
    return cells


def reduce_task(
    block: Any,
    steps: dict[int, int],
    rows: Rows,
    function: Callable[..., Any],
    options: dict[str, Any],
    join: Any,
) -> Cells:
    """Call the function with each chunk of a block, group by group; a dask task."""
    group = rows.group()
    cells: Cells = {}
    for start, chunk in block.chunks():
        own = group[start : start + len(chunk)]
        for g in np.unique(own[own >= 0]).tolist():
            inside = np.flatnonzero(own == g)
            for n, column in steps.items():
                partial = function(chunk[inside, column], **options)
                cells = _add_cells(cells, {(g, n): partial}, join)
    return cells


def _add_cells(one: Cells, other: Cells, join: Any) -> Cells:
    found = dict(one)
    for cell, value in other.items():
        found[cell] = _join(found[cell], value, join) if cell in found else value
    return found


def _join(one: Any, other: Any, join: Any) -> Any:
    if callable(join):
        return join(one, other)
    if not isinstance(one, Mapping):
        return COMBINE[join](one, other)
    how = join if isinstance(join, Mapping) else dict.fromkeys(one, join)
    return {name: COMBINE[how[name]](value, other[name]) for name, value in one.items()}


def _require_combine(metric: Metric) -> None:
    named = metric.combine
    hows = named.values() if isinstance(named, Mapping) else [named]
    if not callable(named) and not all(how in COMBINE for how in hows):
        raise ConfigError(
            f"{metric.name}: combine is {named!r}; accepted: {', '.join(COMBINE)}, a mapping of "
            "these by field, or combine(one, other)"
        )


def _function(metric: Metric) -> Callable[..., Any]:
    found: Any = resolve(metric.compute) if isinstance(metric.compute, str) else metric.compute
    function: Callable[..., Any] = found
    return function


def _require_whole(metric: Metric, selection: Selection) -> None:
    held = count_weights(replace(selection, keep=None))
    sizes = {t.name: t.size for t in selection.source.layout.tensors}
    for name, count in zip(selection.names, held.tolist(), strict=True):
        if count != sizes[name]:
            raise LayoutError(
                f"{metric.name} is of whole tensors; the dataset holds {count} of the "
                f"{sizes[name]} weights of {name!r}"
            )


def _settings(
    metric: Metric, source: Source, settings: dict[str, Any]
) -> tuple[Selection, dict[str, Any], Any, Any]:
    """Split settings into a selection, the function's own options, scheduler and memory."""
    shared = {k: settings.pop(k, None) for k in ("steps", "kinds", "mask", "scheduler", "memory")}
    by = settings.pop("by", None) or ("tensor" if metric.shaped else "network")
    if metric.shaped and by != "tensor":
        raise ConfigError(
            f"{spell('by', by)}: {metric.name} is a metric of single tensors; accepted: tensor, "
            "which is the default"
        )
    scheduler, memory = shared.pop("scheduler"), shared.pop("memory")
    selection = select(source, by=by, **shared)
    return selection, settings, scheduler, memory


def _snapshot_tasks(
    source: Source, selection: Selection, executor: Executor, memory: Any, what: Any
) -> list[Any]:
    """Cut groups and steps into tasks that fit the memory, each of them one block long."""
    from dask.delayed import delayed

    task = delayed(snapshot_task, pure=False)
    share = share_memory(source, "weights", ROW_BYTES, executor.workers, memory)
    grid = source.grid("weights")
    rows = [selection.rows(stretch) for stretch in grid.rows]
    # Pruned weights are read, too.
    sizes = count_weights(replace(selection, keep=None))
    parts = []
    for j, span in enumerate(grid.columns):
        at = np.flatnonzero((selection.columns >= span.start) & (selection.columns < span.stop))
        within = (selection.columns[at] - span.start).tolist()
        # The weights twice, as they are read and as they are handed over, and which they are.
        fits = share.bytes // 24
        for groups in _batches(sizes, fits // max(len(at), 1)):
            held = max(1, int(fits // max(sizes[groups].sum(), 1)))
            for k in range(0, len(at), held):
                steps = dict(zip(at[k : k + held].tolist(), within[k : k + held], strict=True))
                blocks = _blocks(grid, j, rows, groups)
                parts.append(task(blocks, steps, groups, what))
    return parts


def _blocks(grid: BlockGrid, j: int, rows: list[Rows], groups: list[int]) -> list[tuple[Any, Rows]]:
    return [
        (grid.blocks[i][j], own)
        for i, own in enumerate(rows)
        if np.isin(own.tensor_group[own.runs.tensors], groups).any()
    ]


def _batches(weights: Array, most: float) -> list[list[int]]:
    """Put neighbouring groups together as long as they have no more weights than `most`."""
    batches: list[list[int]] = []
    total = 0
    for g, count in enumerate(weights.tolist()):
        if not batches or total + count > most:
            batches.append([])
            total = 0
        batches[-1].append(g)
        total += count
    return batches


def _labelled(metric: Metric, selection: Selection, cells: Cells) -> xr.DataArray | xr.Dataset:
    """Put values of groups and steps into an array, or one for each name they have."""
    if not cells:
        raise ConfigError(f"{metric.name} found no weight to measure")
    first = next(iter(cells.values()))
    if not isinstance(first, Mapping):
        return _array(metric, selection, metric.python_name, cells)
    return xr.Dataset(
        {
            name: _array(metric, selection, name, {cell: v[name] for cell, v in cells.items()})
            for name in first
        }
    )


def _array(metric: Metric, selection: Selection, name: str, cells: Cells) -> xr.DataArray:
    shape = (len(selection.names), len(selection.steps))
    extra = tuple(dim for dim in metric.dims if dim not in ("step", "tensor"))
    found = {cell: np.asarray(value, float) for cell, value in cells.items()}
    inner = next(iter(found.values())).shape
    if len(inner) != len(extra) or any(value.shape != inner for value in found.values()):
        shapes = sorted({str(value.shape) for value in found.values()})
        raise ConfigError(
            f"{metric.name} returned arrays of shape {', '.join(shapes)}; declare their dims with "
            f"@ckptlab.metric(dims=(...)), now {extra}, and return the same shape for every group "
            "and step"
        )
    values = np.full((*shape, *inner), np.nan)
    for cell, value in found.items():
        values[cell] = value
    about: dict[str, Any] = {"units": metric.unit, "long_name": metric.long_name}
    if not extra:
        return labelled(name, values, selection, **about)
    base = labelled(name, values.reshape(*shape, -1)[:, :, 0], selection, **about)
    inside = values[0] if selection.by == "network" else values
    coords = dict(base.coords.items())
    return xr.DataArray(inside, coords, (*base.dims, *extra), name, base.attrs)
