"""The Hessian along a run: its largest eigenvalues, and the subspace their eigenvectors span.

Imports analyze.{eigen, examples, pace, problem, results, selection, source}; torch through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.eigen import Eigenpairs, largest, method
from ckptlab.analyze.examples import Subset, draw
from ckptlab.analyze.pace import paced
from ckptlab.analyze.problem import Problem
from ckptlab.analyze.results import STEP_ATTRIBUTES
from ckptlab.analyze.selection import select_columns
from ckptlab.analyze.source import Source

Array = npt.NDArray[Any]


def hessian_spectrum(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = None,
    eigenvalues: int | None = None,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "eval",
    vectors: bool = False,
) -> xr.Dataset:
    """Largest eigenvalues of the Hessian of the training loss.

    Parameters
    ----------
    source : Source
        The recording.
    model : Module
        The network that was recorded; copied.
    data : (inputs, targets) or Dataset
        Training examples.
    loss : callable, optional
        ``loss(outputs, targets)``; cross-entropy by default.
    steps : str, int or slice, optional
        Which recorded steps.
    eigenvalues : int, optional
        How many; the number of outputs of the model by default.
    samples, seed : int
        Size of the fixed subset of the data, and the seed of its draw and of the start vector.
    batch_size : int
        Examples at once; with ``batch_norm="train"`` also what batch statistics are taken over.
    batch_norm : str
        ``eval``, running statistics as recorded, or ``train``, those of each batch.
    vectors : bool
        Return the eigenvectors too.

    Returns
    -------
    Dataset, dims (step, eigenvalue), (step,)
        `eigenvalues`, algebraically largest first, with their `residual` ‖Hv − λv‖₂; `sharpness`,
        the largest; `two_over_lr`, at which gradient descent without momentum is unstable, of the
        update that starts at the step (of the one that led to it, where the next is not recorded).
        With `vectors`, `eigenvectors` (step, eigenvalue, param) over the trained parameters.

    Raises
    ------
    ConfigError
        If `eigenvalues` does not fit the model, or curvlinops is not installed.
    LayoutError
        If the model is not the one recorded.
    """
    problem = Problem(source, model, loss, batch_norm=batch_norm)
    subset = draw(data, samples, seed, batch_size)
    columns = select_columns(source, steps)
    k = eigenvalues or problem.outputs(subset)
    found: list[Eigenpairs] = []
    kept: list[Array] = []
    for column in paced(columns):
        problem.load_step(column)
        pairs = largest(problem, subset, k, seed)
        kept += [pairs.vectors.T.astype(np.float32)] if vectors else []
        found.append(Eigenpairs(pairs.values, np.zeros((0, k)), pairs.residuals))
    values = np.stack([pairs.values for pairs in found])
    residuals = np.stack([pairs.residuals for pairs in found])
    unit = {"units": "loss per weight^2"}
    by_rank = ("step", "eigenvalue")
    data_vars: dict[str, Any] = {
        "sharpness": ("step", values[:, 0], {**unit, "long_name": "sharpness"}),
    }
    if source.has("lr"):
        about = {**unit, "long_name": "2 / learning rate of the next update"}
        data_vars["two_over_lr"] = ("step", _edge(source, columns), about)
    data_vars["eigenvalues"] = (by_rank, values, {**unit, "long_name": "eigenvalue"})
    data_vars["residual"] = (by_rank, residuals, {**unit, "long_name": "residual"})
    if vectors:
        about = {"units": "1", "long_name": "eigenvector"}
        data_vars["eigenvectors"] = (("step", "eigenvalue", "param"), np.stack(kept), about)
    coords: dict[str, Any] = {"eigenvalue": np.arange(1, k + 1), **_steps(source, columns)}
    if vectors:
        meaning = {"long_name": "position in the parameter vector"}
        coords["param"] = ("param", problem.positions, meaning)
    return xr.Dataset(data_vars, coords, described(problem, subset, k))


def gradient_subspace(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = None,
    eigenvalues: int | None = None,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "eval",
) -> xr.Dataset:
    """Share of the gradient in the span of the top Hessian eigenvectors, and how that drifts.

    Parameters
    ----------
    source, model, data, loss, steps, eigenvalues, samples, seed, batch_size, batch_norm : object
        As `hessian_spectrum` takes them.

    Returns
    -------
    Dataset, dims (step,)
        `gradient_share`, ‖P_k g‖² / ‖g‖² of the gradient over the same examples; `overlap_previous`
        and `overlap_last`, (1/k) Σ ‖P_k(t) v_i(t′)‖² with the previous and the last of the chosen
        steps; `drift_previous` and `drift_last`, one minus these; `gradient_norm`; and `baseline`,
        k/P, what a random subspace would give.

    Raises
    ------
    ConfigError
        If `eigenvalues` does not fit the model, or curvlinops is not installed.
    LayoutError
        If the model is not the one recorded.
    """
    problem = Problem(source, model, loss, batch_norm=batch_norm)
    subset = draw(data, samples, seed, batch_size)
    columns = select_columns(source, steps)
    k = eigenvalues or problem.outputs(subset)

    def span(column: int) -> Array:
        problem.load_step(column)
        return largest(problem, subset, k, seed).vectors

    last = span(columns[-1])
    before = np.full_like(last, np.nan)
    shares, norms, to_previous, to_last = [], [], [], []
    for column in paced(columns):
        if column == columns[-1]:
            problem.load_step(column)
            basis = last
        else:
            basis = span(column)
        gradient, _ = problem.gradient(subset)
        shares.append(gradient_share(gradient, basis))
        norms.append(float(np.linalg.norm(gradient)))
        to_previous.append(overlap(before, basis))
        to_last.append(overlap(last, basis))
        before = basis
    series = {
        "gradient_share": (shares, "share of the gradient in the top subspace"),
        "overlap_previous": (to_previous, "overlap with the previous subspace"),
        "overlap_last": (to_last, "overlap with the last subspace"),
        "drift_previous": (1 - np.array(to_previous), "drift from the previous subspace"),
        "drift_last": (1 - np.array(to_last), "distance from the last subspace"),
    }
    data_vars: dict[str, Any] = {
        name: ("step", np.asarray(values), {"units": "1", "long_name": text})
        for name, (values, text) in series.items()
    }
    about = {"units": "loss per weight", "long_name": "norm of the gradient over the subset"}
    data_vars["gradient_norm"] = ("step", np.array(norms), about)
    meaning = {"units": "1", "long_name": "k/P, overlap with a random subspace"}
    data_vars["baseline"] = ((), k / problem.size, meaning)
    return xr.Dataset(data_vars, _steps(source, columns), described(problem, subset, k))


def gradient_share(gradient: Array, basis: Array) -> float:
    """Return the share of a vector's squared length that lies in a subspace.

    Parameters
    ----------
    gradient : ndarray, shape (param,)
        The vector.
    basis : ndarray, shape (param, k)
        Orthonormal.

    Returns
    -------
    float
        In [0, 1]; NaN for a vector of zeros.
    """
    whole = float(gradient @ gradient)
    inside = basis.T @ gradient
    return float(inside @ inside) / whole if whole > 0 else float("nan")


def overlap(one: Array, other: Array) -> float:
    """Return the overlap of two subspaces of the same dimension.

    Parameters
    ----------
    one, other : ndarray, shape (param, k)
        Orthonormal.

    Returns
    -------
    float
        (1/k) Σ ‖P v_i‖², 1 for the same subspace and 0 for orthogonal ones; NaN if either is.
    """
    return float(np.minimum(np.square(one.T @ other).sum() / one.shape[1], 1))


def described(problem: Problem, subset: Subset, k: int) -> dict[str, Any]:
    """Return what a result says of how it was made."""
    return {
        "eigenvalues": k,
        "parameters": problem.size,
        "method": method(problem.size, k),
        "data": subset.name,
        "batch_size": subset.batch_size,
        "batch_norm": problem.batch_norm,
        "loss": problem.loss.name,
    }


def _edge(source: Source, columns: Array) -> Array:
    """Return 2 / η; the rate recorded at a step is that of the update that led to it."""
    rate = np.asarray(source.small("lr"), float)
    following = np.minimum(columns + 1, len(rate) - 1)
    consecutive = source.steps[following] == source.steps[columns] + 1
    with np.errstate(divide="ignore"):
        edge: Array = 2 / np.where(consecutive, rate[following], rate[columns])
    return edge


def _steps(source: Source, columns: Sequence[int] | Array) -> dict[str, Any]:
    return {"step": ("step", source.steps[columns], dict(STEP_ATTRIBUTES))}
