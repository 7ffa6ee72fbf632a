"""Evaluate the loss on a line or a plane through snapshots, or in the plane of the path."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.histories import Histories, fold_histories, sum_over_paths
from ckptlab.analyze.engine.labels import STEP_ATTRIBUTES
from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import Selection, find_reference, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import ReplayModel, Vectors, read_step
from ckptlab.analyze.weights.trajectory import centred_gram, spaced
from ckptlab.errors import ConfigError, StepError, spell
from ckptlab.problems.examples import Subset, draw

Array = npt.NDArray[Any]

PATH = 200
"""Steps at most, evenly spaced, that the plane of the path is found from and drawn with."""


def landscape(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    through: Any = None,
    steps: Any = None,
    kinds: Any = "all",
    grid: int = 21,
    margin: float = 0.2,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "train",
    scheduler: Any = None,
) -> xr.Dataset:
    """Loss on a line or plane through snapshots, or in the plane of the path's main directions.

    Parameters
    ----------
    source : Source
        The recording.
    model : Module
        The network that was recorded; copied.
    data : (inputs, targets) or Dataset
        Examples that the loss is of, usually training examples.
    loss : callable, optional
        ``loss(outputs, targets)``; cross-entropy by default.
    through : str or sequence, optional
        Two snapshots for a line or three for a plane, ``init``, ``final`` or steps. By default the
        plane through the last selected step that is spanned by the first two principal components
        of the selected steps.
    steps, kinds : object
        The path, and the weights that move, as `selection.select` takes them; all others stay as
        they are at the origin, which is the first of `through`, or the last step.
    grid : int
        Points along each side.
    margin : float
        How far the grid goes beyond the snapshots, as a share of their extent.
    samples, seed, batch_size, batch_norm, scheduler : object
        As `hessian_spectrum` takes them. With ``batch_norm="eval"``, the running statistics of the
        origin.

    Returns
    -------
    Dataset, dims (point,) or (row, point), and (step,)
        `loss`; its coordinates `x` (point) and `y` (row) are distances from the origin along
        orthonormal directions, in units of weights. `path_x`, and `path_y` of a plane, are where
        the steps of the path, projected, are; with principal components `explained_variance`
        (component,), their shares of the path's variance.

    Raises
    ------
    ConfigError
        If `through` is not two or three different snapshots.
    MissingStepError
        If a step was not recorded.
    LayoutError
        If the model is not the one recorded.
    """
    if margin < 0:
        raise ConfigError(f"{spell('margin', margin)} must not be negative", parameter="margin")
    replay = ReplayModel(source, model, loss, batch_norm=batch_norm)
    subset = draw(data, samples, seed, batch_size)
    selection = select(source, steps=steps, kinds=kinds)
    path = selection.columns[spaced(len(selection.columns), PATH)]
    shares = None
    if through is None:
        origin = int(path[-1])
        directions, shares = _principal(source, selection, path)
    else:
        corners = _corners(source, through)
        origin = corners[0]
        directions = _spanned(source, selection, corners)
        path = np.union1d(path, corners)
    start = read_step(source, origin)
    moved = _positions(selection)
    base = start["weights"][moved].astype(float)
    places = _project(source, selection, path, directions, base)
    axes = [_axis(places[:, k], grid, margin) for k in range(directions.shape[1])]
    points = [
        tuple(p) for p in np.stack(np.meshgrid(*axes, indexing="xy"), -1).reshape(-1, len(axes))
    ]
    measure = partial(_losses, start=start, moved=moved, directions=directions)
    values = np.array(spread(measure, replay, subset, points, scheduler))
    dims = ("row", "point")[-len(axes) :]
    weight = {"units": "weight"}
    names = ("x", "y")[: len(axes)]
    coords: dict[str, Any] = {"step": ("step", source.steps[path], dict(STEP_ATTRIBUTES))}
    data_vars: dict[str, Any] = {
        "loss": (dims, values.reshape([grid] * len(axes)), {"units": replay.loss.units})
    }
    data_vars["loss"][2]["long_name"] = "loss"
    for k, name in enumerate(names):
        about = {**weight, "long_name": f"distance along direction {k + 1}"}
        coords[name] = (dims[-1 - k], axes[k], about)
        data_vars[f"path_{name}"] = ("step", places[:, k], {**weight, "long_name": f"path, {name}"})
    if shares is not None:
        data_vars["explained_variance"] = (
            "component",
            shares,
            {"units": "1", "long_name": "share"},
        )
    attrs = {
        "origin": int(source.steps[origin]),
        "directions": "path" if through is None else "given",
    }
    return xr.Dataset(data_vars, coords, {**attrs, **replay.describe(subset)})


def _principal(source: Source, selection: Selection, path: Array) -> tuple[Array, Array]:
    """Return two unit vectors, shape (weights, 2), and their shares of the path's variance."""
    if len(path) < 3:
        raise StepError("a plane of the path needs at least 3 recorded steps; select more")
    gram = sum_over_paths(source, selection, path, centred_gram)
    values, vectors = np.linalg.eigh(gram)
    largest = values[-2:][::-1]
    if not largest[-1] > 0:
        raise StepError("the path has fewer than two directions; select other steps or weights")
    coefficients = vectors[:, -2:][:, ::-1] / np.sqrt(largest)
    (directions,) = fold_histories(
        source, selection, partial(_mix, coefficients), _joined, columns=path, whole=True
    )
    return directions, largest / values.sum()


