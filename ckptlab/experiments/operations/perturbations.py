"""Perturbed weights: pure functions of a snapshot, the initialisation and a generator.

Only survivors change: weights that pruning may
remove and the mask keeps. The mask stays as it is, and so do biases and batch norm.

References
----------
Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import LayoutError
from ckptlab.experiments.operations.pruning import prunable
from ckptlab.experiments.operations.registry import Kind
from ckptlab.store.format.layout import Layout, Tensor

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class States:
    """What a perturbation is computed from.

    Parameters
    ----------
    now : ndarray of float32, shape (param,)
        Weights at the step perturbed, w_k.
    initial : ndarray of float32, shape (param,), or None
        Weights at the start of training, w_0, where a kind needs them.
    fresh : ndarray of float32, shape (param,), or None
        Another initialisation, where a kind needs one.
    mask : ndarray of bool, shape (param,)
        Which weights are kept.
    layout : Layout
        The tensor table.
    """

    now: Vector
    initial: Vector | None
    fresh: Vector | None
    mask: npt.NDArray[np.bool_]
    layout: Layout

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


def perturb(states: States, kind: Kind, generator: np.random.Generator) -> Vector:
    """Perturb a snapshot.

    Parameters
    ----------
    states : States
        The snapshot and what it is mixed with.
    kind : Kind
        The perturbation.
    generator : Generator
        Draws permutations and noise.

    Returns
    -------
    ndarray of float32, shape (param,)
        Pruned weights are zero; unprunable ones are those of the snapshot.
    """
    result = np.where(states.mask, states.now, np.float32(0))
    values = kind.perturbation.function(states, generator, **kind.options)
    result[states.survivors] = values
    return result


def effective_std(states: States, perturbed: Vector) -> float:
    """Return the standard deviation of w′ − w_k over the survivors (arXiv:2002.10365, 5.4)."""
    at = states.survivors
    change = perturbed[at].astype(np.float64) - states.now[at]
    return float(change.std()) if len(change) else 0.0


def initial_std(tensor: Tensor) -> float:
    """Return √(2 / fan_in), the standard deviation a tensor is initialised with."""
    return math.sqrt(2 / max(math.prod(tensor.shape[1:]), 1))


def unchanged(states: States, generator: np.random.Generator) -> Vector:  # noqa: ARG001
    """Return the survivors as they are.

    Parameters
    ----------
    states, generator : object
        Every perturbation is called alike.

    Returns
    -------
    ndarray of float32, shape (survivors,)
        Those of w_k.
    """
    return states.of("k")


def mixed(
    states: States,
    generator: np.random.Generator,  # noqa: ARG001 - every perturbation is called alike
    *,
    sign: str,
    magnitude: str,
) -> Vector:
    """Take signs of one state and magnitudes of another, sign(w_a)·|w_b|.

    Parameters
    ----------
    states : States
        The states.
    generator : Generator
        Unused.
    sign, magnitude : str
        ``0``, ``k`` or ``fresh``.

    Returns
    -------
    ndarray of float32, shape (survivors,)
        Where w_a is zero and has no sign, the sign of w_b is kept.
    """
    return _signed(states.of(sign), states.of(magnitude))


def constant(states: States, generator: np.random.Generator, *, sign: str) -> Vector:  # noqa: ARG001
    """Give every survivor of a layer the same magnitude, its initial standard deviation.

    Parameters
    ----------
    states : States
        The states.
    generator : Generator
        Unused.
    sign : str
        Whose signs: ``0``, ``k`` or ``fresh``.

    Returns
    -------
    ndarray of float32, shape (survivors,)
        Where that state is zero, positive.
    """
    return _signed(states.of(sign), _sigma(states).astype(np.float32))


def shuffled(
    states: States, generator: np.random.Generator, *, group: str, signs: str = ""
) -> Vector:
    """Permute the survivors within groups.

    Parameters
    ----------
    states : States
        The states.
    generator : Generator
        Draws the permutations.
    group : str
        ``global``, ``layer`` or ``filter``, which is index 0 of a tensor's first dimension.
    signs : str
        Empty; ``keep-signs``: permute positive and negative survivors of a group apart, zeros stay;
        ``initial-signs``: permute magnitudes and give them the signs of w_0.

    Returns
    -------
    ndarray of float32, shape (survivors,)
        Each group holds the values, or magnitudes, it held before.
    """
    values = states.of("k")
    result = values.copy()
    for stretch in _groups(states, group):
        part = values[stretch]
        if signs == "keep-signs":
            for side in (part > 0, part < 0):
                part[side] = generator.permutation(part[side])
        else:
            part = generator.permutation(part)
        result[stretch] = part
    return _signed(states.of("0"), result) if signs == "initial-signs" else result


def noisy(states: States, generator: np.random.Generator, *, scale: float) -> Vector:
    """Add Gaussian noise of some initial standard deviations of each layer.

    Parameters
    ----------
    states : States
        The states.
    generator : Generator
        Draws the noise.
    scale : float
        In units of √(2 / fan_in).

    Returns
    -------
    ndarray of float32, shape (survivors,)
        w_k + N(0, (scale σ)²).
    """
    values = states.of("k")
    noise = generator.standard_normal(len(values)) * scale * _sigma(states)
    return (values + noise).astype(np.float32)


def reinitialised(states: States, generator: np.random.Generator) -> Vector:  # noqa: ARG001
    """Take the survivors of a fresh initialisation.

    Parameters
    ----------
    states : States
        With a fresh initialisation.
    generator : Generator
        Unused: the initialisation has a seed of its own.

    Returns
    -------
    ndarray of float32, shape (survivors,)
        Its values.
    """
    return states.of("fresh")


def _signed(signs: Vector, magnitudes: Vector) -> Vector:
    """Give magnitudes the signs of others, and leave them their own where those are zero."""
    return np.where(signs == 0, magnitudes, np.copysign(magnitudes, signs))


def _sigma(states: States) -> npt.NDArray[np.float64]:
    """Return the initial standard deviation of the layer of each survivor."""
    table = np.array([initial_std(tensor) for tensor in states.layout.tensors])
    sigma: npt.NDArray[np.float64] = table[states.layout.tensor_index()[states.survivors]]
    return sigma


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
