"""Estimate trace and spectral density of the Hessian from products with random vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from ckptlab.analyze.engine.labels import STEP_ATTRIBUTES, labelled
from ckptlab.analyze.engine.masks import surviving
from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import select_columns
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.model.eigen import DENSE_UP_TO, curvature_matrix, dense
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import ReplayModel, select_trained
from ckptlab.problems.examples import Subset, draw

Array = npt.NDArray[np.float64]

POINTS = 512
"""Points of the grid that a density is drawn on."""

KAPPA, MARGIN = 3.0, 0.05
"""Width of the bumps, and what the grid reaches beyond the extreme nodes (Papyan 2020, D.2)."""

UNITS = "loss per weight^2"


def hessian_trace(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = "log:2",
    by: str = "network",
    kinds: Any = "all",
    mask: Any = None,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    products: int = 90,
    batch_norm: str = "train",
    scheduler: Any = None,
) -> xr.DataArray:
    """Trace of the Hessian of the training loss, by Hutch++.

    Parameters
    ----------
    source, model, data, loss : object
        As `hessian_spectrum` takes them.
    steps, by, kinds : object
        As `selection.select` takes them. A layer's trace is that of its block of the Hessian; the
        blocks share the random vectors, and add up to the whole network's.
    mask, samples, seed, batch_size : object
        As `hessian_spectrum` takes them; `seed` draws the random vectors too, anew for each step.
    products : int
        Hessian-vector products for each step, a multiple of 3: a third finds the range of the
        largest eigenvalues, a third measures the trace there, the last estimates the rest. A model
        of at most 256 weights, or of no more than this, gets the exact trace.
    batch_norm, scheduler : object
        As well.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        Sum of the Hessian's diagonal over the selected surviving weights, Σ λ of a whole network;
        NaN where the Hessian is not finite, and in a group without any weight.

    Raises
    ------
    MissingExtraError
        If curvlinops is not installed.
    LayoutError
        If the model is not the one recorded, or no trained parameter is selected.
    """
    keep = surviving(source, mask)
    replay = ReplayModel(source, model, loss, batch_norm=batch_norm, mask=mask)
    subset = draw(data, samples, seed, batch_size)
    selection, group = select_trained(replay, steps=steps, by=by, kinds=kinds, mask=keep)
    sizes = np.bincount(group[group >= 0], minlength=len(selection.names))
    products -= products % 3
    measure = partial(_traces, group=group, groups=len(sizes), products=products, seed=seed)
    values = np.stack(spread(measure, replay, subset, selection.columns, scheduler), axis=1)
    exact = replay.size <= max(DENSE_UP_TO, products)
    return labelled(
        "hessian_trace",
        np.where(sizes[:, None] > 0, values, np.nan),
        selection,
        units=UNITS,
        long_name="trace of the Hessian",
        method="exact" if exact else f"Hutch++ (products by curvlinops), {products} products",
        **_about(replay, subset, seed),
    )


def hessian_density(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = "log:2",
    mask: Any = None,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    iterations: int = 80,
    probes: int = 1,
    batch_norm: str = "train",
    scheduler: Any = None,
) -> xr.Dataset:
    """Spectral density of the Hessian, (1/P) Σ δ(λ − λᵢ), by stochastic Lanczos quadrature.

    Parameters
    ----------
    source, model, data, loss, steps, mask, samples, seed, batch_size : object
        As `hessian_spectrum` takes them; `seed` draws the random vectors too, anew for each step.
    iterations : int
        Of Lanczos, one Hessian-vector product each. A model of at most 256 weights gets all its
        eigenvalues.
    probes : int
        Random vectors that are averaged over.
    batch_norm, scheduler : object
        As well.

    Returns
    -------
    Dataset, dims (step, point), (step, probe, node)
        `density` at the eigenvalues `value` (step, point), which reach a little beyond the extremes
        of each step: Gauss quadrature, each node a bump of width σ = d / (m − 1) / √(2 ln 3), d the
        half range and m the nodes of a probe. `node` and `weight` are the quadrature itself: a mean
        over the spectrum, (1/P) Σ f(λᵢ), is Σ weight · f(node) averaged over probes. NaN where the
        Hessian is not finite.

    Raises
    ------
    MissingExtraError
        If curvlinops is not installed.
    LayoutError
        If the model is not the one recorded, or the mask keeps nothing of it.

    References
    ----------
    Papyan (2020), arXiv:2008.11865; Ghorbani, Krishnan & Xiao (2019), arXiv:1901.10159.
    """
    replay = ReplayModel(source, model, loss, batch_norm=batch_norm, mask=mask)
    subset = draw(data, samples, seed, batch_size)
    columns = select_columns(source, steps)
    iterations = min(iterations, replay.size)
    measure = partial(_quadratures, iterations=iterations, probes=probes, seed=seed)
    nodes, weights = np.moveaxis(
        np.stack(spread(measure, replay, subset, columns, scheduler)), 1, 0
    )
    value, density = smooth(nodes, weights)
    unit = {"units": UNITS, "long_name": "eigenvalue"}
    by_node = ("step", "probe", "node_number")
    exact = replay.size <= DENSE_UP_TO
    return xr.Dataset(
        {
            "density": (
                ("step", "point"),
                density,
                {"units": f"1 per ({UNITS})", "long_name": "spectral density"},
            ),
            "node": (by_node, nodes, {**unit, "long_name": "node"}),
            "weight": (by_node, weights, {"units": "1", "long_name": "weight of the node"}),
        },
        {
            "step": ("step", source.steps[columns], dict(STEP_ATTRIBUTES)),
            "value": (("step", "point"), value, unit),
        },
        {
            "method": "all eigenvalues" if exact else "Lanczos (curvlinops)",
            **_about(replay, subset, seed),
        },
    )


def smooth(nodes: Array, weights: Array) -> tuple[Array, Array]:
    """Draw quadratures, shape (steps, probes, nodes), as densities; returns grid and density."""
    low, high = nodes.min(axis=(1, 2)), nodes.max(axis=(1, 2))
    # A single eigenvalue has a width, too.
    spare = np.where(high > low, high - low, np.maximum(np.abs(high), 1)) * MARGIN
    low, high = low - spare, high + spare
    value = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, POINTS)
    half = (high - low) / 2
    sigma = half * 2 / max(nodes.shape[2] - 1, 1) / math.sqrt(8 * math.log(KAPPA))
    density = np.zeros_like(value)
    for k in range(nodes.shape[2]):
        at = (value[:, None, :] - nodes[:, :, k, None]) / sigma[:, None, None]
        bump = np.exp(-(at**2) / 2) / (sigma[:, None, None] * math.sqrt(2 * math.pi))
        density += (weights[:, :, k, None] * bump).mean(axis=1)
    return value, density


def _traces(
    model: ReplayModel,
    subset: Subset,
    columns: Sequence[int],
    before: Any,
    *,
    group: npt.NDArray[np.int32],
    groups: int,
    products: int,
    seed: int,
) -> list[Array]:
    """Find the trace of each group's block at each step."""
    del before
    chosen = group >= 0
    found = []
    for column in paced(columns):
        model.load_step(column)
        matrix = curvature_matrix(model, subset)
        if model.size <= max(DENSE_UP_TO, products):
            diagonal = np.diag(dense(matrix))
        else:
            diagonal = _diagonal(matrix, products // 3, _seed(seed, column))
        sums = np.bincount(group[chosen], diagonal[chosen], minlength=groups)
        found.append(sums.astype(np.float64))
    return found


def _diagonal(matrix: Any, count: int, seed: int) -> Array:
    """Estimate a symmetric matrix's diagonal, whose sum is the trace that Hutch++ estimates.

    With Q the range that `count` products find, W = H Q and P = I − Q Qᵀ, the diagonal of
    H = W Qᵀ + Q Wᵀ − Q (Qᵀ W) Qᵀ + P H P is known but for P H P, which random signs estimate.
    """
    draws = np.random.default_rng(seed).integers(0, 2, (2, matrix.shape[0], count), dtype=np.int8)
    # Products are no more precise, and float64 would take a tenth of their time.
    dtype = torch.promote_types(matrix.precision, torch.float32)
    first, signs = torch.from_numpy(draws).to(dtype).mul_(2).sub_(1)
    basis, _ = torch.linalg.qr(matrix @ first)
    image = matrix @ basis
    rest = matrix @ torch.addmm(signs, basis, basis.mT @ signs, alpha=-1)
    rest.addmm_(basis, basis.mT @ rest, alpha=-1)
    known = torch.addmm(image, basis, basis.mT @ image, beta=2, alpha=-1)
    found: Array = (known.mul_(basis).sum(1) + rest.mul_(signs).mean(1)).double().numpy()
    return found


def _quadratures(
    model: ReplayModel,
    subset: Subset,
    columns: Sequence[int],
    before: Any,
    *,
    iterations: int,
    probes: int,
    seed: int,
) -> list[Array]:
    """Find nodes and weights at each step, shape (2, probes, nodes)."""
    del before
    found = []
    for column in paced(columns):
        model.load_step(column)
        matrix = curvature_matrix(model, subset)
        if model.size <= DENSE_UP_TO:
            whole = dense(matrix)
            bad = not np.isfinite(whole).all()
            nodes = np.full(model.size, np.nan) if bad else np.linalg.eigvalsh(whole)
            pair = np.stack([nodes, np.full(model.size, 1 / model.size)])
            found.append(pair[:, None])
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(seed, column))
            found.append(np.stack([_lanczos(matrix, iterations) for _ in range(probes)], axis=1))
    return found


def _lanczos(matrix: Any, iterations: int) -> Array:
    """Find nodes and weights of one quadrature, shape (2, nodes)."""
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    flat = np.stack([np.zeros(iterations), np.full(iterations, 1 / iterations)])
    image = matrix @ torch.ones(matrix.shape[1], dtype=matrix.dtype)
    if not torch.isfinite(image).all():
        return flat + np.nan
    if not image.any():
        # A flat loss: there is no second vector.
        return flat
    values, vectors = fast_lanczos(matrix, iterations)
    return np.stack([values.numpy(), vectors[0].numpy() ** 2])


def _seed(seed: int, column: int) -> int:
    """Return a seed for a step: the same wherever the step is measured."""
    return int(np.random.SeedSequence([seed, int(column)]).generate_state(1)[0])


def _about(model: ReplayModel, subset: Subset, seed: int) -> dict[str, Any]:
    return {
        "function": "mean loss over the data, without augmentation or weight decay, dropout off",
        "parameters": model.size,
        "seed": seed,
        **model.describe(subset),
    }
