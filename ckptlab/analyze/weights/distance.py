"""Distances, magnitudes and angles of the weights."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import xarray as xr

from ckptlab.analyze.engine.labels import compared, labelled, share
from ckptlab.analyze.engine.moments import Moments, compute_moments
from ckptlab.analyze.engine.selection import Reference, find_reference, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.analyze.registry.options import Pooled


def weight_distance(
    source: Source, *, relative_to: Any = "init", **options: Unpack[Pooled]
) -> xr.DataArray:
    """Euclidean distance of the weights from a snapshot, ‖w − r‖₂.

    Parameters
    ----------
    source : Source
        The recording.
    relative_to : str or int
        ``init``, ``final``, ``previous`` or a step.
    **options : object
        As `moments_against` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        ‖w − r‖₂ over the selected weights, in units of weights.
    """
    moments, reference = moments_against(source, relative_to, **options)
    return distance_of(moments, reference)


def weight_change(source: Source, **options: Unpack[Pooled]) -> xr.DataArray:
    """Distance moved since the previous recorded step, ‖w − w_prev‖₂.

    Parameters
    ----------
    source : Source
        The recording.
    **options : object
        As `moments_against` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        ‖w − w_prev‖₂, NaN at the first recorded step; `interval` counts the updates between.
    """
    moments, reference = moments_against(source, "previous", **options)
    return distance_of(moments, reference, "weight_change")


def relative_change(
    source: Source, *, relative_to: Any = "previous", **options: Unpack[Pooled]
) -> xr.DataArray:
    """Distance moved as a share of the norm, ‖w − r‖₂ / ‖w‖₂.

    Parameters
    ----------
    source : Source
        The recording.
    relative_to : str or int
        ``init``, ``final``, ``previous`` or a step.
    **options : object
        As `moments_against` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        ‖w − r‖₂ / ‖w‖₂, where w is the step itself; NaN where its norm is 0.
    """
    moments, reference = moments_against(source, relative_to, **options)
    return relative_change_of(moments, reference)


def weight_magnitude(source: Source, **options: Unpack[Pooled]) -> xr.DataArray:
    """Mean absolute value of the weights.

    Parameters
    ----------
    source : Source
        The recording.
    **options : object
        As `moments_against` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        Σ|w| / n over the selected weights.
    """
    moments, _ = moments_against(source, None, **options)
    return magnitude_of(moments)


def cosine(source: Source, *, relative_to: Any = "init", **options: Unpack[Pooled]) -> xr.DataArray:
    """Cosine of the angle between the weights and a snapshot.

    Parameters
    ----------
    source : Source
        The recording.
    relative_to : str or int
        ``init``, ``final``, ``previous`` or a step.
    **options : object
        As `moments_against` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        w·r / (‖w‖₂ ‖r‖₂), in [−1, 1]; NaN where a norm is 0.
    """
    moments, reference = moments_against(source, relative_to, signed=True, **options)
    return cosine_of(moments, reference)


def effective_std(
    source: Source, *, relative_to: Any = "init", **options: Unpack[Pooled]
) -> xr.DataArray:
    """Standard deviation of the difference to a snapshot, std(w − r).

    Parameters
    ----------
    source : Source
        The recording.
    relative_to : str or int
        ``init``, ``final``, ``previous`` or a step.
    **options : object
        As `moments_against` takes them; with a mask it is over the survivors.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        Standard deviation (of the population) of w − r over the selected weights.
    """
    moments, reference = moments_against(source, relative_to, signed=True, **options)
    against = moments.against(reference)
    n = moments.selection.weights[:, None].astype(float)
    mean = share(against.signed.difference, n) if against.signed else 0.0
    variance = share(against.distance, n) - mean * mean
    return _compared("effective_std", np.sqrt(np.maximum(variance, 0)), moments, reference)


def moments_against(
    source: Source,
    relative_to: Any,
    *,
    steps: Any = None,
    by: str = "network",
    kinds: Any = None,
    mask: Any = None,
    scheduler: Any = None,
    signed: bool = False,
) -> tuple[Moments, Reference]:
    """Select, resolve the reference and read the recording once.

    Parameters
    ----------
    source : Source
        The recording.
    relative_to : str, int or None
        None for what needs no reference.
    steps, by, kinds, mask : object
        As `selection.select` takes them.
    scheduler : object
        As `open_executor` takes it.
    signed : bool
        Whether `Against.signed` is wanted.

    Returns
    -------
    moments : Moments
        The sums.
    reference : Reference
        The resolved reference; that of ``previous`` for None.
    """
    reference = find_reference(source, "previous" if relative_to is None else relative_to)
    selection = select(source, steps=steps, by=by, kinds=kinds, mask=mask)
    moments = compute_moments(
        source,
        selection,
        (reference,),
        previous=relative_to is not None and reference.step is None,
        signed=signed,
        scheduler=scheduler,
    )
    return moments, reference


def distance_of(
    moments: Moments, reference: Reference, name: str = "weight_distance"
) -> xr.DataArray:
    """Return ‖w − r‖₂ from sums."""
    return _compared(name, np.sqrt(moments.against(reference).distance), moments, reference)


def relative_change_of(moments: Moments, reference: Reference) -> xr.DataArray:
    """Return ‖w − r‖₂ / ‖w‖₂ from sums."""
    values = np.sqrt(share(moments.against(reference).distance, moments.square))
    return _compared("relative_change", values, moments, reference)


def magnitude_of(moments: Moments) -> xr.DataArray:
    """Return Σ|w| / n from sums."""
    metric = METRICS["weight-magnitude"]
    values = share(moments.magnitude, moments.selection.weights[:, None])
    return labelled(
        metric.python_name,
        values,
        moments.selection,
        units=metric.unit,
        long_name=metric.long_name,
    )


def cosine_of(moments: Moments, reference: Reference) -> xr.DataArray:
    """Return w·r / (‖w‖₂ ‖r‖₂) from sums.

    Parameters
    ----------
    moments : Moments
        The sums.
    reference : Reference
        The snapshot r.

    Returns
    -------
    DataArray
        In [−1, 1], also where rounding would say 1 + 10⁻¹⁶.
    """
    against = moments.against(reference)
    norms = np.sqrt(moments.square) * np.sqrt(against.square)
    if against.signed is not None:
        product = against.signed.product
    else:
        product = 0.5 * (moments.square + against.square - against.distance)
    return _compared("cosine", np.clip(share(product, norms), -1, 1), moments, reference)


def norms_differ_widely(moments: Moments, reference: Reference) -> bool:
    """Say whether 2 w·r = Σw² + Σr² − Σ(w−r)² would lose digits that a cosine needs.

    Parameters
    ----------
    moments : Moments
        The sums.
    reference : Reference
        The snapshot r.

    Returns
    -------
    bool
        True if one norm is more than a thousand times the other: its rounding error of 10⁻¹⁶
        would then be 10⁻¹³ of the cosine, and more beyond.
    """
    square = moments.against(reference).square
    low, high = np.minimum(moments.square, square), np.maximum(moments.square, square)
    return bool(((high > 1e6 * low) & (low > 0)).any())


def _compared(name: str, values: Any, moments: Moments, reference: Reference) -> xr.DataArray:
    metric = METRICS[name.replace("_", "-")]
    return compared(name, values, moments, reference, units=metric.unit, long_name=metric.long_name)


def sign_flips(
    source: Source, *, relative_to: Any = "previous", **options: Unpack[Pooled]
) -> xr.DataArray:
    """Share of weights whose sign is opposite to a snapshot's.

    Parameters
    ----------
    source : Source
        The recording.
    relative_to : str or int
        ``init``, ``final``, ``previous`` or a step.
    **options : object
        As `moments_against` takes them.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        In [0, 1]: flips over selected weights, zeros included in the count. A flip is a change
        between two non-zero signs. NaN at the first step for ``previous``, and where either
        snapshot has a NaN.
    """
    moments, reference = moments_against(source, relative_to, **options)
    return sign_flips_of(moments, reference)


def sign_flips_of(moments: Moments, reference: Reference) -> xr.DataArray:
    """Return the share of flips from counts."""
    metric = METRICS["sign-flips"]
    values = share(moments.against(reference).flips, moments.selection.weights[:, None])
    return compared(
        metric.python_name,
        values,
        moments,
        reference,
        units=metric.unit,
        long_name=metric.long_name,
    )