def _mix(coefficients: Array, histories: Histories) -> Array:
    path = histories.values[0].astype(float)
    path -= path.mean(axis=1, keepdims=True)
    mixed: Array = path @ coefficients
    return mixed


def _joined(one: Array, other: Array) -> Array:
    return np.concatenate([one, other])


def _corners(source: Source, through: Any) -> list[int]:
    names = through.split(",") if isinstance(through, str) else list(through)
    found = [find_reference(source, str(name).strip(), "through") for name in names]
    columns = [r.column for r in found if r.column is not None]
    if (
        len(columns) != len(names)
        or len(set(columns)) != len(columns)
        or not 2 <= len(columns) <= 3
    ):
        raise ConfigError(
            f"{spell('through', ','.join(map(str, names)))} must name two or three different "
            "snapshots of this run: init, final or steps",
            parameter="through",
        )
    return columns


def _spanned(source: Source, selection: Selection, corners: list[int]) -> Array:
    """Return orthonormal directions from the first snapshot to the others, shape (weights, n)."""
    moved = _positions(selection)
    first, *others = (source.column("weights", c)[moved].astype(float) for c in corners)
    directions: list[Array] = []
    for other in others:
        way = other - first
        length = np.linalg.norm(way)
        for known in directions:
            way = way - known * (known @ way)
        if not np.linalg.norm(way) > 1e-6 * length:
            raise ConfigError("the snapshots lie on one line, or are equal; take others")
        directions.append(way / np.linalg.norm(way))
    return np.stack(directions, axis=1)


def _positions(selection: Selection) -> Array:
    """Return the positions of the selected weights in the parameter vector."""
    return np.flatnonzero(selection.group >= 0)


def _project(
    source: Source, selection: Selection, path: Array, directions: Array, base: Array
) -> Array:
    """Return where the steps of the path lie, shape (steps, directions)."""
    compared = np.zeros((source.parameters, 1 + directions.shape[1]))
    compared[_positions(selection)] = np.column_stack([base, directions])
    (places,) = fold_histories(
        source, selection, _places, columns=path, whole=True, reference=compared
    )
    return np.asarray(places)


def _places(histories: Histories) -> Array:
    compared = np.asarray(histories.reference)
    found: Array = (histories.values[0] - compared[:, :1]).T @ compared[:, 1:]
    return found


def _axis(places: Array, grid: int, margin: float) -> Array:
    low, high = places.min(), places.max()
    spare = margin * (high - low)
    axis: Array = np.linspace(low - spare, high + spare, grid)
    return axis


def _losses(
    model: ReplayModel,
    subset: Subset,
    points: Sequence[tuple[float, ...]],
    before: Any,
    *,
    start: Vectors,
    moved: Array,
    directions: Array,
) -> list[float]:
    del before
    found = []
    for point in paced(points):
        weights = start["weights"].copy()
        weights[moved] = start["weights"][moved] + directions @ np.asarray(point)
        model.load({**start, "weights": weights})
        found.append(model.evaluate(subset).loss)
    return found
