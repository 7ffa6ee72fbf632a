"""Series that the recorder wrote as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.labels import EVALUATIONS, STEP_ATTRIBUTES, loss_units
from ckptlab.analyze.engine.selection import range_text, select_columns, steps_per_epoch
from ckptlab.analyze.engine.source import Source
from ckptlab.errors import StepError, spell
from ckptlab.record.schedule import parse_schedule

SERIES: dict[str, tuple[str, str]] = {
    "loss": ("loss", "training loss of the mini-batch"),
    "lr": ("1", "learning rate"),
    "batch_accuracy": ("1", "training accuracy on the mini-batch"),
}
"""Units and long name of what is recorded at every step."""


def evaluation(
    source: Source,
    *,
    steps: Any = None,
    correct: bool = False,
    batch_size: int = 256,
    scheduler: Any = None,
    **inputs: Any,
) -> xr.Dataset:
    """Loss and accuracy on the test set, as recorded or of any step afterwards.

    Parameters
    ----------
    source : Source
        The recording.
    steps : str, int or slice, optional
        Which evaluations; with a model, which recorded steps.
    correct : bool, optional
        Say of every example whether it was answered right; needs a model.
    batch_size : int
        Examples at once.
    scheduler : object
        Where a model is evaluated, as `spread` takes it.
    **inputs : object
        `model`, `data` and `loss`, as `reevaluate` takes them.

    Returns
    -------
    Dataset, dims (eval_step,)
        `eval_loss`, in nats where it is a cross-entropy; `eval_accuracy` in [0, 1]; with `correct`
        more, see `reevaluate`.

    Raises
    ------
    StepError
        If there was no evaluation at these steps.
    """
    if "model" in inputs:
        from ckptlab.analyze.model.reevaluate import reevaluate

        return reevaluate(
            source,
            steps=steps,
            correct=bool(correct),
            batch_size=batch_size,
            scheduler=scheduler,
            **inputs,
        )
    at = np.asarray(source.small("eval_step")).astype(np.int64)
    chosen = np.ones(len(at), bool)
    if steps is not None:
        select_columns(source, steps)
        schedule = parse_schedule(range_text(steps), steps_per_epoch(source))
        chosen = np.array([int(step) in schedule for step in at], bool)
    if not chosen.any():
        known = f"evaluated at {len(at)} steps, {at[0]} to {at[-1]}" if len(at) else "none recorded"
        given = spell("steps", range_text(steps))
        raise StepError(f"{given} holds no evaluation of {source.path}; {known}")
    coords = {"eval_step": ("eval_step", at[chosen], dict(STEP_ATTRIBUTES))}
    data = {
        name: ("eval_step", source.small(name)[chosen], _about(name, source))
        for name in EVALUATIONS
    }
    return xr.Dataset(data, coords, {"evaluated": "as recorded"})


def recorded_series(source: Source, columns: Any) -> dict[str, xr.DataArray]:
    """Read the series over steps.

    Parameters
    ----------
    source : Source
        The recording.
    columns : ndarray of int64
        Positions of the steps to take.

    Returns
    -------
    dict of str to DataArray
        Those of `SERIES` that the run holds, and of `EVALUATIONS`: NaN at steps without one.
    """
    steps = source.steps[columns]
    coords = {"step": ("step", steps, dict(STEP_ATTRIBUTES))}
    values = {
        name: np.asarray(source.small(name), float)[columns] for name in SERIES if source.has(name)
    }
    for name in EVALUATIONS:
        if source.has(name):
            values[name] = _at_steps(source.small("eval_step"), source.small(name), steps)
    return {
        name: xr.DataArray(series, coords, ("step",), name, _about(name, source))
        for name, series in values.items()
    }


def _about(name: str, source: Source) -> dict[str, str]:
    units, long_name = {**SERIES, **EVALUATIONS}[name]
    units = loss_units(source.attributes) if units == "loss" else units
    return {"units": units, "long_name": long_name}


def _at_steps(
    at: npt.NDArray[Any], values: npt.NDArray[Any], steps: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    aligned = np.full(len(steps), np.nan)
    _, here, there = np.intersect1d(steps, at, return_indices=True)
    aligned[here] = values[there]
    return aligned
