"""Measure the gradient over many training examples at recorded steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import Selection
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import ReplayModel
from ckptlab.errors import LayoutError
from ckptlab.problems.examples import Subset, draw

Array = npt.NDArray[Any]


def full_gradients(
    source: Source,
    selection: Selection,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    mask: Any = None,
    samples: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "train",
    scheduler: Any = None,
) -> tuple[Array, Array, dict[str, Any]]:
    """Magnitudes of the gradient of the mean loss over many examples, by group.

    Parameters
    ----------
    source : Source
        The recording.
    selection : Selection
        Steps and groups.
    model : Module
        The network that was recorded; copied.
    data : (inputs, targets) or Dataset
        Training examples.
    loss : callable, optional
        ``loss(outputs, targets)``; cross-entropy by default.
    mask : object, optional
        As `load_mask` takes it; the run's own mask applies in any case.
    samples : int, optional
        Size of a fixed subset of the data; all of it by default.
    seed : int
        Seed of the draw of the subset.
    batch_size : int
        Examples at once; with ``batch_norm="train"`` also the batch that statistics are of.
    batch_norm : str
        ``train``, statistics of each batch as in training, or ``eval``, the recorded ones.
    scheduler : object
        As `spread` takes it.

    Returns
    -------
    norm, mean : ndarray of float64, shape (groups, step)
        L2 norm and mean absolute value over the selected surviving weights; NaN in a group
        without any.
    about : dict
        How the numbers were made, for attributes.

    Raises
    ------
    LayoutError
        If no trained parameter is selected, or the model is not the one recorded.
    """
    replay = ReplayModel(source, model, loss, batch_norm=batch_norm, mask=mask)
    subset = draw(data, samples, seed, batch_size)
    group = selection.group[replay.positions]
    groups = len(selection.names)
    weights = np.bincount(group[group >= 0], minlength=groups)[:, None]
    if not weights.any():
        raise LayoutError(f"no trained parameter is of kinds {','.join(selection.kinds)}")
    measure = partial(_sums, group=group, groups=groups)
    found = np.array(spread(measure, replay, subset, selection.columns, scheduler))
    squares, magnitudes = found.transpose(1, 2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        norm = np.where(weights > 0, np.sqrt(squares), np.nan)
        mean = np.where(weights > 0, magnitudes / weights, np.nan)
    what = "of the mean loss over the data, at the step, without augmentation or weight decay"
    return norm, mean, {"gradient": what, **replay.describe(subset)}


def _sums(
    model: ReplayModel,
    subset: Subset,
    columns: Sequence[int],
    before: int | None,
    *,
    group: npt.NDArray[np.int32],
    groups: int,
) -> list[Array]:
    """Return Σg² and Σ|g| of each group, at each step."""
    del before
    chosen = group >= 0
    found = []
    for column in paced(columns):
        model.load_step(column)
        gradient, _ = model.gradient(subset)
        own = gradient[chosen]
        parts = [np.bincount(group[chosen], values, groups) for values in (own * own, np.abs(own))]
        found.append(np.stack(parts))
    return found
