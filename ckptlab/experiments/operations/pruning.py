"""Pruning: which weights a sub-network keeps.

Pure functions on vectors over the parameters; a mask is True where
a weight is kept, and always True where pruning must not touch it.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 3; Frankle et al. (2020),
arXiv:1912.05671, algorithm 1.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import ConfigError, LayoutError, unknown_name
from ckptlab.store.format.layout import Layout

SCOPES: tuple[str, ...] = ("global", "layer")
"""What weights compete in: all prunable ones, or those of each tensor."""

Mask = npt.NDArray[np.bool_]


class EmptyTensorWarning(UserWarning):
    """Pruning left a tensor without any weight."""


def prunable(layout: Layout) -> Mask:
    """Say which weights pruning may remove: those of convolutions and linear layers.

    Parameters
    ----------
    layout : Layout
        The tensor table.

    Returns
    -------
    ndarray of bool, shape (param,)
        True where it may.
    """
    flags = [tensor.prunable and tensor.trainable for tensor in layout.tensors]
    return np.repeat(np.array(flags, bool), [tensor.size for tensor in layout.tensors])


def full_mask(layout: Layout) -> Mask:
    """Return the mask of the dense network, shape (param,)."""
    return np.ones(layout.parameters, bool)


def density(mask: Mask, layout: Layout) -> float:
    """Return the share of prunable weights that are kept."""
    candidates = prunable(layout)
    return float(mask[candidates].mean()) if candidates.any() else 1.0


def survivors_after(count: int, fraction: float, levels: int) -> int:
    """Count the weights that a number of prunings leaves.

    Parameters
    ----------
    count : int
        Weights before.
    fraction : float
        Share of the survivors each level removes; `round` of that many.
    levels : int
        How many times.

    Returns
    -------
    int
        Weights after.
    """
    for _ in range(levels):
        count -= round(fraction * count)
    return count


def prune_magnitude(
    weights: npt.NDArray[Any],
    mask: Mask,
    layout: Layout,
    fraction: float | None = None,
    *,
    levels: int = 1,
    density: float | None = None,
    scope: str = "global",
) -> Mask:
    """Remove the surviving weights of lowest magnitude.

    Parameters
    ----------
    weights : ndarray, shape (param,)
        Usually at the end of training.
    mask : ndarray of bool, shape (param,)
        Who survived so far.
    layout : Layout
        The tensor table.
    fraction : float, optional
        Share of the survivors removed, in (0, 1): exactly ``round(fraction * survivors)``; of
        equal magnitudes those at lower positions go first.
    levels : int
        Remove as many at once as this many levels would.
    density : float, optional
        Instead of `fraction`: share of all prunable weights that is left, in (0, 1).
    scope : str
        One of `SCOPES`: in ``layer`` each tensor loses its own share.

    Returns
    -------
    ndarray of bool, shape (param,)
        A subset of `mask`; unprunable weights are kept.

    Raises
    ------
    ConfigError
        If fraction or density is not in (0, 1), or a surviving weight is not a number.
    LayoutError
        If weights or mask are of another length.

    References
    ----------
    Han, Pool, Tran & Dally (2015), arXiv:1506.02626; Frankle & Carbin (2019), arXiv:1803.03635.
    """
    count = _counter(fraction, levels, density)
    _require_length(layout, weights, mask)
    magnitudes = np.abs(weights)
    if np.isnan(magnitudes[mask & prunable(layout)]).any():
        raise ConfigError(
            "the weights that decide hold NaN, so that magnitudes can not be compared; the "
            "training has diverged"
        )

    def order(candidates: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        # Stable: of ties the lower position comes, and goes, first.
        return candidates[np.argsort(magnitudes[candidates], kind="stable")]

    return _prune(mask, layout, count, scope, order)


def prune_random(
    mask: Mask,
    layout: Layout,
    generator: np.random.Generator,
    fraction: float | None = None,
    *,
    levels: int = 1,
    density: float | None = None,
    scope: str = "global",
) -> Mask:
    """Remove surviving weights drawn at random: as many as `prune_magnitude` does.

    Parameters
    ----------
    mask : ndarray of bool, shape (param,)
        Who survived so far.
    layout : Layout
        The tensor table.
    generator : Generator
        Draws who goes.
    fraction : float, optional
        Share of the survivors removed, in (0, 1).
    levels : int
        Remove as many at once as this many levels would.
    density : float, optional
        Instead of `fraction`: share of all prunable weights that is left, in (0, 1).
    scope : str
        One of `SCOPES`.

    Returns
    -------
    ndarray of bool, shape (param,)
        A subset of `mask`; unprunable weights are kept.

    Raises
    ------
    ConfigError
        If fraction or density is not in (0, 1).
    LayoutError
        If the mask is of another length.
    """
    count = _counter(fraction, levels, density)
    _require_length(layout, mask)
    return _prune(mask, layout, count, scope, generator.permutation)


def fit(mask: Mask, layout: Layout, other: Layout) -> Mask:
    """Carry a mask over to a network that differs in its output layer.

    Parameters
    ----------
    mask : ndarray of bool, shape (param,)
        Over the tensors of `layout`.
    layout, other : Layout
        Of the network it was made for, and of the one it is wanted for.

    Returns
    -------
    ndarray of bool
        Tensors of another shape are kept whole.

    Raises
    ------
    LayoutError
        If a tensor that is pruned is not there.
    """
    _require_length(layout, mask)
    result = full_mask(other)
    targets = {tensor.name: tensor for tensor in other.tensors}
    for tensor in layout.tensors:
        part = mask[tensor.stretch]
        target = targets.get(tensor.name)
        if target is None and not part.all():
            raise LayoutError(
                f"the mask prunes {tensor.name!r}, which the network does not have; use a mask of "
                "this network"
            )
        if target is not None and target.shape == tensor.shape:
            result[target.stretch] = part
    return result


def _prune(
    mask: Mask,
    layout: Layout,
    count: Callable[[int, int], int],
    scope: str,
    order: Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]],
) -> Mask:
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    candidates = prunable(layout)
    result = mask | ~candidates
    alive = np.flatnonzero(mask & candidates)
    ends = layout.offsets if scope == "layer" else np.array([0, layout.parameters])
    bounds = np.searchsorted(alive, ends)
    for stretch, (a, b) in zip(itertools.pairwise(ends), itertools.pairwise(bounds), strict=True):
        total = int(candidates[slice(*stretch)].sum())
        left = count(int(b - a), total)
        result[order(alive[a:b])[: b - a - left]] = False
    _warn_of_empty(result, mask, layout)
    return result


def _counter(
    fraction: float | None, levels: int, density: float | None
) -> Callable[[int, int], int]:
    """Return how many are left of so many survivors among so many prunable weights."""
    if (fraction is None) == (density is None):
        raise ConfigError("give either fraction or density: how much is removed, or what is left")
    for name, value in (("fraction", fraction), ("density", density)):
        if value is not None:
            require_share(name, value)
    if fraction is not None:
        return lambda survivors, _: survivors_after(survivors, fraction, levels)
    return lambda survivors, total: min(survivors, round((density or 0) * total))


def _warn_of_empty(result: Mask, before: Mask, layout: Layout) -> None:
    for tensor in layout.tensors:
        if tensor.size and not result[tensor.stretch].any() and before[tensor.stretch].any():
            warnings.warn(
                f"pruning leaves no weight of {tensor.name!r}: nothing passes it any more",
                EmptyTensorWarning,
                stacklevel=4,
            )


def require_share(name: str, value: float) -> None:
    """Raise ConfigError, naming what it is, unless a value lies between 0 and 1."""
    if not 0 < value < 1:
        raise ConfigError(
            f"{name} {value!r} is not accepted; accepted: a number between 0 and 1, both "
            "excluded, such as 0.2"
        )


def _require_length(layout: Layout, *vectors: npt.NDArray[Any]) -> None:
    for vector in vectors:
        if vector.shape != (layout.parameters,):
            raise LayoutError(
                f"a vector of shape {vector.shape} does not fit the network's "
                f"{layout.parameters} parameters"
            )
