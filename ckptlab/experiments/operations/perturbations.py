"""Perturb weights: pure functions of a snapshot, the initialisation and a generator.

Only survivors change: weights that pruning may remove and the mask keeps. The mask, biases and
batch norm stay as they are. Each function returns float32 values, shape (survivors,).

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 5.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import LayoutError
from ckptlab.experiments.operations.arguments import call
from ckptlab.experiments.operations.initialisation import kaiming_std
from ckptlab.experiments.operations.pruning import prunable
from ckptlab.experiments.operations.registry import PerturbationKind
from ckptlab.store.format.layout import Layout

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class States:
    """What a perturbation is computed from: vectors over all parameters.

    `now` is w_k, `initial` w_0 and `fresh` another initialisation, None where no kind needs them;
    `sigma` is the initial standard deviation of each tensor, by default √(2 / fan_in).
    """

    now: Vector
    initial: Vector | None
    fresh: Vector | None
    mask: npt.NDArray[np.bool_]
    layout: Layout
    sigma: npt.NDArray[np.float64] | None = None

    @property
    def survivors(self) -> npt.NDArray[np.int64]:
        """Positions of the weights that change."""
        return np.flatnonzero(self.mask & prunable(self.layout))

    def of(self, name: str) -> Vector:
        """Return the survivors of the state ``0``, ``k`` or ``fresh``."""
        state = {"0": self.initial, "k": self.now, "fresh": self.fresh}[name]
        if state is None:
            raise LayoutError(f"weights of the state {name!r} are needed, and none were given")
        found: Vector = state[self.survivors]
        return found

    def survivor_sigma(self) -> npt.NDArray[np.float64]:
        """Return the initial standard deviation of the layer of each survivor."""
        table = kaiming_std(self.layout) if self.sigma is None else self.sigma
        sigma: npt.NDArray[np.float64] = table[self.layout.tensor_index()[self.survivors]]
        return sigma


def perturb(states: States, kind: PerturbationKind, generator: np.random.Generator) -> Vector:
    """Return the perturbed weights, shape (param,); pruned weights are zero."""
    survivors = states.survivors
    available = {
        "weights": lambda: states.of("k"),
        "initial": lambda: states.of("0"),
        "fresh": lambda: states.of("fresh"),
        "sigma": states.survivor_sigma,
        "survivors": lambda: survivors,
        "layout": lambda: states.layout,
        "rng": lambda: generator,
        "states": lambda: states,
    }
    options = {name: partial(lambda value: value, value) for name, value in kind.options.items()}
    values = np.asarray(call(kind.perturbation.function, {**available, **options}))
    if values.shape != survivors.shape:
        raise LayoutError(
            f"perturbation {kind} returned shape {values.shape}; accepted: {survivors.shape}, one "
            "value for each survivor"
        )
    result = np.where(states.mask, states.now, np.float32(0))
    result[survivors] = values
    return result


def effective_std(states: States, perturbed: Vector) -> float:
    """Return the standard deviation of w′ − w_k over the survivors (arXiv:2002.10365, 5.4)."""
    at = states.survivors
    change = perturbed[at].astype(np.float64) - states.now[at]
    return float(change.std()) if len(change) else 0.0


def unchanged(weights: Vector) -> Vector:
    """Return the survivors as they are."""
    return weights


def mixed(states: States, *, sign: str, magnitude: str) -> Vector:
    """Take signs of one state and magnitudes of another, which keep their signs where it is 0."""
    return _signed(states.of(sign), states.of(magnitude))


def constant(states: States, sigma: npt.NDArray[np.float64], *, sign: str) -> Vector:
    """Give every survivor its layer's sigma, with the signs of a state; positive where it is 0."""
    return _signed(states.of(sign), sigma.astype(np.float32))


def shuffled(states: States, rng: np.random.Generator, *, group: str, signs: str = "") -> Vector:
    """Permute the survivors within each group, one of `GROUPS`.

    With `signs` ``keep-signs``, positive and negative survivors are permuted apart and zeros stay;
    with ``initial-signs``, magnitudes are permuted and take the signs of w_0.
    """
    values = states.of("k")
    result = values.copy()
    for stretch in _groups(states, group):
        part = values[stretch]
        if signs == "keep-signs":
            for side in (part > 0, part < 0):
                part[side] = rng.permutation(part[side])
        else:
            part = rng.permutation(part)
        result[stretch] = part
    return _signed(states.of("0"), result) if signs == "initial-signs" else result


def noisy(
    weights: Vector,
    rng: np.random.Generator,
    sigma: npt.NDArray[np.float64],
    *,
    scale: float,
) -> Vector:
    """Add Gaussian noise of `scale` sigmas."""
    noise = rng.standard_normal(len(weights)) * scale * sigma
    return (weights + noise).astype(np.float32)


def reinitialised(fresh: Vector) -> Vector:
    """Take the survivors of a fresh initialisation."""
    return fresh


def _signed(signs: Vector, magnitudes: Vector) -> Vector:
    """Give magnitudes the signs of others; where those are zero, they keep their own."""
    return np.where(signs == 0, magnitudes, np.copysign(magnitudes, signs))


def _groups(states: States, group: str) -> Iterator[slice]:
    """Yield the stretches of the survivors that are shuffled among themselves."""
    ends: list[int] = [0]
    for tensor in states.layout.tensors if group != "global" else ():
        pieces = tensor.shape[0] if group == "filter" and tensor.shape else 1
        width = tensor.size // max(pieces, 1)
        ends += [tensor.offset + width * i for i in range(1, pieces)]
        ends.append(tensor.offset + tensor.size)
    ends.append(states.layout.parameters)
    bounds: Any = np.searchsorted(states.survivors, ends)
    for a, b in itertools.pairwise(bounds):
        if b - a > 1:
            yield slice(int(a), int(b))
