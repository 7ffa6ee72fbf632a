"""Match the units of one network to those of another, which a permutation leaves the same.

References
----------
Ainsworth, Hayase & Srinivasa (2023), Git Re-Basin: Merging Models modulo Permutation Symmetries,
arXiv:2209.04836, section 3.2, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from ckptlab.analyze.model.replay_model import Vectors
from ckptlab.errors import ConfigError
from ckptlab.store.format.layout import Layout

ROUNDS = 100
"""Most passes over all permutations; each pass can only bring the networks closer."""

Axes = Mapping[str, Sequence[str | None]]
"""Permutation of each axis of each tensor; ``name:N`` moves N blocks, of which the axis is made."""

Permutation = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Place:
    """One axis that a permutation acts on."""

    tensor: str
    axis: int


class Symmetry:
    """The permutations that leave a network the same, and where each acts.

    Parameters
    ----------
    axes : mapping
        As `Axes`. A tensor that is not named stays as it is. An axis with more entries than its
        permutation has units is made of blocks that move whole: the inputs of a linear layer behind
        a flattened image, or the rows of attention heads.
    layout : Layout
        Of the network.

    Raises
    ------
    ConfigError
        If a tensor is not in the network, has other dimensions, or does not fit a permutation.
    """

    def __init__(self, axes: Axes, layout: Layout) -> None:
        self.layout = layout
        self.axes = {
            tensor: tuple(name and name.partition(":")[0] for name in names)
            for tensor, names in axes.items()
        }
        self.places: dict[str, list[Place]] = {}
        self.units: dict[str, int] = {}
        shapes = {row.name: row.shape for row in layout.rows}
        for tensor, names in axes.items():
            shape = shapes.get(tensor)
            if shape is None or len(names) != len(shape):
                found = "no tensor of that name" if shape is None else f"the shape {shape}"
                raise ConfigError(
                    f"permutations[{tensor!r}] has {len(names)} axes, the network has {found}"
                )
            for axis, text in enumerate(names):
                if text is not None:
                    name, _, count = text.partition(":")
                    self.places.setdefault(name, []).append(Place(tensor, axis))
                    units = int(count) if count.isdigit() else shape[axis]
                    self.units[name] = min(self.units.get(name, units), units)
        for name, places in self.places.items():
            for place in places:
                size = shapes[place.tensor][place.axis]
                if size % self.units[name]:
                    raise ConfigError(
                        f"permutation {name!r} has {self.units[name]} units, axis {place.axis} of "
                        f"{place.tensor!r} has {size} entries; it must be a multiple"
                    )

    def apply(self, vectors: Vectors, permutations: Mapping[str, Permutation]) -> Vectors:
        """Return the same network with its units in another order; unit i was ``p[i]``."""
        moved = {name: values.copy() for name, values in vectors.items()}
        for row in self.layout.rows:
            if row.name in self.axes and row.array in moved:
                part = moved[row.array][row.stretch].reshape(row.shape)
                moved[row.array][row.stretch] = self._moved(row.name, part, permutations).ravel()
        return moved

    def _moved(
        self,
        tensor: str,
        values: npt.NDArray[Any],
        permutations: Mapping[str, Permutation],
        but: int | None = None,
    ) -> npt.NDArray[Any]:
        """Return a tensor with every axis in its order, `but` one."""
        for axis, name in enumerate(self.axes[tensor]):
            if name is not None and axis != but:
                order = permutations[name]
                block = values.shape[axis] // len(order)
                entries = (order[:, None] * block + np.arange(block)).reshape(-1)
                values = np.take(values, entries, axis)
        return values

    def match(self, one: Vectors, other: Vectors, seed: int = 0) -> dict[str, Permutation]:
        """Return the order of the units of `other` that brings it closest to `one`.

        Permutations are found in turn, each the best for the others, until none changes; the order
        of turns is drawn from `seed`. Weights alone count, not buffers.
        """
        rng = np.random.default_rng(seed)
        found = {name: np.arange(units) for name, units in self.units.items()}
        mine, theirs = self._weights(one), self._weights(other)
        for _ in range(ROUNDS):
            changed = False
            for name in rng.permutation(sorted(found)).tolist():
                gain = self._similarity(name, mine, theirs, found)
                units = np.arange(self.units[name])
                order = linear_sum_assignment(gain, maximize=True)[1]
                better = gain[units, order].sum() - gain[units, found[name]].sum()
                # Rounding may make a tie look better: without a margin it could go on for ever.
                if better > 1e-12 * np.abs(gain).sum():
                    found[name], changed = order.astype(np.int64), True
            if not changed:
                break
        return found

    def _similarity(
        self,
        name: str,
        one: Mapping[str, npt.NDArray[np.float64]],
        other: Mapping[str, npt.NDArray[np.float64]],
        found: Mapping[str, Permutation],
    ) -> npt.NDArray[np.float64]:
        """Return Σ w₁[i] · w₂[j] over everything that unit i of one and j of the other are in."""
        units = self.units[name]
        total = np.zeros((units, units))
        for place in self.places[name]:
            if place.tensor in one:
                moved = self._moved(place.tensor, other[place.tensor], found, place.axis)
                mine, theirs = (
                    np.moveaxis(part, place.axis, 0).reshape(units, -1)
                    for part in (one[place.tensor], moved)
                )
                total += mine @ theirs.T
        return total

    def _weights(self, vectors: Vectors) -> dict[str, npt.NDArray[np.float64]]:
        return {
            row.name: vectors[row.array][row.stretch].astype(np.float64).reshape(row.shape)
            for row in self.layout.tensors
            if row.name in self.axes
        }
