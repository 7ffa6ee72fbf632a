"""The Hessian along a run: its largest eigenvalues, and the subspace their eigenvectors span."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.labels import STEP_ATTRIBUTES
from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import select_columns
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.model.eigen import Eigenpairs, largest, method
from ckptlab.analyze.model.examples import Subset, draw
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import Problem

Array = npt.NDArray[Any]


def hessian_spectrum(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = "log:2",
    eigenvalues: int | None = None,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "eval",
    vectors: bool = False,
    scheduler: Any = None,
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
    scheduler : object
        As `spread` takes it.

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
    measure = partial(_spectra, k=k, seed=seed, vectors=vectors)
    found = spread(measure, problem, subset, columns, scheduler)
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
        stacked = np.stack([pairs.vectors.T for pairs in found], dtype=np.float32)
        data_vars["eigenvectors"] = (("step", "eigenvalue", "param"), stacked, about)
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
    steps: Any = "log:2",
    eigenvalues: int | None = None,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "eval",
    scheduler: Any = None,
) -> xr.Dataset:
    """Share of the gradient in the top Hessian subspace, and its drift.

    Parameters
    ----------
    source, model, data, loss, steps, eigenvalues, samples, seed, batch_size : object
        As `hessian_spectrum` takes them.
    batch_norm, scheduler : object
        As well.

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

    (last,) = spread(partial(_bases, k=k, seed=seed), problem, subset, columns[-1:], scheduler)
    measure = partial(_shares, k=k, seed=seed, end=int(columns[-1]), last=last)
    found = spread(measure, problem, subset, columns, scheduler)
    shares, norms, to_previous, to_last = map(np.array, zip(*found, strict=True))
    series = {
        "gradient_share": (shares, "share of the gradient in the top subspace"),
        "overlap_previous": (to_previous, "overlap with the previous subspace"),
        "overlap_last": (to_last, "overlap with the last subspace"),
        "drift_previous": (1 - to_previous, "drift from the previous subspace"),
        "drift_last": (1 - to_last, "distance from the last subspace"),
    }
    data_vars: dict[str, Any] = {
        name: ("step", np.asarray(values), {"units": "1", "long_name": text})
        for name, (values, text) in series.items()
    }
    about = {"units": "loss per weight", "long_name": "norm of the gradient over the subset"}
    data_vars["gradient_norm"] = ("step", norms, about)
    meaning = {"units": "1", "long_name": "k/P, overlap with a random subspace"}
    data_vars["baseline"] = ((), k / problem.size, meaning)
    return xr.Dataset(data_vars, _steps(source, columns), described(problem, subset, k))


def _spectra(
    problem: Problem,
    subset: Subset,
    columns: Sequence[int],
    before: int | None,
    *,
    k: int,
    seed: int,
    vectors: bool,
) -> list[Eigenpairs]:
    """Find the eigenvalues at each step, and the eigenvectors if they are wanted."""
    del before
    found = []
    for column in paced(columns):
        problem.load_step(column)
        pairs = largest(problem, subset, k, seed)
        kept = pairs.vectors if vectors else np.zeros((0, k))
        found.append(Eigenpairs(pairs.values, kept, pairs.residuals))
    return found


def _bases(
    problem: Problem,
    subset: Subset,
    columns: Sequence[int],
    before: int | None,
    *,
    k: int,
    seed: int,
) -> list[Array]:
    """Find the top subspace at each step."""
    del before
    found = []
    for column in columns:
        problem.load_step(column)
        found.append(largest(problem, subset, k, seed).vectors)
    return found


def _shares(
    problem: Problem,
    subset: Subset,
    columns: Sequence[int],
    before: int | None,
    *,
    k: int,
    seed: int,
    end: int,
    last: Array,
) -> list[tuple[float, float, float, float]]:
    """Find share and norm of the gradient, overlap with the step before and with `last`."""
    basis = np.full_like(last, np.nan)
    if before is not None:
        (basis,) = _bases(problem, subset, [before], None, k=k, seed=seed)
    found = []
    for column in paced(columns):
        earlier = basis
        if column == end:
            problem.load_step(column)
            basis = last
        else:
            (basis,) = _bases(problem, subset, [column], None, k=k, seed=seed)
        gradient, _ = problem.gradient(subset)
        share, norm = gradient_share(gradient, basis), float(np.linalg.norm(gradient))
        found.append((share, norm, overlap(earlier, basis), overlap(last, basis)))
    return found


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
