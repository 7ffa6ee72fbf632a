"""Find the largest eigenvalues of a Hessian from Hessian-vector products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.analyze.model.replay_model import ReplayModel
from ckptlab.errors import ConfigError, spell
from ckptlab.extras import require
from ckptlab.problems.examples import Subset

DENSE_UP_TO = 256
"""Up to so many weights, or 4 k, the whole Hessian is made; Lanczos needs k well below the size."""

DENSE_AT_MOST = 2**14
"""A Hessian of more rows is never made whole."""

TOLERANCE = 1e-6
"""Relative accuracy that Lanczos iterates to; products have the model's own precision."""

COLUMNS = 32
"""Vectors multiplied at once when the whole Hessian is made."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Eigenpairs:
    """The algebraically largest eigenvalues of a symmetric matrix, decreasing.

    `vectors`, shape (param, k), are orthonormal; the element of largest magnitude of each is
    positive. `residuals` are ‖Hv − λv‖₂.
    """

    values: Array
    vectors: Array
    residuals: Array


def method(size: int, k: int) -> str:
    """Describe how `largest` finds k eigenvalues of a matrix with `size` rows."""
    if is_dense(size, k):
        return "dense: products by curvlinops, numpy eigh"
    return f"Lanczos: products by curvlinops, scipy eigsh (LA, tol {TOLERANCE:g})"


def is_dense(size: int, k: int) -> bool:
    """Return whether the whole matrix is made."""
    return size <= max(DENSE_UP_TO, 4 * k)


def largest(
    model: ReplayModel, subset: Subset, k: int, seed: int, matrix: str = "hessian"
) -> Eigenpairs:
    """Find the k largest eigenvalues of the Hessian or GGN of the loss over the surviving weights.

    `seed` draws the start vector (NumPy's PCG64, normal). A Hessian that is not finite gives NaN;
    ConfigError if `k` does not fit.
    """
    size = model.size
    if not 1 <= k <= size:
        raise ConfigError(
            f"{spell('eigenvalues', k)}: the model has {size} trained parameters; take 1..{size}"
        )
    operator = curvature_matrix(model, subset, matrix)

    def product(columns: Array) -> Array:
        image: Array = (operator @ torch.from_numpy(columns)).numpy()
        return image

    start = np.random.default_rng(seed).standard_normal(size)
    image = product(start[:, None])
    if not np.isfinite(image).all():
        nan = np.full((size, k), np.nan)
        return Eigenpairs(nan[0], nan, nan[0])
    if not image.any():
        # A flat loss: Lanczos cannot start, and any orthonormal vectors will do.
        return Eigenpairs(np.zeros(k), np.eye(size, k), np.zeros(k))
    values, vectors = (
        _dense(operator, size, k) if is_dense(size, k) else _lanczos(product, start, k)
    )
    order = np.argsort(values)[::-1]
    values, vectors = values[order], vectors[:, order]
    peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(k)]
    vectors = vectors * np.where(peaks < 0, -1.0, 1.0)
    columns = [product(vectors[:, i : i + 1]) for i in range(k)]
    residuals = np.linalg.norm(np.concatenate(columns, axis=1) - vectors * values, axis=0)
    return Eigenpairs(values, vectors, residuals)


def curvature_matrix(model: ReplayModel, subset: Subset, matrix: str = "hessian") -> Any:
    """Return the ``hessian`` or ``ggn`` of the mean loss, a `Surviving` to multiply with."""
    require("curvlinops", "the Hessian")
    from ckptlab.analyze.model.hessian import ReverseGGN, ReverseHessian, Surviving

    operator = {"hessian": ReverseHessian, "ggn": ReverseGGN}[matrix](
        model.model,
        model.loss,
        model.parameters,
        list(subset.batches(model.device)),
        # The batches are fixed and the model draws nothing; the check would cost two products.
        check_deterministic=False,
        num_data=len(subset),
    )
    return Surviving(operator, model.kept, model.device, model.parameters[0].dtype)


def dense(matrix: Any) -> Array:
    """Make the whole of a symmetric matrix from products."""
    size = matrix.shape[0]
    identity = torch.eye(size, dtype=torch.float64)
    columns = [matrix @ identity[:, i : i + COLUMNS] for i in range(0, size, COLUMNS)]
    whole: Array = torch.cat(columns, dim=1).numpy()
    return (whole + whole.T) / 2


def _lanczos(product: Any, start: Array, k: int) -> tuple[Array, Array]:
    from scipy.sparse.linalg import LinearOperator, eigsh

    size = len(start)
    operator = LinearOperator(
        (size, size), matvec=lambda v: product(v.reshape(size, 1))[:, 0], dtype=np.float64
    )
    found: tuple[Array, Array] = eigsh(operator, k=k, which="LA", v0=start, tol=TOLERANCE)
    return found


def _dense(matrix: Any, size: int, k: int) -> tuple[Array, Array]:
    if size > DENSE_AT_MOST:
        raise ConfigError(
            f"{spell('eigenvalues', k)} of {size} parameters would need the whole Hessian; "
            f"take fewer than {size // 4}"
        )
    values, vectors = np.linalg.eigh(dense(matrix))
    return values[size - k :], vectors[:, size - k :]
