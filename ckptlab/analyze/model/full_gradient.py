"""The gradient over many training examples at once, at steps of a run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import Selection
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.model.examples import Subset, draw, whole
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import Problem
from ckptlab.errors import LayoutError

Array = npt.NDArray[Any]


def full_gradients(
    source: Source,
    selection: Selection,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
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
    samples : int, optional
        Size of a fixed subset of the data; all of it by default.
    seed : int
        Of the draw of the subset.
    batch_size : int
        Examples at once; with ``batch_norm="train"`` also what statistics are taken over.
    batch_norm : str
        ``train``, statistics of each batch as in the training, or ``eval``, running ones.
    scheduler : object
        As `spread` takes it.

    Returns
    -------
    norm, mean : ndarray of float64, shape (groups, step)
        L2 norm and mean absolute value; NaN in a group without a trained parameter.
    about : dict
        How it was made, for attributes.

    Raises
    ------
    LayoutError
        If no trained parameter is selected, or the model is not the one recorded.
    """
    problem = Problem(source, model, loss, batch_norm=batch_norm)
    subset = whole(data, batch_size) if samples is None else draw(data, samples, seed, batch_size)
    group = selection.group[problem.positions]
    groups = len(selection.names)
    weights = np.bincount(group[group >= 0], minlength=groups)[:, None]
    if not weights.any():
        raise LayoutError(f"no trained parameter is of kinds {','.join(selection.kinds)}")
    measure = partial(_sums, group=group, groups=groups)
    found = np.array(spread(measure, problem, subset, selection.columns, scheduler))
    squares, magnitudes = found.transpose(1, 2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        norm = np.where(weights > 0, np.sqrt(squares), np.nan)
        mean = np.where(weights > 0, magnitudes / weights, np.nan)
    about = {
        "gradient": "of the mean loss over the data, at the step, without augmentation",
        "data": subset.name,
        "batch_size": batch_size,
        "batch_norm": problem.batch_norm,
        "loss": problem.loss.name,
    }
    return norm, mean, about


def _sums(
    problem: Problem,
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
        problem.load_step(column)
        gradient, _ = problem.gradient(subset)
        own = gradient[chosen]
        parts = [np.bincount(group[chosen], values, groups) for values in (own * own, np.abs(own))]
        found.append(np.stack(parts))
    return found
