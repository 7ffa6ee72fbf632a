"""Linear mode connectivity: loss and error on the straight line between two snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import find_reference, steps_per_epoch
from ckptlab.analyze.engine.source import Source, as_source
from ckptlab.analyze.model.examples import Subset, draw, whole
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import (
    Evaluated,
    Problem,
    Vectors,
    read_step,
    require_same_tensors,
)
from ckptlab.errors import ConfigError, StepError, unknown_name
from ckptlab.record.schedule import parse_step
from ckptlab.store.read.reader import open_store

STATISTICS: tuple[str, ...] = ("recompute", "average")
"""Running statistics of batch norm between the ends."""


def connectivity(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    training_data: Any = None,
    other: Any = None,
    at: Any = "final",
    alphas: int = 30,
    statistics: str = "recompute",
    samples: int = 1024,
    seed: int = 0,
    batch_size: int = 256,
    scheduler: Any = None,
) -> xr.Dataset:
    """Loss and error on the line between two snapshots, and the instability.

    Parameters
    ----------
    source : Source
        The recording that holds W₁.
    model : Module
        The network that was recorded; copied.
    data : (inputs, targets) or Dataset
        What the line is evaluated on, usually the test set.
    loss : callable, optional
        ``loss(outputs, targets)``; cross-entropy by default.
    training_data : (inputs, targets) or Dataset, optional
        For ``statistics="recompute"`` of a network with batch norm.
    other : str, recording, or (recording, step)
        Where W₂ is: ``RUN`` (its final step), ``RUN@STEP``, or ``@STEP`` of the same run.
    at : str or int
        Step of W₁: ``init``, ``final`` or a step.
    alphas : int
        How many α, both ends included.
    statistics : str
        Running statistics of batch norm: ``recompute``, on the training data, at the ends too; or
        ``average``, of the two ends with the same α.
    samples, seed : int
        Training examples the statistics are recomputed on, and the seed of their draw.
    batch_size : int
        Examples at once; recomputed statistics are means over such batches.
    scheduler : object
        As `spread` takes it.

    Returns
    -------
    Dataset, dims (alpha,)
        `loss` and `error`; `instability`, the highest error less the mean of those at the ends,
        and `loss_barrier`, the same of the loss.

    Raises
    ------
    ConfigError
        If there is no other snapshot, or statistics need training data that is not given.
    LayoutError
        If the snapshots are not of one model, or `model` is another.
    MissingStepError
        If a step was not recorded.
    """
    if statistics not in STATISTICS:
        raise unknown_name("value of statistics", str(statistics), STATISTICS)
    second, wanted = _other(source, other)
    require_same_tensors(source.layout, second.layout, (source.path, second.path))
    problem = Problem(source, model, loss)
    positions = [_column(source, at), _column(second, wanted)]
    near, far = read_step(source, positions[0]), read_step(second, positions[1])
    subset = whole(data, batch_size)
    refresh = _refresher(problem, statistics, training_data, samples, seed, batch_size)
    grid = np.linspace(0, 1, alphas)
    held = refresh if refresh is None or scheduler is None else refresh.held()
    measure = partial(_evaluations, near=near, far=far, refresh=held)
    found = spread(measure, problem, subset, grid, scheduler)
    losses = np.array([evaluated.loss for evaluated in found])
    errors = 1 - np.array([evaluated.accuracy for evaluated in found])
    attrs = {
        "line": "alpha * one + (1 - alpha) * other",
        "one": f"{source.path}@{source.steps[positions[0]]}",
        "other": f"{second.path}@{second.steps[positions[1]]}",
        "data": subset.name,
        "loss_function": problem.loss.name,
        "batch_norm": _policy(problem, statistics, refresh),
    }
    return _result(grid, losses, errors, attrs)


def _evaluations(
    problem: Problem,
    subset: Subset,
    alphas: Sequence[float],
    before: float | None,
    *,
    near: Vectors,
    far: Vectors,
    refresh: Subset | None,
) -> list[Evaluated]:
    """Evaluate each point of the line, its statistics recomputed on `refresh` if it is given."""
    del before
    found = []
    for alpha in paced(alphas):
        problem.load(between(near, far, float(alpha)))
        if refresh is not None:
            recompute(problem, refresh)
        found.append(problem.evaluate(subset))
    return found


def between(one: Vectors, other: Vectors, alpha: float) -> Vectors:
    """Take the point α of the way from `other` to `one`.

    Parameters
    ----------
    one, other : dict of str to ndarray
        What belongs to two snapshots.
    alpha : float
        In [0, 1]; 1 is `one`.

    Returns
    -------
    dict of str to ndarray
        Averaged in float64 and rounded once; whole numbers are those of the nearer end.
    """
    point = {}
    for name, values in one.items():
        if values.dtype.kind == "f":
            mean = alpha * values.astype(float) + (1 - alpha) * other[name].astype(float)
            # An end is itself, also where the other one is infinite.
            mean = {0.0: other[name], 1.0: values}.get(alpha, mean)
            point[name] = mean.astype(values.dtype)
        else:
            point[name] = values if alpha >= 0.5 else other[name]
    return point


def recompute(problem: Problem, subset: Subset) -> None:
    """Set batch norm's running statistics to means over batches of some examples.

    Parameters
    ----------
    problem : Problem
        Its model is changed.
    subset : Subset
        Training examples; a smaller last batch is left out, so that each counts the same.
    """
    momenta = [norm.momentum for norm in problem.norms]
    for norm in problem.norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    with torch.no_grad():
        for number, (inputs, _) in enumerate(subset.batches(problem.device)):
            if number == 0 or len(inputs) == subset.batch_size:
                problem.model(inputs)
    for norm, momentum in zip(problem.norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _refresher(
    problem: Problem,
    statistics: str,
    training_data: Any,
    samples: int,
    seed: int,
    batch_size: int,
) -> Subset | None:
    """Return what statistics are to be recomputed on; None if they are not."""
    if statistics == "average" or not _tracking(problem):
        return None
    if training_data is None:
        raise ConfigError(
            "statistics='recompute' needs training_data=(inputs, targets); pass it, or use "
            "statistics=average"
        )
    return draw(training_data, samples, seed, batch_size)


def _tracking(problem: Problem) -> list[nn.Module]:
    return [norm for norm in problem.norms if norm.track_running_stats]


def _policy(problem: Problem, statistics: str, refresh: Subset | None) -> str:
    if not _tracking(problem):
        return "no running statistics in the model"
    if refresh is None:
        return f"{statistics}: running statistics of the two ends, averaged with the same alpha"
    return f"{statistics}: {refresh.name}, mean over batches of {refresh.batch_size}"


def _other(source: Source, other: Any) -> tuple[Source, Any]:
    """Find the other recording and the step wanted of it."""
    if other is None:
        raise ConfigError(
            "connectivity needs another snapshot: other=RUN[@STEP], or other=@STEP of this run"
        )
    if isinstance(other, tuple):
        return as_source(other[0]), other[1]
    if not isinstance(other, str) and not hasattr(other, "__fspath__"):
        return as_source(other), "final"
    text = str(other)
    path, mark, step = text.rpartition("@")
    if not mark or not _is_step(step, source):
        return as_source(open_store(text)), "final"
    return (as_source(open_store(path)) if path else source), step


def _is_step(text: str, source: Source) -> bool:
    if text in ("init", "final"):
        return True
    try:
        parse_step(text, steps_per_epoch(source) or 1)
    except StepError:
        return False
    return True


def _column(source: Source, step: Any) -> int:
    column = find_reference(source, step).column
    if column is None:
        raise ConfigError(f"{step!r} is no snapshot of its own; use init, final or a step")
    return column


def _result(grid: Any, losses: Any, errors: Any, attrs: dict[str, Any]) -> xr.Dataset:
    def rise(values: Any) -> float:
        return float(values.max() - (values[0] + values[-1]) / 2)

    return xr.Dataset(
        {
            "loss": ("alpha", losses, {"units": "nats", "long_name": "loss"}),
            "error": ("alpha", errors, {"units": "1", "long_name": "error"}),
            "instability": ((), rise(errors), {"units": "1", "long_name": "instability"}),
            "loss_barrier": ((), rise(losses), {"units": "nats", "long_name": "loss barrier"}),
        },
        {"alpha": ("alpha", grid, {"units": "1", "long_name": "alpha, 1 at this run"})},
        attrs,
    )
