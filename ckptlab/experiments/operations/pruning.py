"""Prune: decide which weights a sub-network keeps.

Pure functions on vectors over the parameters; a mask is True where a weight is kept, and always
True where pruning must not touch it.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 3; Frankle et al. (2020),
arXiv:1912.05671, algorithm 1.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import ConfigError, LayoutError, unknown_name
from ckptlab.store.format.layout import Layout

SCOPES: tuple[str, ...] = ("global", "layer")
"""Which weights compete: all prunable ones, or those of each tensor."""

STRUCTURES: tuple[str, ...] = ("", "filter")
"""What is removed: single weights, or whole output filters (rows of a linear layer)."""

OUTPUT = "output"
"""Stands for the last prunable tensor, the output layer, in lists of tensors to keep whole."""

Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]


class EmptyTensorWarning(UserWarning):
    """Pruning left a tensor without any weight."""


def prunable(layout: Layout, keep: Sequence[str] = ()) -> Mask:
    """Return which weights pruning may remove, shape (param,).

    Those of convolutions and linear layers, but for the tensors named in `keep`.
    """
    candidates = [t.name for t in layout.tensors if t.prunable and t.trainable]
    kept = {candidates[-1] if name == OUTPUT and candidates else name for name in keep}
    for name in kept - set(candidates):
        raise unknown_name("tensor to keep", name, (*candidates, OUTPUT))
    flags = [t.name in candidates and t.name not in kept for t in layout.tensors]
    return np.repeat(np.array(flags, bool), [tensor.size for tensor in layout.tensors])


def full_mask(layout: Layout) -> Mask:
    """Return the mask of the dense network, shape (param,)."""
    return np.ones(layout.parameters, bool)


def density(mask: Mask, layout: Layout) -> float:
    """Return the share of prunable weights that are kept."""
    candidates = prunable(layout)
    return float(mask[candidates].mean()) if candidates.any() else 1.0


def empty_tensors(mask: Mask, layout: Layout) -> list[str]:
    """Name the tensors of which no weight is kept."""
    return [t.name for t in layout.tensors if t.size and not mask[t.stretch].any()]


def survivors_after(count: int, fraction: float, levels: int) -> int:
    """Return how many of `count` weights are left after removing `fraction` `levels` times."""
    for _ in range(levels):
        count -= round(fraction * count)
    return count


def magnitude(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Score weights by magnitude (Han, Pool, Tran & Dally 2015, arXiv:1506.02626)."""
    scores: npt.NDArray[Any] = np.abs(weights)
    return scores


