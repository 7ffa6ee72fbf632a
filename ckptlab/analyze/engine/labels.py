"""Results: sums turned into labelled arrays that say what they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.selection import Reference, Selection
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.engine.warnings import UnfinishedRunWarning
from ckptlab.analyze.registry.spec import Metric

if TYPE_CHECKING:
    from ckptlab.analyze.engine.moments import Moments

Array = npt.NDArray[Any]

EVALUATIONS: dict[str, tuple[str, str]] = {
    "eval_loss": ("loss", "test loss"),
    "eval_accuracy": ("1", "test accuracy"),
}
"""Units and long name of what an evaluation records; ``loss`` stands for `loss_units`."""

STEP_ATTRIBUTES = {"units": "optimizer updates", "long_name": "step"}


def loss_units(attributes: Mapping[str, Any]) -> str:
    """Return the units of a recorded loss: ``nats``, or ``loss`` where that is not known.

    `attributes` are those of a run, or of anything else with the trainer's `config`.
    """
    config = attributes.get("config")
    if not isinstance(config, Mapping) or not isinstance(config.get("model"), Mapping):
        return "loss"
    problem, loss = (config.get(section) or {} for section in ("problem", "loss"))
    entropy = str(loss.get("name", "cross-entropy")).endswith("cross-entropy")
    return "nats" if entropy and not problem.get("name") else "loss"


def labelled(
    name: str,
    values: Array,
    selection: Selection,
    *,
    units: str,
    long_name: str,
    interval: Array | None = None,
    **attributes: Any,
) -> xr.DataArray:
    """Label values over groups and steps.

    Parameters
    ----------
    name : str
        With underscores.
    values : ndarray, shape (groups, step)
        What was measured.
    selection : Selection
        Groups and steps.
    units, long_name : str
        Attributes of the array.
    interval : ndarray, shape (step,), optional
        Updates since the previous recorded step, for what is relative to it.
    **attributes : object
        More attributes; None is left out.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        With the number of weights as an attribute or a coordinate.
    """
    coords: dict[str, Any] = {"step": ("step", selection.steps, dict(STEP_ATTRIBUTES))}
    if interval is not None:
        meaning = {"units": "optimizer updates", "long_name": "updates since the previous step"}
        coords["interval"] = ("step", interval, meaning)
    attrs: dict[str, Any] = {"units": units, "long_name": long_name}
    # A group of which a mask leaves nothing has no value.
    values = np.where((selection.weights > 0)[:, None], values, np.nan)
    dims: tuple[str, ...] = ("step",)
    if selection.by == "network":
        values = values[0]
        attrs["weights"] = int(selection.weights[0])
    else:
        dims = (selection.by, "step")
        coords[selection.by] = (selection.by, np.array(selection.names, object))
        coords["weights"] = (selection.by, selection.weights, {"long_name": "weights pooled"})
    attrs |= {"by": selection.by, "kinds": ",".join(selection.kinds)}
    attrs |= {"mask": selection.mask, **attributes}
    attrs = {key: value for key, value in attrs.items() if value is not None}
    return xr.DataArray(values, coords, dims, name, attrs)


def compared(
    metric_name: str,
    values: Array,
    moments: Moments,
    reference: Reference,
    *,
    units: str,
    long_name: str,
) -> xr.DataArray:
    """Label values that compare each step with a reference; see `labelled`."""
    previous = reference.step is None
    return labelled(
        metric_name,
        values,
        moments.selection,
        units=units,
        long_name=long_name,
        interval=moments.interval if previous else None,
        relative_to=reference.name,
        relative_to_step=reference.step,
    )


def share(part: Array, whole: Array) -> Array:
    """Divide; NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole > 0, part / whole, np.nan)


def describe(
    result: xr.DataArray | xr.Dataset, metric: Metric, source: Source
) -> xr.DataArray | xr.Dataset:
    """Add what every result says: metric, reference, run and its state.

    Parameters
    ----------
    result : DataArray or Dataset
        What the metric computed.
    metric : Metric
        Its entry.
    source : Source
        What it was computed on.

    Returns
    -------
    DataArray or Dataset
        The same values.

    Warns
    -----
    UnfinishedRunWarning
        If the run is not complete.
    """
    attrs = {"metric": metric.name, "reference": metric.reference, "run": source.path}
    if isinstance(result, xr.DataArray):
        attrs = {"units": metric.unit, "long_name": metric.long_name, **attrs}
    if source.state != "complete" and len(source.steps):
        last = int(source.steps[-1])
        attrs |= {"run_state": source.state, "final": f"step {last}, the last committed"}
        # A killed writer could not say that it was: both are `recording`.
        recording = source.state == "recording"
        what = "is still being recorded, or was killed" if recording else "was interrupted"
        warnings.warn(
            f"{source.path} {what}: measured on the {len(source.steps)} steps committed so far, "
            f"the last of which, {last}, stands for `final`.",
            UnfinishedRunWarning,
            stacklevel=4,
        )
    return result.assign_attrs({**attrs, **result.attrs})
