"""Describe the values of the weights: zeros, the shape of their distribution, bits that stay."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.histories import Histories, fold_histories, sum_groups
from ckptlab.analyze.engine.labels import labelled, share
from ckptlab.analyze.engine.masks import load_mask
from ckptlab.analyze.engine.moments import compute_moments
from ckptlab.analyze.engine.selection import Selection, count_weights, find_reference, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.analyze.registry.options import Pooled

Array = npt.NDArray[Any]


def sparsity(source: Source, **selection: Unpack[Pooled]) -> xr.DataArray:
    """Share of weights that are zero, those that the run itself has pruned among them.

    Parameters
    ----------
    source : Source
        The recording.
    **selection : object
        Steps and weights, as `engine.selection.select` takes them, `scheduler` and `memory`. With
        `mask`, of the weights that it keeps.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        In [0, 1]; negative zeros count. NaN where a weight is.
    """
    options: dict[str, Any] = dict(selection)
    resources = {key: options.pop(key, None) for key in ("scheduler", "memory")}
    chosen = select(source, **options)
    moments = compute_moments(source, chosen, previous=False, **resources)
    given = replace(chosen, keep=load_mask(options.get("mask"), source))
    given = replace(given, weights=count_weights(given))
    pruned = (given.weights - chosen.weights)[:, None]
    zeros = np.where(moments.get("nan") > 0, np.nan, moments.get("zeros") + pruned)
    return _labelled("sparsity", share(zeros, given.weights[:, None]), given)


def unchanged(
    source: Source, *, relative_to: Any = "previous", **selection: Unpack[Pooled]
) -> xr.DataArray:
    """Share of weights whose bits are those of a snapshot.

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
        In [0, 1]; a zero that changed its sign has changed. NaN at the first step for
        ``previous``, and where either snapshot has a NaN.
    """
    options: dict[str, Any] = dict(selection)
    resources = {key: options.pop(key, None) for key in ("scheduler", "memory")}
    chosen = select(source, **options)
    reference = find_reference(source, relative_to)
    previous = reference.step is None
    spans = fold_histories(
        source,
        chosen,
        partial(count_equal_bits, groups=len(chosen.names)),
        lead=int(previous),
        reference=None if previous else reference.read(source, "weights"),
        **resources,
    )
    equal, nan = np.concatenate(spans, axis=2)
    warn_again(source, chosen, nan, resources)
    equal[nan > 0] = np.nan
    interval = None
    if previous:
        equal[:, chosen.columns == 0] = np.nan
        interval = np.diff(source.steps, prepend=source.steps[:1])[chosen.columns]
    return _labelled(
        "unchanged",
        share(equal, chosen.weights[:, None]),
        chosen,
        interval=interval,
        relative_to=reference.name,
        relative_to_step=reference.step,
    )


def count_equal_bits(histories: Histories, groups: int) -> Array:
    """Count weights equal to the reference, or to the step before, and NaN in either of the two.

    Shape (2, groups, steps).
    """
    (values,) = histories.values
    now = values.take(histories.at, axis=1)
    if histories.reference is None:
        before = values.take(np.maximum(histories.at - 1, 0), axis=1)
    else:
        before = histories.reference.astype(np.float32)[:, None]
    equal = now.view(np.uint32) == before.view(np.uint32)
    nan = np.isnan(now) | np.isnan(before)
    return np.stack([sum_groups(part, histories.group, groups) for part in (equal, nan)])


def kurtosis(source: Source, **selection: Unpack[Pooled]) -> xr.DataArray:
    """Excess kurtosis of the weights, m₄ / m₂² − 3: 0 for a normal distribution.

    Parameters
    ----------
    source : Source
        The recording.
    **selection : object
        Steps and weights, as `engine.selection.select` takes them, `scheduler` and `memory`.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        m_k = Σ (w − w̄)ᵏ / n over the selected weights; at least −2. NaN where all are equal.
    """
    options: dict[str, Any] = dict(selection)
    resources = {key: options.pop(key, None) for key in ("scheduler", "memory")}
    chosen = select(source, **options)
    function = partial(central_powers, groups=len(chosen.names))
    spans = fold_histories(source, chosen, function, combine_powers, **resources)
    n, _, m2, _, m4 = np.concatenate(spans, axis=2)
    warn_again(source, chosen, np.isnan(m2), resources)
    return _labelled("kurtosis", share(n * m4, m2 * m2) - 3, chosen)


def central_powers(histories: Histories, groups: int) -> Array:
    """Return n, the mean, and Σ (w − mean)ᵏ for k = 2, 3, 4, shape (5, groups, steps)."""
    values = histories.values[0].take(histories.at, axis=1).astype(float)
    group = histories.group
    n = sum_groups(np.ones_like(values), group, groups)
    mean = np.divide(sum_groups(values, group, groups), n, out=np.zeros_like(n), where=n > 0)
    values -= mean[group]
    square = values * values
    powers = (square, values * square, square * square)
    return np.stack([n, mean, *(sum_groups(part, group, groups) for part in powers)])


def combine_powers(one: Array, other: Array) -> Array:
    """Combine the central powers of two sets of weights (Pébay 2008, SAND2008-6212)."""
    na, a, a2, a3, a4 = one
    nb, b, b2, b3, b4 = other
    n = na + nb
    part, d = np.divide(nb, n, out=np.zeros_like(n), where=n > 0), b - a
    rest = 1 - part
    both = na * part  # na nb / n
    m2 = a2 + b2 + d**2 * both
    m3 = a3 + b3 + d**3 * both * (rest - part) + 3 * d * (rest * b2 - part * a2)
    m4 = (
        a4
        + b4
        + d**4 * both * (rest**2 - rest * part + part**2)
        + 6 * d**2 * (rest**2 * b2 + part**2 * a2)
        + 4 * d * (rest * b3 - part * a3)
    )
    return np.stack([n, a + d * part, m2, m3, m4])


def warn_again(source: Source, selection: Selection, nan: Array, resources: dict[str, Any]) -> None:
    """Name the tensors and steps of NaN weights, if there are any; reads them again, rarely."""
    bad = np.asarray(nan).any(axis=0)
    if bad.any():
        at = replace(selection, columns=selection.columns[bad], steps=selection.steps[bad])
        compute_moments(source, at, **resources)


def _labelled(name: str, values: Array, selection: Selection, **about: Any) -> xr.DataArray:
    metric = METRICS[name]
    return labelled(name, values, selection, units=metric.unit, long_name=metric.long_name, **about)
