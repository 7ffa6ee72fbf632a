"""Measure a run at a glance: the network, its layers and the phases, from one read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from ckptlab.analyze.engine.fields import COMBINE
from ckptlab.analyze.engine.moments import Moments
from ckptlab.analyze.engine.observed import observed
from ckptlab.analyze.engine.selection import Selection, select
from ckptlab.analyze.engine.source import as_source
from ckptlab.analyze.weights.distance import PREVIOUS, measure_moments
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
    recording: Any,
    *,
    steps: Any = None,
    kinds: Any = None,
    scheduler: Any = None,
    memory: Any = None,
) -> Survey:
    """Measure a run as a whole and layer by layer, from one read of it.

    Parameters
    ----------
    recording : StoredRun, Run or Dataset
        As `as_source` takes it.
    steps, kinds : object
        As `selection.select` takes them.
    scheduler, memory : object
        As `compute_moments` takes them.

    Returns
    -------
    Survey
        Sums over the layers are sums over the network.

    Raises
    ------
    StepError
        If fewer than two steps are committed and selected.
    """
    source = observed(as_source(recording))
    selection = select(source, steps=steps, by="layer", kinds=kinds)
    if len(selection.steps) < 2:
        raise StepError(
            f"{source.path} ({source.state}) has {len(selection.steps)} committed step among those "
            "asked for; an overview needs at least 2: choose more, or wait until a block is "
            "committed"
        )
    references = ends(source)
    compared = {r.step: r for r in (*references.values(), *phase_references(selection))}
    moments = compared_moments(
        source, selection, tuple(compared.values()), scheduler=scheduler, memory=memory
    )
    network = pooled(moments)
    layers = {
        "sign_flips": measure_moments("sign-flips", moments, PREVIOUS),
        "relative_change": measure_moments("relative-change", moments, PREVIOUS),
    }
    gradients = pooled_gradients(source, selection)
    layers |= {name: gradients[name] for name in ("gradient_norm",) if name in gradients}
    return Survey(
        telemetry_of(source, network, references),
        xr.Dataset(layers),
        timeline_of(source, network, scheduler=scheduler, memory=memory),
    )


def pooled(moments: Moments) -> Moments:
    """Combine the groups of a measurement into one, the network: counts exactly, sums to rounding.

    Extremes stay NaN where one layer's are, unless a mask leaves that layer nothing.
    """
    held = moments.selection.weights > 0
    sums = {
        (name, against): COMBINE.get(name, np.add).reduce(values[held], axis=0, keepdims=True)
        for (name, against), values in moments.sums.items()
    }
    return replace(moments, selection=_whole(moments.selection), sums=sums)


def _whole(selection: Selection) -> Selection:
    return replace(
        selection,
        tensor_group=np.minimum(selection.tensor_group, 0),
        names=("network",),
        weights=selection.weights.sum(keepdims=True),
        by="network",
    )
