"""Measure everything that one read of a run gives."""

from __future__ import annotations

import warnings
from typing import Any, Unpack

import numpy as np
import xarray as xr

from ckptlab.analyze.engine.labels import labelled, share
from ckptlab.analyze.engine.moments import Moments, compute_moments
from ckptlab.analyze.engine.observed import ObservedSource, observed
from ckptlab.analyze.engine.selection import Reference, Selection, find_reference, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.engine.warnings import MissingInitWarning
from ckptlab.analyze.registry.options import Pooled
from ckptlab.analyze.weights.distance import PREVIOUS, measure_moments, norms_differ_widely
from ckptlab.analyze.weights.gradients import pooled_gradients
from ckptlab.analyze.weights.recorded import recorded_series
from ckptlab.errors import MissingStepError
from ckptlab.store.read.ancestry import is_branch


def telemetry(source: Source, **selection: Unpack[Pooled]) -> xr.Dataset:
    """Every cheap metric at once, from one read of the run.

    Parameters
    ----------
    source : Source
        The recording.
    **selection : object
        Steps and weights, as `engine.selection.select` takes them, `scheduler` and `memory`.

    Returns
    -------
    Dataset, dims (step,) or (layer | tensor, step)
        Distances, cosines and sign flips against init, final and the previous step (suffixes
        ``_init``, ``_final``, ``_previous``), change, magnitude, zeros, extremes, gradients and
        the recorded series. What is against init is left out if step 0 was not recorded, what is
        against final if sums that were kept while recording stand in for the weights.
    """
    options: dict[str, Any] = dict(selection)
    resources = {key: options.pop(key, None) for key in ("scheduler", "memory")}
    source = observed(source, mask=options.get("mask"))
    chosen = select(source, **options)
    references = ends(source)
    moments = compared_moments(source, chosen, tuple(references.values()), **resources)
    return telemetry_of(source, moments, references)


def ends(source: Source) -> dict[str, Reference]:
    """Return the snapshots that telemetry compares with: ``init``, if recorded, and ``final``."""
    # What was summed while recording could not be compared with a state that was still to come.
    final = not isinstance(source, ObservedSource)
    references = {"final": find_reference(source, "final")} if final else {}
    # A recording that starts later has no init; everything else can still be measured.
    try:
        return {"init": find_reference(source, "init"), **references}
    except MissingStepError as error:
        if is_branch(source.attributes):
            warnings.warn(f"left out: {error}", MissingInitWarning, stacklevel=2)
    return references


def compared_moments(
    source: Source, selection: Selection, references: tuple[Reference, ...], **resources: Any
) -> Moments:
    """Read the recording once, and again only if its cosines need more digits."""
    moments = compute_moments(source, selection, references, **resources)
    apart = (norms_differ_widely(moments, reference) for reference in references)
    if not moments.signed and any(apart):
        # Rare, as in a diverged run: read again, with the products for the cosines themselves.
        moments = compute_moments(source, selection, references, signed=True, **resources)
    return moments


def telemetry_of(source: Source, moments: Moments, references: dict[str, Reference]) -> xr.Dataset:
    """Make `telemetry` from sums against `references`, by the suffix of their variables."""
    variables = weight_variables(moments, references)
    variables |= pooled_gradients(source, moments.selection)
    variables |= recorded_series(source, moments.selection.columns)
    return xr.Dataset(variables)


def weight_variables(moments: Moments, references: dict[str, Reference]) -> dict[str, xr.DataArray]:
    """Make every metric of the weights from sums, by the name of the variable."""
    variables: dict[str, xr.DataArray] = {}
    for suffix, reference in references.items():
        for name in ("weight-distance", "cosine", "sign-flips"):
            variable = measure_moments(name, moments, reference)
            variables[f"{variable.name}_{suffix}"] = variable
    variables["sign_flips_previous"] = measure_moments("sign-flips", moments, PREVIOUS)
    variables["weight_change"] = measure_moments("weight-change", moments, PREVIOUS)
    variables["relative_change"] = measure_moments("relative-change", moments, PREVIOUS)
    variables["weight_magnitude"] = measure_moments("weight-magnitude", moments)
    zeros = np.where(moments.get("nan") > 0, np.nan, moments.get("zeros"))
    zeros = share(zeros, moments.selection.weights[:, None])
    for name, values, units, long_name in (
        ("zeros", zeros, "1", "share of weights that are zero"),
        ("weight_min", moments.get("low"), "weight", "smallest weight"),
        ("weight_max", moments.get("high"), "weight", "largest weight"),
    ):
        variables[name] = labelled(
            name, values, moments.selection, units=units, long_name=long_name
        )
    return variables
