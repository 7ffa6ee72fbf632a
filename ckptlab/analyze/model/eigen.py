"""The largest eigenvalues of a Hessian, from products with vectors alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.analyze.model.examples import Subset
from ckptlab.analyze.model.replay_model import Problem
from ckptlab.errors import ConfigError

DENSE_UP_TO = 256
"""Networks of so few parameters have their whole Hessian made; so have those of 4 k."""

DENSE_AT_MOST = 2**14
"""A Hessian of more rows is never made whole."""

TOLERANCE = 1e-6
"""Relative accuracy that Lanczos iterates to; products are of the model's own precision."""

COLUMNS = 32
"""Vectors multiplied at once when the whole Hessian is made."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Eigenpairs:
    """The algebraically largest eigenvalues of a symmetric matrix.

    Parameters
    ----------
    values : ndarray of float64, shape (k,)
        Decreasing.
    vectors : ndarray of float64, shape (param, k)
        Orthonormal; the element of largest magnitude of each is positive.
    residuals : ndarray of float64, shape (k,)
        ‖Hv − λv‖₂.
    """

    values: Array
    vectors: Array
    residuals: Array


def method(size: int, k: int) -> str:
    """Say how `largest` will find k eigenvalues of a matrix of a size."""
    if is_dense(size, k):
        return "dense: products by curvlinops, numpy eigh"
    return f"Lanczos: products by curvlinops, scipy eigsh (LA, tol {TOLERANCE:g})"


def is_dense(size: int, k: int) -> bool:
    """Say whether the whole matrix is made; Lanczos needs k well below the size."""
    return size <= max(DENSE_UP_TO, 4 * k)


def largest(problem: Problem, subset: Subset, k: int, seed: int) -> Eigenpairs:
    """Find the k largest eigenvalues of the Hessian of the mean loss.

    Parameters
    ----------
    problem : Problem
        At the step wanted.
    subset : Subset
        The examples.
    k : int
        How many; at most the number of parameters.
    seed : int
        Of the start vector (NumPy's PCG64, normal).

    Returns
    -------
    Eigenpairs
        NaN if the Hessian is not finite.

    Raises
    ------
    ConfigError
        If `k` does not fit, or curvlinops is not installed.
    """
    size = problem.size
    if not 1 <= k <= size:
        raise ConfigError(f"eigenvalues {k}: the model has {size} trained parameters; take 1..that")
    product = hessian_product(problem, subset)
    start = np.random.default_rng(seed).standard_normal(size)
    image = product(start[:, None])
    if not np.isfinite(image).all():
        nan = np.full((size, k), np.nan)
        return Eigenpairs(nan[0], nan, nan[0])
    if not image.any():
        # A flat loss: Lanczos cannot start, and any orthonormal vectors will do.
        return Eigenpairs(np.zeros(k), np.eye(size, k), np.zeros(k))
    values, vectors = _dense(product, size, k) if is_dense(size, k) else _lanczos(product, start, k)
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(k)]
    vectors = vectors * np.where(peaks < 0, -1.0, 1.0)
    columns = [product(vectors[:, i : i + 1]) for i in range(k)]
    residuals = np.linalg.norm(np.concatenate(columns, axis=1) - vectors * values, axis=0)
    return Eigenpairs(values, vectors, residuals)


def hessian_product(problem: Problem, subset: Subset) -> Any:
    """Return the function that multiplies the Hessian onto a matrix of float64.

    Parameters
    ----------
    problem : Problem
        At the step wanted.
    subset : Subset
        The examples.

    Returns
    -------
    callable
        ``f(matrix)``, both of shape (param, columns).

    Raises
    ------
    ConfigError
        If curvlinops is not installed.
    """
    try:
        from ckptlab.analyze.model.hessian import ReverseHessian
    except ImportError as error:
        raise ConfigError("Hessians need curvlinops: pip install 'ckptlab[curvature]'") from error
    operator = ReverseHessian(
        problem.model,
        problem.loss,
        problem.parameters,
        list(subset.batches(problem.device)),
        # The batches are fixed and the model draws nothing; the check would cost two products.
        check_deterministic=False,
        num_data=len(subset),
    )
    dtype = problem.parameters[0].dtype

    def product(matrix: Array) -> Array:
        given = torch.from_numpy(np.ascontiguousarray(matrix)).to(problem.device, dtype)
        result: Array = (operator @ given).detach().double().cpu().numpy()
        return result

    return product


def _lanczos(product: Any, start: Array, k: int) -> tuple[Array, Array]:
    from scipy.sparse.linalg import LinearOperator, eigsh

    size = len(start)
    operator = LinearOperator(
        (size, size), matvec=lambda v: product(v.reshape(size, 1))[:, 0], dtype=np.float64
    )
    found: tuple[Array, Array] = eigsh(operator, k=k, which="LA", v0=start, tol=TOLERANCE)
    return found


def _dense(product: Any, size: int, k: int) -> tuple[Array, Array]:
    if size > DENSE_AT_MOST:
        raise ConfigError(
            f"eigenvalues {k} of {size} parameters would need the whole Hessian; "
            f"take fewer than {size // 4}"
        )
    identity = np.eye(size)
    matrix = np.concatenate(
        [product(identity[:, i : i + COLUMNS]) for i in range(0, size, COLUMNS)], axis=1
    )
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return values[size - k :], vectors[:, size - k :]
