"""Measure the singular values of weight matrices: norm, ranks, condition, and the tail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Unpack, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.own_metrics import call_on_snapshots
from ckptlab.analyze.engine.selection import select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.analyze.registry.options import Selected
from ckptlab.errors import LayoutError, spell

Array = npt.NDArray[np.float64]

PRECISE = 1e-10
"""Down to such a share of the largest eigenvalue, those of W Wᵀ in float64 are taken as they are:
their square roots are then exact to six digits. An SVD is 5 times slower."""

FEWEST = 3
"""Singular values that a tail is fitted to."""


def spectral_norm(source: Source, **selection: Unpack[Selected]) -> xr.DataArray:
    """Largest singular value of each weight matrix, ‖W‖₂ = σ₁.

    Parameters
    ----------
    source : Source
        The recording.
    **selection : object
        Steps and weights, as `engine.selection.select` takes them, `scheduler` and `memory`. What
        a mask prunes is zero in its matrix.

    Returns
    -------
    DataArray, dims (tensor, step)
        In units of weights. A convolution is the matrix (out, in · height · width); tensors of
        fewer than two dims, and those with a NaN or an infinity, are NaN.
    """
    return cast("xr.DataArray", _measure("spectral-norm", source, _spectral_norm, selection))


def stable_rank(source: Source, **selection: Unpack[Selected]) -> xr.DataArray:
    """Stable rank of each weight matrix, ‖W‖_F² / ‖W‖₂² = Σ σ² / σ₁².

    Parameters
    ----------
    source, **selection : object
        As `spectral_norm` takes them.

    Returns
    -------
    DataArray, dims (tensor, step)
        Between 1 and the rank; NaN for a matrix of zeros.
    """
    return cast("xr.DataArray", _measure("stable-rank", source, _stable_rank, selection))


def effective_rank(source: Source, **selection: Unpack[Selected]) -> xr.DataArray:
    """Effective rank of each weight matrix, exp(−Σ p ln p) with p = σ / Σ σ.

    Parameters
    ----------
    source, **selection : object
        As `spectral_norm` takes them.

    Returns
    -------
    DataArray, dims (tensor, step)
        Between 1 and the rank; NaN for a matrix of zeros.
    """
    return cast("xr.DataArray", _measure("effective-rank", source, _effective_rank, selection))


def condition(source: Source, **selection: Unpack[Selected]) -> xr.DataArray:
    """Condition number of each weight matrix, the largest over the smallest singular value.

    Parameters
    ----------
    source, **selection : object
        As `spectral_norm` takes them.

    Returns
    -------
    DataArray, dims (tensor, step)
        σ₁ / σ_min(m, n), at least 1; infinite where the smallest is 0.
    """
    return cast("xr.DataArray", _measure("condition", source, _condition, selection))


def heavy_tail(source: Source, **selection: Unpack[Selected]) -> xr.Dataset:
    """Exponent α of a power law fitted to the tail of each matrix's spectrum, ρ(λ) ∝ λ^−α.

    Parameters
    ----------
    source, **selection : object
        As `spectral_norm` takes them.

    Returns
    -------
    Dataset, dims (tensor, step)
        `alpha` = 1 + n / Σ ln(λ / λ_min) over the n eigenvalues λ = σ² from λ_min on, the most
        likely exponent; λ_min is the one of the eigenvalues with the smallest Kolmogorov-Smirnov
        `distance` between the fit and its tail, and `tail_size` is n. NaN with fewer than 3
        singular values above rounding, σ₁ min(m, n) 2⁻²³.

    Notes
    -----
    As WeightWatcher fits matrices of 20 singular values or more; it corrects smaller ones, and
    takes a convolution apart into its positions.
    """
    result = cast("xr.Dataset", _measure("heavy-tail", source, _heavy_tail, selection))
    names = {
        "alpha": "exponent of the tail",
        "distance": "Kolmogorov-Smirnov distance",
        "tail_size": "eigenvalues in the tail",
    }
    for name, long_name in names.items():
        result[name].attrs["long_name"] = long_name
    return result


def singular_values(weights: npt.NDArray[Any]) -> Array:
    """Return the min(m, n) singular values, decreasing; empty if there is no such thing."""
    if weights.ndim < 2 or not weights.size or not np.isfinite(weights).all():
        return np.zeros(0)
    matrix = weights.reshape(len(weights), -1).astype(float)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    squares = np.linalg.eigvalsh(matrix @ matrix.T)[::-1]
    if squares[-1] > PRECISE * squares[0]:
        return np.asarray(np.sqrt(squares))
    return np.asarray(np.linalg.svd(matrix, compute_uv=False))


def _spectral_norm(values: Array) -> float:
    return float(values[0])


def _stable_rank(values: Array) -> float:
    return float((values @ values) / values[0] ** 2) if values[0] > 0 else np.nan


def _effective_rank(values: Array) -> float:
    if not values[0] > 0:
        return np.nan
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _condition(values: Array) -> float:
    if not values[0] > 0:
        return np.nan
    return float(values[0] / values[-1]) if values[-1] > 0 else np.inf


def _heavy_tail(values: Array) -> dict[str, float]:
    # What is below is rounding of the float32 weights.
    least = values[0] * len(values) * np.finfo(np.float32).eps
    eigenvalues = np.sort(values[values > least] ** 2)
    if len(eigenvalues) < FEWEST:
        return dict.fromkeys(("alpha", "distance", "tail_size"), np.nan)
    logs, count = np.log(eigenvalues), len(eigenvalues)
    sizes = count - np.arange(count - 1)
    # Σ ln λ over each tail, less n ln λ_min.
    excess = logs[::-1].cumsum()[::-1][:-1] - sizes * logs[:-1]
    with np.errstate(divide="ignore"):
        alphas = 1 + sizes / excess
    distances = np.array(
        [
            np.abs(1 - np.exp((1 - alphas[i]) * (logs[i:] - logs[i])) - np.arange(n) / n).max()
            if np.isfinite(alphas[i])
            else np.inf
            for i, n in enumerate(sizes)
        ]
    )
    best = int(distances.argmin())
    return {
        "alpha": float(alphas[best]),
        "distance": float(distances[best]),
        "tail_size": float(sizes[best]),
    }


def _measure(
    name: str, source: Source, formula: Callable[[Array], Any], selection: Any
) -> xr.DataArray | xr.Dataset:
    options: dict[str, Any] = dict(selection)
    resources = {key: options.pop(key, None) for key in ("scheduler", "memory")}
    chosen = select(source, by="tensor", **options)
    matrices = [t.name for t in source.layout.tensors if len(t.shape) > 1]
    if not set(chosen.names) & set(matrices):
        raise LayoutError(
            f"{name} is of matrices, and {spell('kinds', ','.join(chosen.kinds))} selects none; "
            f"take {spell('kinds', 'conv,linear')}"
        )
    return call_on_snapshots(METRICS[name], source, chosen, Spectrum(formula), {}, **resources)


class Spectrum:
    """Applies a formula to the singular values of a tensor; NaN where it has none."""

    def __init__(self, formula: Callable[[Array], Any]) -> None:
        self.formula = formula

    def __call__(self, weights: npt.NDArray[Any]) -> Any:
        """Return what the formula makes of them."""
        values = singular_values(weights)
        if len(values):
            return self.formula(values)
        fields = self.formula(np.zeros(1))
        return dict.fromkeys(fields, np.nan) if isinstance(fields, dict) else np.nan
