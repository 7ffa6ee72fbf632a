"""A run at a glance: telemetry of the network and of its layers, and the phases, from one read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from ckptlab.analyze.engine.moments import Against, Moments, Signed
from ckptlab.analyze.engine.selection import Reference, Selection, select
from ckptlab.analyze.engine.source import as_source
from ckptlab.analyze.weights.distance import relative_change_of, sign_flips_of
from ckptlab.analyze.weights.gradients import pooled_gradients
from ckptlab.analyze.weights.telemetry import compared_moments, ends, telemetry_of
from ckptlab.analyze.weights.timeline import phase_references, timeline_of
from ckptlab.errors import StepError


@dataclass(frozen=True)
class Survey:
    """What `survey` found.

    Parameters
    ----------
    network : Dataset, dims (step,)
        What the metric `telemetry` computes for the whole network.
    layers : Dataset, dims (layer, step)
        `sign_flips` and `relative_change` against the previous recorded step and, where it was
        recorded, `gradient_norm`.
    timeline : Dataset, dims (phase,)
        What the metric `timeline` computes.
    """

    network: xr.Dataset
    layers: xr.Dataset
    timeline: xr.Dataset


def survey(
    recording: Any, *, steps: Any = None, kinds: Any = None, scheduler: Any = None
) -> Survey:
    """Measure a run as a whole and layer by layer, from one read of it.

    Parameters
    ----------
    recording : StoredRun, Run or Dataset
        As `as_source` takes it.
    steps, kinds : object
        As `selection.select` takes them.
    scheduler : object
        As `open_executor` takes it.

    Returns
    -------
    Survey
        Sums over the layers are sums over the network.

    Raises
    ------
    StepError
        If fewer than two steps are committed and selected.
    """
    source = as_source(recording)
    selection = select(source, steps=steps, by="layer", kinds=kinds)
    if len(selection.steps) < 2:
        raise StepError(
            f"{source.path} ({source.state}) has {len(selection.steps)} committed step among those "
            "asked for; an overview needs at least 2: choose more, or wait until a block is "
            "committed"
        )
    references = ends(source)
    compared = {r.step: r for r in (*references.values(), *phase_references(selection))}
    moments = compared_moments(source, selection, tuple(compared.values()), scheduler)
    network = pooled(moments)
    whole = telemetry_of(source, network, references)
    phases = timeline_of(source, network)
    previous = Reference("previous", None, None)
    layers = {
        "sign_flips": sign_flips_of(moments, previous),
        "relative_change": relative_change_of(moments, previous),
    }
    gradients = pooled_gradients(source, selection)
    layers |= {name: gradients[name] for name in ("gradient_norm",) if name in gradients}
    return Survey(whole, xr.Dataset(layers), phases)


def pooled(moments: Moments) -> Moments:
    """Add the groups of a measurement up to one, the network.

    Parameters
    ----------
    moments : Moments
        Over layers or tensors.

    Returns
    -------
    Moments
        As if the weights had been pooled from the start: counts the same, sums to rounding.
    """
    return Moments(
        selection=_whole(moments.selection),
        magnitude=_sum(moments.magnitude),
        square=_sum(moments.square),
        zeros=_sum(moments.zeros),
        nan=_sum(moments.nan),
        low=moments.low.min(axis=0, keepdims=True),
        high=moments.high.max(axis=0, keepdims=True),
        previous=_pooled_against(moments.previous),
        references={step: _pooled_against(a) for step, a in moments.references.items()},
        interval=moments.interval,
    )


def _whole(selection: Selection) -> Selection:
    return replace(
        selection,
        group=np.minimum(selection.group, 0),
        tensor_group=np.minimum(selection.tensor_group, 0),
        names=("network",),
        weights=selection.weights.sum(keepdims=True),
        by="network",
    )


def _pooled_against(against: Against) -> Against:
    signed = against.signed
    return Against(
        _sum(against.distance),
        _sum(against.flips),
        _sum(against.square),
        None if signed is None else Signed(_sum(signed.difference), _sum(signed.product)),
    )


def _sum(values: Any) -> Any:
    return values.sum(axis=0, keepdims=True)
