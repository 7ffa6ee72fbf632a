"""Measure the Hessian at recorded steps: sharpness, eigenvalues, and the top subspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import ReplayModel
from ckptlab.problems.examples import Subset, draw

Array = npt.NDArray[Any]

MOST = 100
"""Eigenvalues at most, unless more are asked for: a vocabulary has tens of thousands of tokens."""


def hessian_spectrum(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = "log:2",
    mask: Any = None,
    eigenvalues: int | None = None,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "train",
    vectors: bool = False,
    scheduler: Any = None,
) -> xr.Dataset:
    """Largest eigenvalues of the Hessian of the training loss, and the edge of stability.

    The loss is the mean over a fixed subset of the training examples, without weight decay and
    without augmentation; dropout is off.

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
        Recorded steps.
    mask : ndarray of bool, DataArray or path, optional
        Differentiate only the weights it keeps. A run's own mask applies in any case.
    eigenvalues : int, optional
        How many; by default the number of classes, or of tokens, at most `MOST`.
    samples, seed : int
        Size of the fixed subset of the data, and the seed of its draw and of the start vector.
    batch_size : int
        Examples at once; with ``batch_norm="train"`` also the batch that statistics are of.
    batch_norm : str
        ``train``, the function that is trained: statistics of each batch; or ``eval``, the running
        ones as recorded.
    vectors : bool
        Return the eigenvectors too.
    scheduler : object
        As `spread` takes it.

    Returns
    -------
    Dataset, dims (step, eigenvalue), (step,)
        `eigenvalues`, algebraically largest first, with their `residual` ‖Hv − λv‖₂; `sharpness`,
        the largest; `two_over_lr`, beyond which gradient descent without momentum is unstable; and
        `stability_bound`, the same for the optimizer of the run where it is SGD: 2(1 + β)/lr with
        momentum β, 2(1 + β)/((1 + 2β) lr) with Nesterov's. The rate is that of the update that
        starts at the step (of the one that led to it, where the next is not recorded). With
        `vectors`, `eigenvectors` (step, eigenvalue, param) over the surviving trained parameters.

    Raises
    ------
    ConfigError
        If `eigenvalues` does not fit the model.
    MissingExtraError
        If curvlinops is not installed.
    LayoutError
        If the model is not the one recorded, or the mask keeps nothing of it.

    References
    ----------
    Cohen et al. (2021), arXiv:2103.00065: the bounds, in section 2 and appendix B.
    """
    replay = ReplayModel(source, model, loss, batch_norm=batch_norm, mask=mask)
    subset = draw(data, samples, seed, batch_size)
    columns = select_columns(source, steps)
    k = eigenvalues or min(replay.outputs(subset), MOST)
    measure = partial(_spectra, k=k, seed=seed, vectors=vectors)
    found = spread(measure, replay, subset, columns, scheduler)
    values = np.stack([pairs.values for pairs in found])
    residuals = np.stack([pairs.residuals for pairs in found])
    unit = {"units": "loss per weight^2"}
    by_rank = ("step", "eigenvalue")
    data_vars: dict[str, Any] = {
        "sharpness": ("step", values[:, 0], {**unit, "long_name": "sharpness"}),
        **_stability(source, columns),
        "eigenvalues": (by_rank, values, {**unit, "long_name": "eigenvalue"}),
        "residual": (by_rank, residuals, {**unit, "long_name": "residual"}),
    }
    coords: dict[str, Any] = {"eigenvalue": np.arange(1, k + 1), **_steps(source, columns)}
    if vectors:
        stacked = np.stack([pairs.vectors.T for pairs in found], dtype=np.float32)
        about = {"units": "1", "long_name": "eigenvector"}
        data_vars["eigenvectors"] = (("step", "eigenvalue", "param"), stacked, about)
        meaning = {"long_name": "position in the parameter vector"}
        coords["param"] = ("param", replay.positions, meaning)
    return xr.Dataset(data_vars, coords, _attributes(replay, subset, k, seed))


def ggn_spectrum(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = "log:2",
    mask: Any = None,
    eigenvalues: int | None = None,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "train",
    scheduler: Any = None,
) -> xr.Dataset:
    """Largest eigenvalues of the generalized Gauss-Newton matrix, E[Jᵀ (∇²ℓ) J].

    J is the Jacobian of the outputs, ∇²ℓ the Hessian of the loss with respect to them: the Hessian
    without the curvature of the network itself. Where the loss is a cross-entropy, it is the Fisher
    information.

    Parameters
    ----------
    source, model, data, loss, steps, mask, eigenvalues, samples, seed, batch_size : object
        As `hessian_spectrum` takes them.
    batch_norm, scheduler : object
        As well.

    Returns
    -------
    Dataset, dims (step, eigenvalue)
        `eigenvalues`, largest first, with their `residual` ‖Gv − λv‖₂.

    Raises
    ------
    ConfigError
        If `eigenvalues` does not fit the model.
    MissingExtraError
        If curvlinops is not installed.
    LayoutError
        If the model is not the one recorded, or the mask keeps nothing of it.
    """
    replay = ReplayModel(source, model, loss, batch_norm=batch_norm, mask=mask)
    subset = draw(data, samples, seed, batch_size)
    columns = select_columns(source, steps)
    k = eigenvalues or min(replay.outputs(subset), MOST)
    measure = partial(_spectra, k=k, seed=seed, vectors=False, matrix="ggn")
    found = spread(measure, replay, subset, columns, scheduler)
    unit = {"units": "loss per weight^2"}
    by_rank = ("step", "eigenvalue")
    values = np.stack([pairs.values for pairs in found])
    residuals = np.stack([pairs.residuals for pairs in found])
    return xr.Dataset(
        {
            "eigenvalues": (by_rank, values, {**unit, "long_name": "eigenvalue"}),
            "residual": (by_rank, residuals, {**unit, "long_name": "residual"}),
        },
        {**_steps(source, columns), "eigenvalue": ("eigenvalue", np.arange(1, k + 1))},
        _attributes(replay, subset, k, seed),
    )


def gradient_subspace(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = "log:2",
    mask: Any = None,
    eigenvalues: int | None = None,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "train",
    scheduler: Any = None,
) -> xr.Dataset:
    """Share of the gradient in the top Hessian subspace, and its drift.

    Parameters
    ----------
    source, model, data, loss, steps, mask, eigenvalues, samples, seed, batch_size : object
        As `hessian_spectrum` takes them.
    batch_norm, scheduler : object
        As well.

    Returns
    -------
    Dataset, dims (step,)
        `gradient_share`, ‖P_k g‖² / ‖g‖² of the gradient over the same examples; `overlap_previous`
        and `overlap_last`, (1/k) Σ ‖P_k(t) v_i(t′)‖² with the previous and the last of the chosen
        steps; `drift_previous` and `drift_last`, one minus these; `gradient_norm`; and `baseline`,
        k/P, what a random subspace would give, P the number of surviving trained weights.

    Raises
    ------
    ConfigError
        If `eigenvalues` does not fit the model.
    MissingExtraError
        If curvlinops is not installed.
    LayoutError
        If the model is not the one recorded, or the mask keeps nothing of it.
    """
    replay = ReplayModel(source, model, loss, batch_norm=batch_norm, mask=mask)
    subset = draw(data, samples, seed, batch_size)
    columns = select_columns(source, steps)
    k = eigenvalues or min(replay.outputs(subset), MOST)

    (last,) = spread(partial(_bases, k=k, seed=seed), replay, subset, columns[-1:], scheduler)
    measure = partial(_shares, k=k, seed=seed, end=int(columns[-1]), last=last)
    found = spread(measure, replay, subset, columns, scheduler)
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
    data_vars["baseline"] = ((), k / replay.size, meaning)
    return xr.Dataset(data_vars, _steps(source, columns), _attributes(replay, subset, k, seed))


def _spectra(
    model: ReplayModel,
    subset: Subset,
    columns: Sequence[int],
    before: int | None,
    *,
    k: int,
    seed: int,
    vectors: bool,
    matrix: str = "hessian",
) -> list[Eigenpairs]:
    """Find the eigenvalues at each step, and the eigenvectors if they are wanted."""
    del before
    found = []
    for column in paced(columns):
        model.load_step(column)
        pairs = largest(model, subset, k, seed, matrix)
        kept = pairs.vectors if vectors else np.zeros((0, k))
        found.append(Eigenpairs(pairs.values, kept, pairs.residuals))
    return found


def _bases(
    model: ReplayModel,
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
        model.load_step(column)
        found.append(largest(model, subset, k, seed).vectors)
    return found


def _shares(
    model: ReplayModel,
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
        (basis,) = _bases(model, subset, [before], None, k=k, seed=seed)
    found = []
    for column in paced(columns):
        earlier = basis
        if column == end:
            model.load_step(column)
            basis = last
        else:
            (basis,) = _bases(model, subset, [column], None, k=k, seed=seed)
        gradient, _ = model.gradient(subset)
        share, norm = gradient_share(gradient, basis), float(np.linalg.norm(gradient))
        found.append((share, norm, overlap(earlier, basis), overlap(last, basis)))
    return found


def gradient_share(gradient: Array, basis: Array) -> float:
    """Return the share of a vector's squared length in the span of orthonormal columns.

    NaN for a vector of zeros.
    """
    whole = float(gradient @ gradient)
    inside = basis.T @ gradient
    return float(inside @ inside) / whole if whole > 0 else float("nan")


def overlap(one: Array, other: Array) -> float:
    """Return (1/k) Σ ‖P v_i‖² of two subspaces spanned by k orthonormal columns each.

    1 for the same subspace, 0 for orthogonal ones; NaN if either is.
    """
    return float(np.minimum(np.square(one.T @ other).sum() / one.shape[1], 1))


def stability_factor(optim: Mapping[str, Any]) -> tuple[float, str] | None:
    """Return what divided by the learning rate bounds stable sharpness, and its formula.

    `optim` holds the optimizer's settings in the run's configuration; None unless it is SGD. On a
    quadratic, the update of one eigendirection has eigenvalues inside the unit circle up to it.
    """
    if optim.get("name") != "sgd":
        return None
    beta = float(optim.get("momentum") or 0)
    if not beta:
        return 2.0, "2 / lr: SGD without momentum"
    if optim.get("nesterov"):
        return 2 * (1 + beta) / (
            1 + 2 * beta
        ), f"2 (1 + b) / ((1 + 2 b) lr): Nesterov, b = {beta:g}"
    return 2 * (1 + beta), f"2 (1 + b) / lr: SGD with momentum b = {beta:g}"


def _stability(source: Source, columns: Array) -> dict[str, Any]:
    """Return the bounds of the edge of stability at steps, where the run has a learning rate."""
    if not source.has("lr"):
        return {}
    # The rate recorded at a step is that of the update that led to it.
    rate = np.asarray(source.small("lr"), float)
    following = np.minimum(columns + 1, len(rate) - 1)
    consecutive = source.steps[following] == source.steps[columns] + 1
    rate = np.where(consecutive, rate[following], rate[columns])
    config = source.attributes.get("config")
    optim = config.get("optim") if isinstance(config, Mapping) else None
    factor = stability_factor(optim) if isinstance(optim, Mapping) else None
    unit = {"units": "loss per weight^2"}
    with np.errstate(divide="ignore"):
        bounds: dict[str, Any] = {
            "two_over_lr": ("step", 2 / rate, {**unit, "long_name": "2 / learning rate"})
        }
        if factor is not None:
            about = {**unit, "long_name": "bound of stability", "bound": factor[1]}
            bounds["stability_bound"] = ("step", factor[0] / rate, about)
    return bounds


def _attributes(model: ReplayModel, subset: Subset, k: int, seed: int) -> dict[str, Any]:
    return {
        "function": "mean loss over the data, without augmentation or weight decay, dropout off",
        "eigenvalues": k,
        "parameters": model.size,
        "method": method(model.size, k),
        "seed": seed,
        **model.describe(subset),
    }


def _steps(source: Source, columns: Sequence[int] | Array) -> dict[str, Any]:
    return {"step": ("step", source.steps[columns], dict(STEP_ATTRIBUTES))}
