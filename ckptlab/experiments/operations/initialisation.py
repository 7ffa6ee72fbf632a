"""The weights of a fresh initialisation, as a parameter vector."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ckptlab.record.state.model_tensors import capture
from ckptlab.store.format.layout import Layout
from ckptlab.train.config import Config
from ckptlab.train.estimate import task_shape
from ckptlab.train.models.build import build_model


def fresh_weights(config: Config, seed: int) -> npt.NDArray[np.float32]:
    """Initialise the network of some settings.

    Parameters
    ----------
    config : Config
        The settings.
    seed : int
        As `train.init_seed`.

    Returns
    -------
    ndarray of float32, shape (param,)
        What a training with that seed has at step 0.
    """
    model = build_model(config.model, task_shape(config), seed)
    parts = [p.detach().float().reshape(-1).numpy() for p in capture(model).parameters]
    vector: npt.NDArray[np.float32] = np.concatenate(parts)
    return vector


def layout_of(config: Config) -> Layout:
    """Return the tensor table of the network of some settings."""
    return capture(build_model(config.model, task_shape(config), 0)).layout
