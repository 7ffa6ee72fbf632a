"""Send results to experiment trackers: numbers over steps, never weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from ckptlab.analyze.io import as_dataset
from ckptlab.errors import ConfigError, PluginError
from ckptlab.extras import require
from ckptlab.registry import Registry, allow, is_reference, name_of, resolve

MOST_SERIES = 1000
"""Numbers a step that are sent at most: a tracker is for curves."""

AXES = ("step", "eval_step")

Function = TypeVar("Function", bound=Callable[..., Any])
Point = tuple[int, dict[str, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tracker:
    """One experiment tracker.

    Parameters
    ----------
    name : str
        After ``--to``.
    send : callable or str
        ``send(place, name, config, points)`` sends the points of one run, each a step and its
        numbers by name, and returns where they went.
    summary : str
        One line.
    place : str
        What ``--to NAME=PLACE`` chooses, and what it is by default.
    package : str
        Module that it needs.
    """

    name: str
    send: Callable[..., str] | str
    summary: str = ""
    place: str = "ckptlab"
    package: str = ""

    @property
    def function(self) -> Callable[..., str]:
        """The function, imported now."""
        function: Callable[..., str] = (
            resolve(self.send) if isinstance(self.send, str) else self.send
        )
        return function


def _adapt(name: str, target: Any) -> Tracker:
    if not callable(target):
        raise TypeError("a tracker is a function of place, name, config and points")
    return Tracker(name=name, send=target, summary=(target.__doc__ or "").partition("\n")[0])


TRACKERS: Registry[Tracker] = Registry(
    "tracker",
    (
        Tracker(
            name="wandb",
            send="ckptlab.analyze.trackers:send_to_wandb",
            summary="Weights & Biases; PLACE is a project",
            package="wandb",
        ),
        Tracker(
            name="tensorboard",
            send="ckptlab.analyze.trackers:send_to_tensorboard",
            summary="TensorBoard; PLACE is a folder of logs",
            place="tensorboard",
            package="tensorboard",
        ),
        Tracker(
            name="mlflow",
            send="ckptlab.analyze.trackers:send_to_mlflow",
            summary="MLflow; PLACE is an experiment",
            package="mlflow",
        ),
    ),
    adapt=_adapt,
    group="ckptlab.trackers",
)


def tracker(*, name: str | None = None) -> Callable[[Function], Function]:
    r"""Register a function that sends numbers elsewhere: ``ckptlab analyze METRIC RUN --to NAME``.

    It is called once for each run, with ``place``, ``name``, ``config`` and ``points``: what the
    user wrote behind ``NAME=`` (or ``ckptlab``), the name of the run, what the result says of
    itself, and an iterator of (step, {name: number}). It returns where they went, as text.

    Parameters
    ----------
    name : str, optional
        What users write; the function's name with hyphens by default.

    Returns
    -------
    callable
        The decorator, which returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken.

    Examples
    --------
    >>> @ckptlab.tracker(name="lines")  # doctest: +SKIP
    ... def lines(place, name, config, points):
    ...     "Lines of text."
    ...     with open(place, "w") as file:
    ...         file.writelines(f"{step} {numbers}\n" for step, numbers in points)
    ...     return place
    """

    def register(function: Function) -> Function:
        try:
            entry = _adapt(name or name_of(function), function)
        except TypeError as error:
            raise PluginError(f"@ckptlab.tracker: {error}") from error
        return TRACKERS.decorate(function, entry)

    return register


def find_tracker(text: str) -> tuple[Tracker, str]:
    """Read ``NAME`` or ``NAME=PLACE``; MissingExtraError if its package is not installed."""
    name, _, place = text.partition("=")
    if is_reference(name):
        allow(name)
    found = TRACKERS.find(name, "--to")
    if found.package:
        require(found.package, f"--to {name}")
    return found, place or found.place


def send(result: xr.DataArray | xr.Dataset, tracker: Tracker, place: str) -> list[str]:
    """Send a result's numbers over steps, as one run of the tracker for each run it is of.

    Returns where they went. ConfigError if it has none, holds values of single weights, or more
    curves than are worth looking at.
    """
    dataset = as_dataset(result)
    names = [str(n) for n in dataset["run"].values] if "run" in dataset.dims else None
    parts = [dataset] if names is None else [dataset.isel(run=k) for k in range(len(names))]
    # Checked before any of them is sent.
    curves = [_curves(part) for part in parts]
    sent = []
    for k, part in enumerate(parts):
        run = str(dataset.attrs.get("run", "run")) if names is None else names[k]
        name = run.rstrip("/").rpartition("/")[2].removesuffix(".zarr")
        config = {**{key: str(value) for key, value in part.attrs.items()}, "run": run}
        sent.append(tracker.function(place, name, config, _points(curves[k])))
    return sent


def _curves(dataset: xr.Dataset) -> dict[str, tuple[Any, Any]]:
    """Return steps and values of each curve, by a name such as ``cosine/layer1.conv``."""
    curves: dict[str, tuple[Any, Any]] = {}
    metric = dataset.attrs.get("metric", "the result")
    for name, variable in dataset.data_vars.items():
        axis = next((axis for axis in AXES if axis in variable.dims), None)
        if "param" in variable.dims:
            raise ConfigError(f"{metric} holds values of single weights, which are not sent")
        if axis is None or variable.dtype.kind not in "biuf":
            continue
        steps, table = dataset[axis].values, variable.transpose(..., axis)
        labels = [
            [str(label) for label in (table[dim].values if dim in table.coords else range(size))]
            for dim, size in zip(table.dims[:-1], table.shape[:-1], strict=True)
        ]
        rows = table.values.reshape(-1, len(steps))
        for label, row in zip(product(*labels), rows, strict=True):
            curves["/".join([str(name), *label])] = steps, row
    if not curves:
        raise ConfigError(f"{metric} holds no numbers over steps to send")
    if len(curves) > MOST_SERIES:
        raise ConfigError(
            f"{metric} has {len(curves):,} curves; up to {MOST_SERIES:,} are sent. Choose by=layer "
            "or by=network"
        )
    return curves


def _points(curves: dict[str, tuple[Any, Any]]) -> Iterator[Point]:
    """Yield every step with its numbers; NaN and infinities are left out."""
    # Curves over one axis share its steps.
    positions = [
        dict(zip(steps.tolist(), range(len(steps)), strict=True)) for steps, _ in curves.values()
    ]
    for step in sorted(set().union(*positions)):
        found = {
            name: float(row[at[step]])
            for at, (name, (_, row)) in zip(positions, curves.items(), strict=True)
            if step in at and np.isfinite(row[at[step]])
        }
        if found:
            yield int(step), found


def send_to_wandb(place: str, name: str, config: dict[str, str], points: Iterator[Point]) -> str:
    """Send to a project of Weights & Biases; ``WANDB_MODE=offline`` writes it to a folder."""
    import wandb

    with wandb.init(project=place, name=name, config=config, reinit="finish_previous") as run:
        for step, numbers in points:
            run.log(numbers, step=step)
        return str(run.url or run.dir)


def send_to_tensorboard(
    place: str, name: str, config: dict[str, str], points: Iterator[Point]
) -> str:
    """Write a folder of logs for TensorBoard."""
    from tensorboard.summary import Writer

    folder = f"{place}/{name}"
    writer = Writer(folder)
    for step, numbers in points:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step, description=config.get("long_name"))
    writer.close()
    return folder


def send_to_mlflow(place: str, name: str, config: dict[str, str], points: Iterator[Point]) -> str:
    """Send to an experiment of MLflow, at ``MLFLOW_TRACKING_URI``."""
    import mlflow
    from mlflow.entities import Metric

    client = mlflow.MlflowClient()
    known = client.get_experiment_by_name(place)
    experiment = known.experiment_id if known else client.create_experiment(place)
    run = client.create_run(experiment, run_name=name).info.run_id
    for key, value in config.items():
        client.set_tag(run, key, value)
    batch: list[Metric] = []
    for step, numbers in points:
        batch += [Metric(key, value, 0, step) for key, value in numbers.items()]
        while len(batch) >= MOST_SERIES:
            client.log_batch(run, batch[:MOST_SERIES])
            batch = batch[MOST_SERIES:]
    if batch:
        client.log_batch(run, batch)
    client.set_terminated(run)
    return f"{mlflow.get_tracking_uri()} {place}/{name}"
