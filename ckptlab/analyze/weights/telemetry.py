"""Every cheap metric at once."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import xarray as xr

from ckptlab.analyze.engine.labels import labelled, share
from ckptlab.analyze.engine.moments import Moments, compute_moments
from ckptlab.analyze.engine.selection import Reference, Selection, find_reference, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.engine.warnings import MissingInitWarning
from ckptlab.analyze.weights.distance import (
    cosine_of,
    distance_of,
    magnitude_of,
    norms_differ_widely,
    relative_change_of,
    sign_flips_of,
)
from ckptlab.analyze.weights.gradients import pooled_gradients
from ckptlab.analyze.weights.recorded import recorded_series
from ckptlab.errors import MissingStepError
from ckptlab.store.read.ancestry import is_branch


def telemetry(
    source: Source,
    *,
    steps: Any = None,
    by: str = "network",
    kinds: Any = None,
    mask: Any = None,
    scheduler: Any = None,
) -> xr.Dataset:
    """Every cheap metric at once, from one read of the run.

    Parameters
    ----------
    source : Source
        The recording.
    steps, by, kinds, mask : object
        As `selection.select` takes them.
    scheduler : object
        As `open_executor` takes it.

    Returns
    -------
    Dataset, dims (step,) or (layer | tensor, step)
        Distances, cosines and sign flips against init, final and the previous step (suffixes
        ``_init``, ``_final``, ``_previous``), change, magnitude, zeros, extremes, gradients and
        the recorded series. What is against init is left out if step 0 was not recorded.
    """
    selection = select(source, steps=steps, by=by, kinds=kinds, mask=mask)
    references = ends(source)
    moments = compared_moments(source, selection, tuple(references.values()), scheduler)
    return telemetry_of(source, moments, references)


def ends(source: Source) -> dict[str, Reference]:
    """Return the snapshots that telemetry compares with, by name.

    Parameters
    ----------
    source : Source
        The recording.

    Returns
    -------
    dict of str to Reference
        ``init``, unless step 0 was not recorded, and ``final``.
    """
    references = {"final": find_reference(source, "final")}
    # A recording that starts later has no init; everything else can still be measured.
    try:
        return {"init": find_reference(source, "init"), **references}
    except MissingStepError as error:
        if is_branch(source.attributes):
            warnings.warn(f"left out: {error}", MissingInitWarning, stacklevel=2)
    return references


def compared_moments(
    source: Source, selection: Selection, references: tuple[Reference, ...], scheduler: Any
) -> Moments:
    """Read the recording once, and again only if its cosines need more digits.

    Parameters
    ----------
    source : Source
        The recording.
    selection : Selection
        Weights and steps.
    references : tuple of Reference
        Snapshots to compare with.
    scheduler : object
        As `open_executor` takes it.

    Returns
    -------
    Moments
        What every cheap metric is made of.
    """
    moments = compute_moments(source, selection, references, scheduler=scheduler)
    if any(norms_differ_widely(moments, reference) for reference in references):
        # Rare, as in a diverged run: read again, with the products for the cosines themselves.
        moments = compute_moments(source, selection, references, signed=True, scheduler=scheduler)
    return moments


def telemetry_of(source: Source, moments: Moments, references: dict[str, Reference]) -> xr.Dataset:
    """Turn sums, and what was recorded beside the weights, into every cheap metric.

    Parameters
    ----------
    source : Source
        The recording.
    moments : Moments
        The sums.
    references : dict of str to Reference
        Resolved references, by the suffix their variables get.

    Returns
    -------
    Dataset
        As `telemetry` returns it.
    """
    variables = weight_variables(moments, references)
    if moments.selection.mask is None:
        variables |= pooled_gradients(source, moments.selection)
    variables |= recorded_series(source, moments.selection.columns)
    return xr.Dataset(variables)


def weight_variables(moments: Moments, references: dict[str, Reference]) -> dict[str, xr.DataArray]:
    """Turn sums into every metric of the weights.

    Parameters
    ----------
    moments : Moments
        The sums.
    references : dict of str to Reference
        Resolved references, by the suffix their variables get.

    Returns
    -------
    dict of str to DataArray
        By name of the variable.
    """
    previous = Reference("previous", None, None)
    variables: dict[str, xr.DataArray] = {}
    for suffix, reference in references.items():
        variables[f"weight_distance_{suffix}"] = distance_of(moments, reference)
        variables[f"cosine_{suffix}"] = cosine_of(moments, reference)
        variables[f"sign_flips_{suffix}"] = sign_flips_of(moments, reference)
    variables["sign_flips_previous"] = sign_flips_of(moments, previous)
    variables["weight_change"] = distance_of(moments, previous, "weight_change")
    variables["relative_change"] = relative_change_of(moments, previous)
    variables["weight_magnitude"] = magnitude_of(moments)
    zeros = np.where(moments.nan > 0, np.nan, moments.zeros)
    zeros = share(zeros, moments.selection.weights[:, None])
    for name, values, long_name in (
        ("zeros", zeros, "share of weights that are zero"),
        ("weight_min", moments.low, "smallest weight"),
        ("weight_max", moments.high, "largest weight"),
    ):
        units = "1" if name == "zeros" else "weight"
        variables[name] = labelled(
            name, values, moments.selection, units=units, long_name=long_name
        )
    return variables
