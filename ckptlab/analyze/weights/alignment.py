"""Measure how updates line up: with each other, along the path, and with the gradient."""

from __future__ import annotations

from functools import partial
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.histories import Histories, fold_histories
from ckptlab.analyze.engine.labels import labelled, share
from ckptlab.analyze.engine.selection import Selection, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.registry.options import Pooled
from ckptlab.analyze.weights.values import warn_again

Array = npt.NDArray[Any]

TOGETHER = 32
"""Steps whose updates are multiplied at once."""


def alignment(source: Source, *, lags: int = 20, **selection: Unpack[Pooled]) -> xr.Dataset:
    """Cosine of successive updates, of update and gradient, and the path's autocorrelation.

    Parameters
    ----------
    source : Source
        The recording.
    lags : int
        The largest lag of the autocorrelation, in recorded steps.
    **selection : object
        Steps and weights, as `engine.selection.select` takes them, `scheduler` and `memory`.

    Returns
    -------
    Dataset, dims (step,), (lag,), or with layer or tensor before
        With Δ_t = w_t − w_{t−1}, the change since the previous recorded step: `update_cosine`,
        Δ_t·Δ_{t−1} / (‖Δ_t‖ ‖Δ_{t−1}‖), NaN at the first two steps; where gradients were recorded,
        `gradient_cosine`, −Δ_t·g_t / (‖Δ_t‖ ‖g_t‖) with the mini-batch gradient of that update, NaN
        where the previous step was not recorded; `autocorrelation`, Σ Δ_t·Δ_{t−l} over
        √(Σ ‖Δ_t‖² Σ ‖Δ_{t−l}‖²), summed over the selected steps t that have an update l before.

    Notes
    -----
    Plain gradient descent has a `gradient_cosine` of 1; momentum and Adam have less. Updates that
    reverse each other have a negative `update_cosine`, as beyond the edge of stability.
    """
    options: dict[str, Any] = dict(selection)
    resources = {key: options.pop(key, None) for key in ("scheduler", "memory")}
    chosen = select(source, **options)
    groups, columns = len(chosen.names), chosen.columns
    lags = min(lags, max(len(source.steps) - 2, 1))
    arrays = ("weights", "gradients") if source.has("gradients") else ("weights",)
    spans = fold_histories(
        source,
        chosen,
        partial(products_of_updates, lags=lags, groups=groups),
        add_products,
        lead=lags + 1,
        arrays=arrays,
        **resources,
    )
    products, squares, gradient = (
        np.concatenate(part, axis=-1) for part in zip(*spans, strict=True)
    )
    # An update ends at a recorded step that is not the first.
    exists = columns - np.arange(lags + 1)[:, None] >= 1
    products = np.where(exists, products, np.nan)
    warn_again(source, chosen, np.isnan(products[:, 0]) & exists[0], resources)
    cosines = share(products[:, 1], np.sqrt(products[:, 0] * squares[:, 1]))
    found = {"update_cosine": (cosines, "cosine of successive updates")}
    if len(arrays) > 1:
        single = np.diff(source.steps, prepend=source.steps[:1])[columns] == 1
        cosines = share(-gradient[:, 0], np.sqrt(products[:, 0] * gradient[:, 1]))
        found["gradient_cosine"] = (
            np.where(single, cosines, np.nan),
            "cosine of update and −gradient",
        )
    data = {
        name: labelled(name, np.clip(values, -1, 1), chosen, units="1", long_name=long_name)
        for name, (values, long_name) in found.items()
    }
    both = [
        np.where(exists, part, 0).sum(axis=-1)
        for part in (products, products[:, :1], np.where(exists, squares, 0))
    ]
    autocorrelation = share(both[0], np.sqrt(both[1] * both[2]))[:, 1:]
    return xr.Dataset({**data, "autocorrelation": _over_lags(autocorrelation, chosen, data)})


def products_of_updates(histories: Histories, lags: int, groups: int) -> tuple[Array, Array, Array]:
    """Multiply each update with those before it, and with its gradient.

    Returns Δ_t·Δ_{t−l} and ‖Δ_{t−l}‖², shape (groups, 1 + lags, steps), and Δ_t·g_t and ‖g_t‖²,
    shape (groups, 2, steps). An update that does not exist is 0.
    """
    at, steps = histories.at, len(histories.at)
    products, squares = np.zeros((2, groups, lags + 1, steps))
    gradient = np.zeros((groups, 2, steps))
    # Where wanted steps are neighbours, the difference is an update; others are never looked at.
    before = np.maximum(at[:, None] - np.arange(lags + 1), 0)
    for g in np.unique(histories.group).tolist():
        rows = np.flatnonzero(histories.group == g)
        path = histories.values[0][rows]
        updates = np.zeros(path.shape)
        np.subtract(path[:, 1:], path[:, :-1], out=updates[:, 1:], dtype=float)
        lengths = np.einsum("ij,ij->j", updates, updates)
        squares[g] = lengths[before].T
        for k in range(0, steps, TOGETHER):
            part = slice(k, k + TOGETHER)
            low, high = before[part].min(), at[part].max() + 1
            gram = updates[:, low:high].T @ updates[:, at[part]]
            products[g, :, part] = gram[before[part] - low, np.arange(gram.shape[1])[:, None]].T
        for values in histories.values[1:]:
            own = values[rows][:, at].astype(float)
            gradient[g, 0, :] = np.einsum("ij,ij->j", updates[:, at], own)
            gradient[g, 1, :] = np.einsum("ij,ij->j", own, own)
    return products, squares, gradient


def add_products(one: Any, other: Any) -> Any:
    """Add what `products_of_updates` found on two stretches of parameters."""
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _over_lags(values: Array, selection: Selection, data: dict[str, xr.DataArray]) -> xr.DataArray:
    about = {"units": "1", "long_name": "autocorrelation of the updates"}
    meaning = {"units": "recorded steps", "long_name": "lag"}
    coords: dict[str, Any] = {"lag": ("lag", np.arange(1, values.shape[1] + 1), meaning)}
    if selection.by == "network":
        return xr.DataArray(values[0], coords, ("lag",), attrs=about)
    coords[selection.by] = data["update_cosine"][selection.by]
    return xr.DataArray(values, coords, (selection.by, "lag"), attrs=about)
