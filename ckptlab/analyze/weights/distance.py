"""Measure distances, magnitudes, angles and sign flips of the weights."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.labels import compared, labelled, share
from ckptlab.analyze.engine.moments import Moments, compute_moments
from ckptlab.analyze.engine.observed import observed
from ckptlab.analyze.engine.selection import Reference, find_reference, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.analyze.registry.options import Pooled

Array = npt.NDArray[Any]

PREVIOUS = Reference("previous", None, None)


def weight_distance(
    source: Source, *, relative_to: Any = "init", **selection: Unpack[Pooled]
) -> xr.DataArray:
    """Euclidean distance of the weights from a snapshot, ‖w − r‖₂.

    Parameters
    ----------
    source : Source
        The recording.
    relative_to : str or int
        ``init``, ``final``, ``previous`` or a step.
    **selection : object
        Steps and weights, as `engine.selection.select` takes them, `scheduler` and `memory`.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        In units of weights.
    """
    return _measure("weight-distance", source, relative_to, **selection)


def weight_change(source: Source, **selection: Unpack[Pooled]) -> xr.DataArray:
    """Distance moved since the previous recorded step, ‖w − w_prev‖₂.

    Parameters
    ----------
    source, **selection : object
        As `weight_distance` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        NaN at the first recorded step; the coordinate `interval` counts the updates between.
    """
    return _measure("weight-change", source, "previous", **selection)


def relative_change(
    source: Source, *, relative_to: Any = "previous", **selection: Unpack[Pooled]
) -> xr.DataArray:
    """Distance moved as a share of the norm, ‖w − r‖₂ / ‖w‖₂.

    Parameters
    ----------
    source, relative_to, **selection : object
        As `weight_distance` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        The norm is that of the step itself; NaN where it is 0.
    """
    return _measure("relative-change", source, relative_to, **selection)


def weight_magnitude(source: Source, **selection: Unpack[Pooled]) -> xr.DataArray:
    """Mean absolute value of the weights.

    Parameters
    ----------
    source, **selection : object
        As `weight_distance` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        Σ|w| / n over the selected weights.
    """
    return _measure("weight-magnitude", source, None, **selection)


def sign_flips(
    source: Source, *, relative_to: Any = "previous", **selection: Unpack[Pooled]
) -> xr.DataArray:
    """Share of weights whose sign is opposite to a snapshot's.

    Parameters
    ----------
    source, relative_to, **selection : object
        As `weight_distance` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        In [0, 1]: flips over selected weights, zeros included in the count. A flip is a change
        between two non-zero signs. NaN at the first step for ``previous``, and where either
        snapshot has a NaN.
    """
    return _measure("sign-flips", source, relative_to, **selection)


def cosine(
    source: Source, *, relative_to: Any = "init", **selection: Unpack[Pooled]
) -> xr.DataArray:
    """Cosine of the angle between the weights and a snapshot.

    Parameters
    ----------
    source, relative_to, **selection : object
        As `weight_distance` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        w·r / (‖w‖₂ ‖r‖₂), in [−1, 1]; NaN where a norm is 0.
    """
    return _measure("cosine", source, relative_to, signed=True, **selection)


def effective_std(
    source: Source, *, relative_to: Any = "init", **selection: Unpack[Pooled]
) -> xr.DataArray:
    """Standard deviation of the difference to a snapshot, std(w − r).

    Parameters
    ----------
    source, relative_to, **selection : object
        As `weight_distance` takes them; with a mask it is over the survivors.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        Over the population (ddof 0) of the selected weights.
    """
    return _measure("effective-std", source, relative_to, signed=True, **selection)


def _measure(
    name: str,
    source: Source,
    relative_to: Any,
    *,
    signed: bool = False,
    scheduler: Any = None,
    memory: Any = None,
    **selection: Any,
) -> xr.DataArray:
    source = observed(source, relative_to, selection.get("mask"))
    reference = None if relative_to is None else find_reference(source, relative_to)
    moments = compute_moments(
        source,
        select(source, **selection),
        () if reference is None else (reference,),
        previous=reference is not None and reference.step is None,
        signed=signed,
        scheduler=scheduler,
        memory=memory,
    )
    return measure_moments(name, moments, reference)


def measure_moments(
    name: str, moments: Moments, reference: Reference | None = None
) -> xr.DataArray:
    """Make a metric of this module from sums; against a reference if it compares with one."""
    metric = METRICS[name]
    about: dict[str, Any] = {"units": metric.unit, "long_name": metric.long_name}
    if reference is None:
        values = share(moments.get("magnitude"), moments.selection.weights[:, None])
        return labelled(metric.python_name, values, moments.selection, **about)
    values = FORMULAS[name](moments, reference)
    return compared(metric.python_name, values, moments, reference, **about)


def _distance(moments: Moments, r: Reference) -> Array:
    root: Array = np.sqrt(moments.get("distance", r))
    return root


def _relative_change(moments: Moments, r: Reference) -> Array:
    return np.sqrt(share(moments.get("distance", r), moments.get("square")))


def _sign_flips(moments: Moments, r: Reference) -> Array:
    return share(moments.get("flips", r), moments.selection.weights[:, None])


def _cosine(moments: Moments, r: Reference) -> Array:
    square, other = moments.get("square"), moments.get("square", r)
    if moments.signed:
        product = moments.get("product", r)
    else:
        product = 0.5 * (square + other - moments.get("distance", r))
    # Rounding may give 1 + 1e-16.
    return np.clip(share(product, np.sqrt(square) * np.sqrt(other)), -1, 1)


def _effective_std(moments: Moments, r: Reference) -> Array:
    n = moments.selection.weights[:, None].astype(float)
    mean = share(moments.get("difference", r), n)
    variance = share(moments.get("distance", r), n) - mean * mean
    deviation: Array = np.sqrt(np.maximum(variance, 0))
    return deviation


FORMULAS = {
    "weight-distance": _distance,
    "weight-change": _distance,
    "relative-change": _relative_change,
    "sign-flips": _sign_flips,
    "cosine": _cosine,
    "effective-std": _effective_std,
}


def norms_differ_widely(moments: Moments, reference: Reference) -> bool:
    """Return whether 2 w·r = Σw² + Σr² − Σ(w−r)² would lose digits that a cosine needs.

    It does where one norm is more than a thousand times the other: its rounding error of 10⁻¹⁶
    would be 10⁻¹³ of the cosine, and more beyond.
    """
    one, other = moments.get("square"), moments.get("square", reference)
    low, high = np.minimum(one, other), np.maximum(one, other)
    return bool(((high > 1e6 * low) & (low > 0)).any())
