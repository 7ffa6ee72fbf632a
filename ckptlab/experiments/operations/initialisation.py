"""Initialise a network again: its weights, tensor table and standard deviations."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ckptlab.record.state.model_tensors import capture
from ckptlab.store.format.layout import Layout
from ckptlab.train.config import Config
from ckptlab.train.models.build import build_model
from ckptlab.train.models.registry import find_model
from ckptlab.train.problem_build import build_problem

DRAWN_VALUES = 20_000
"""Values drawn for each standard deviation, known to 1 in 200 then."""

MOST_DRAWS = 32
"""Most initialisations drawn for small tensors."""

MOST_VALUES = 2 * 10**8
"""Most values drawn in all, unless one initialisation is more."""


def fresh_weights(config: Config, seed: int) -> npt.NDArray[np.float32]:
    """Return the weights that training with `seed` as `train.init_seed` has at step 0."""
    model = build_model(build_problem(config).model, seed)
    parts = [p.detach().float().reshape(-1).numpy() for p in capture(model).parameters]
    vector: npt.NDArray[np.float32] = np.concatenate(parts)
    return vector


def layout_of(config: Config) -> Layout:
    """Return the tensor table of a network."""
    return capture(build_model(build_problem(config).model, 0)).layout


def is_kaiming(config: Config) -> bool:
    """Return whether ckptlab itself initialises the network: Kaiming normal by fan in."""
    return config.problem.name is None and not find_model(config.model.name)[0].own_init


def kaiming_std(layout: Layout) -> npt.NDArray[np.float64]:
    """Return √(2 / fan_in) of each tensor."""
    fans = [max(math.prod(tensor.shape[1:]), 1) for tensor in layout.tensors]
    return np.array([math.sqrt(2 / fan) for fan in fans])


def drawn_std(config: Config) -> npt.NDArray[np.float64]:
    """Measure the standard deviation of each tensor over several initialisations."""
    layout = layout_of(config)
    smallest = min((t.size for t in layout.tensors if t.prunable), default=DRAWN_VALUES)
    draws = min(-(-DRAWN_VALUES // max(smallest, 1)), MOST_DRAWS, MOST_VALUES // layout.parameters)
    sums = np.zeros((2, len(layout.tensors)))
    count = np.array([max(tensor.size, 1) for tensor in layout.tensors]) * max(draws, 1)
    for seed in range(max(draws, 1)):
        vector = fresh_weights(config, seed)
        for k, tensor in enumerate(layout.tensors):
            part = vector[tensor.stretch].astype(np.float64)
            sums[:, k] += part.sum(), part @ part
    mean, square = sums / count
    deviation: npt.NDArray[np.float64] = np.sqrt(np.maximum(square - mean**2, 0))
    return deviation