def random_scores(weights: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Score weights in a random order."""
    scores = np.empty(len(weights), np.int64)
    scores[rng.permutation(len(weights))] = np.arange(len(weights))
    return scores


def sign_preserving(weights: npt.NDArray[Any], start: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Score weights by magnitude where their sign is that of the start, else 0."""
    scores: npt.NDArray[Any] = np.maximum(weights * np.sign(start), 0)
    return scores


def snip(weights: npt.NDArray[Any], gradient: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Score weights by how much the loss changes if they are scaled, |w · g|."""
    scores: npt.NDArray[Any] = np.abs(weights * gradient)
    return scores


def grasp(weights: npt.NDArray[Any], hessian_gradient: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Score weights by how much the gradient's norm falls without them, w · Hg."""
    scores: npt.NDArray[Any] = weights * hessian_gradient
    return scores


def synflow(weights: npt.NDArray[Any], flow: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Score weights by the synaptic flow through them, |w| · ∂R/∂|w|."""
    scores: npt.NDArray[Any] = np.abs(weights) * flow
    return scores


def prune(
    score: Callable[[Positions, Mask], npt.NDArray[Any]],
    mask: Mask,
    layout: Layout,
    fraction: float | None = None,
    *,
    levels: int = 1,
    density: float | None = None,
    scope: str = "global",
    keep: Sequence[str] = (),
    structure: str = "",
    rounds: int = 1,
) -> Mask:
    """Remove the surviving weights of lowest score; of equal scores, those at lower positions.

    `score` gets the positions of weights that compete, and what is kept so far. Exactly
    ``round(fraction * survivors)`` are removed, `levels` times over; or, with `density`, that share
    of all prunable weights is left. It takes `rounds`, each of which leaves the same share, scored
    anew. In the scope ``layer`` each tensor loses its own share; tensors in `keep` stay whole. The
    structure ``filter`` removes whole output filters by their mean score, but for the output layer.
    ConfigError if fraction or density is not in (0, 1), or a score is NaN.
    """
    if structure not in STRUCTURES:
        raise unknown_name("structure", structure, STRUCTURES[1:])
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    count = _counter(fraction, levels, density)
    _require_length(layout, mask)
    keep = (*keep, OUTPUT) if structure and OUTPUT not in keep else keep
    candidates = prunable(layout, keep)
    unit = output_filters(layout) if structure else np.arange(layout.parameters)
    result = mask | ~candidates
    ends = layout.offsets if scope == "layer" else np.array([0, layout.parameters])
    for start, stop in itertools.pairwise(ends.tolist()):
        inside = np.arange(start, stop)
        inside = inside[candidates[start:stop]]
        total, begun = (len(np.unique(unit[part])) for part in (inside, inside[mask[inside]]))
        last = count(begun, total)
        for turn in range(1, rounds + 1):
            share = (last / begun) ** (turn / rounds) if begun else 1.0
            left = last if turn == rounds else round(begun * share)
            _remove(score, result, inside[result[inside]], unit, left)
    _warn_of_empty(result, mask, layout)
    return result


def _remove(
    score: Callable[[Positions, Mask], npt.NDArray[Any]],
    result: Mask,
    at: Positions,
    unit: Positions,
    left: int,
) -> None:
    """Keep so many of the units that the weights `at` are of: those of highest mean score."""
    scores = score(at, result)
    if np.isnan(scores).any():
        raise ConfigError(
            "the weights that decide hold NaN, so that their scores cannot be compared; the "
            "training has diverged"
        )
    units, place, size = np.unique(unit[at], return_inverse=True, return_counts=True)
    if len(units) < len(at):
        scores = np.bincount(place, scores, len(units)) / size
    # Stable: of ties the lower position comes, and goes, first.
    gone = np.argsort(scores, kind="stable")[: len(units) - left]
    lost = np.zeros(len(units), bool)
    lost[gone] = True
    result[at[lost[place]]] = False


def output_filters(layout: Layout) -> Positions:
    """Number the output filters of all tensors; returns that of each weight, shape (param,)."""
    numbers, first = [], 0
    for tensor in layout.tensors:
        count = tensor.shape[0] if tensor.shape else 1
        numbers.append(first + np.repeat(np.arange(count), tensor.size // max(count, 1)))
        first += count
    return np.concatenate(numbers)


def prune_magnitude(
    weights: npt.NDArray[Any],
    mask: Mask,
    layout: Layout,
    fraction: float | None = None,
    **how: Any,
) -> Mask:
    """Remove the surviving weights of lowest magnitude, as `prune` does."""
    _require_length(layout, weights)
    return prune(lambda at, _: magnitude(weights[at]), mask, layout, fraction, **how)


def prune_random(
    mask: Mask,
    layout: Layout,
    generator: np.random.Generator,
    fraction: float | None = None,
    **how: Any,
) -> Mask:
    """Remove surviving weights at random, as many as `prune_magnitude` does."""
    return prune(lambda at, _: random_scores(at, generator), mask, layout, fraction, **how)


def shuffle_mask(mask: Mask, layout: Layout, generator: np.random.Generator) -> Mask:
    """Keep as many weights of each tensor, drawn at random."""
    result = mask.copy()
    for tensor in layout.tensors:
        result[tensor.stretch] = generator.permutation(mask[tensor.stretch])
    return result


def fit(mask: Mask, layout: Layout, other: Layout) -> Mask:
    """Transfer a mask over `layout` to a network that differs in its output layer.

    Tensors of another shape are kept whole; LayoutError if a pruned tensor is missing.
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


def _counter(
    fraction: float | None, levels: int, density: float | None
) -> Callable[[int, int], int]:
    """Return a function of survivors and prunable weights: how many survive next."""
    if (fraction is None) == (density is None):
        raise ConfigError("give either fraction or density: how much is removed, or what is left")
    for name, value in (("fraction", fraction), ("density", density)):
        if value is not None:
            require_share(name, value)
    if fraction is not None:
        return lambda survivors, _: survivors_after(survivors, fraction, levels)
    return lambda survivors, total: min(survivors, round((density or 0) * total))


def _warn_of_empty(result: Mask, before: Mask, layout: Layout) -> None:
    for name in sorted(set(empty_tensors(result, layout)) - set(empty_tensors(before, layout))):
        warnings.warn(
            f"pruning leaves no weight of {name!r}: nothing passes it any more",
            EmptyTensorWarning,
            stacklevel=4,
        )


def require_share(name: str, value: float) -> None:
    """Raise ConfigError, naming the value, unless it lies between 0 and 1."""
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
