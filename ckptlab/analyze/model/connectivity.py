"""Measure linear mode connectivity: loss and error on the line between two snapshots."""

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
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import (
    ExampleScores,
    ReplayModel,
    Vectors,
    read_step,
    require_same_tensors,
)
from ckptlab.analyze.model.symmetries import symmetries
from ckptlab.analyze.model.weight_matching import Symmetry
from ckptlab.errors import ConfigError, StepError, spell, unknown_name
from ckptlab.problems.examples import Subset, draw
from ckptlab.problems.scores import Accuracy, right_answers
from ckptlab.record.schedule import parse_step
from ckptlab.store.read.reader import open_store

STATISTICS: tuple[str, ...] = ("recompute", "average")
"""How batch norm's running statistics are found between the ends."""

ALIGNMENTS: tuple[str, ...] = ("none", "weights")
"""How the units of one end are ordered before it is joined to the other."""


def connectivity(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    accuracy: Any = None,
    training_data: Any = None,
    other: Any = None,
    at: Any = "final",
    alphas: int = 30,
    statistics: str = "recompute",
    samples: int = 1024,
    seed: int = 0,
    batch_size: int = 256,
    align: str = "none",
    permutations: Any = None,
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
        Examples that the line is evaluated on, usually the test set.
    loss : callable, optional
        ``loss(outputs, targets)``; cross-entropy by default.
    accuracy : callable, optional
        ``accuracy(outputs, targets)``, one value per example; right answers by default.
    training_data : (inputs, targets) or Dataset, optional
        For ``statistics="recompute"`` of a network with batch norm.
    other : str, recording, or (recording, step)
        W₂: ``RUN`` (its final step), ``RUN@STEP``, or ``@STEP`` of the same run.
    at : str or int
        Step of W₁: ``init``, ``final`` or a step.
    alphas : int
        Number of α, both ends included.
    statistics : str
        Running statistics of batch norm: ``recompute`` them on the training data, at the ends too;
        or ``average`` those of the two ends with the same α.
    samples, seed : int
        Number of training examples that statistics are recomputed on, and the seed of their draw.
    batch_size : int
        Examples at once; recomputed statistics are means over such batches.
    align : str
        ``weights``: first bring the units of W₂ into the order in which its weights are closest to
        those of W₁, by weight matching (Ainsworth et al. 2023, arXiv:2209.04836); or ``none``.
    permutations : mapping, optional
        For the alignment: by name of a parameter or buffer, the name of the permutation of each
        axis, or None. By default it is read off the network, if it has convolutions, linear layers,
        batch norm, activations, pooling and sums alone.
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
    if align not in ALIGNMENTS:
        raise unknown_name(f"value of {spell('align')}", str(align), ALIGNMENTS)
    if statistics not in STATISTICS:
        raise unknown_name(f"value of {spell('statistics')}", str(statistics), STATISTICS)
    first, near_column = _snapshot(source, at, "at")
    second, far_column = _other(source, other)
    require_same_tensors(source.layout, second.layout, (source.path, second.path))
    replay = ReplayModel(source, model, loss)
    near, far = read_step(first, near_column), read_step(second, far_column)
    moved = None
    if align == "weights":
        symmetry = Symmetry(permutations or symmetries(replay.model), source.layout)
        orders = symmetry.match(near, far, seed)
        far = symmetry.apply(far, orders)
        moved = sum(int((order != np.arange(len(order))).sum()) for order in orders.values())
    subset = draw(data, None, 0, batch_size)
    refresh = _recomputed_on(replay, statistics, training_data, samples, seed, batch_size)
    grid = np.linspace(0, 1, alphas)
    held = refresh if refresh is None or scheduler is None else refresh.in_memory()
    scores = accuracy or right_answers
    measure = partial(_evaluations, near=near, far=far, refresh=held, accuracy=scores)
    found = spread(measure, replay, subset, grid, scheduler)
    losses = np.array([scores.loss for scores in found])
    errors = 1 - np.array([scores.accuracy for scores in found])
    attrs: dict[str, Any] = {
        "line": "alpha * one + (1 - alpha) * other",
        "one": f"{first.path}@{first.steps[near_column]}",
        "other": f"{second.path}@{second.steps[far_column]}",
        "data": subset.name,
        "loss_function": replay.loss.name,
        "precision": replay.precision,
        "batch_norm": _policy(replay, statistics, refresh),
    }
    if moved is not None:
        attrs |= {"align": "weight matching", "units_moved": moved}
    return _result(grid, losses, errors, replay.loss.units, attrs)


def _evaluations(
    model: ReplayModel,
    subset: Subset,
    alphas: Sequence[float],
    before: float | None,
    *,
    near: Vectors,
    far: Vectors,
    refresh: Subset | None,
    accuracy: Accuracy,
) -> list[ExampleScores]:
    """Evaluate points of the line, with statistics recomputed on `refresh` if it is given."""
    del before
    found = []
    for alpha in paced(alphas):
        model.load(interpolate(near, far, float(alpha)))
        if refresh is not None:
            recompute_statistics(model, refresh)
        found.append(model.evaluate(subset, accuracy))
    return found


def interpolate(one: Vectors, other: Vectors, alpha: float) -> Vectors:
    """Return alpha * one + (1 - alpha) * other, averaged in float64 and rounded once.

    Whole numbers are those of the nearer end.
    """
    point = {}
    for name, values in one.items():
        if values.dtype.kind == "f":
            mean = alpha * values.astype(float) + (1 - alpha) * other[name].astype(float)
            # An end is exact, also where the other one is infinite.
            mean = {0.0: other[name], 1.0: values}.get(alpha, mean)
            point[name] = mean.astype(values.dtype)
        else:
            point[name] = values if alpha >= 0.5 else other[name]
    return point


def recompute_statistics(model: ReplayModel, subset: Subset) -> None:
    """Set batch norm's running statistics to their means over batches of the subset.

    A smaller last batch is left out, so that each batch counts the same.
    """
    momenta = [norm.momentum for norm in model.norms]
    for norm in model.norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    with torch.no_grad():
        for number, (inputs, _) in enumerate(subset.batches(model.device)):
            if number == 0 or len(inputs) == subset.batch_size:
                model.model(inputs)
    for norm, momentum in zip(model.norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _recomputed_on(
    model: ReplayModel,
    statistics: str,
    training_data: Any,
    samples: int,
    seed: int,
    batch_size: int,
) -> Subset | None:
    """Return the examples that statistics are recomputed on; None if they are not."""
    if statistics == "average" or not _tracking(model):
        return None
    if training_data is None:
        raise ConfigError(
            f"{spell('statistics', 'recompute')} needs training_data=(inputs, targets); pass it, "
            f"or use {spell('statistics', 'average')}"
        )
    return draw(training_data, samples, seed, batch_size)


def _tracking(model: ReplayModel) -> list[nn.Module]:
    return [norm for norm in model.norms if norm.track_running_stats]


def _policy(model: ReplayModel, statistics: str, refresh: Subset | None) -> str:
    if not _tracking(model):
        return "no running statistics in the model"
    if refresh is None:
        return f"{statistics}: running statistics of the two ends, averaged with the same alpha"
    return f"{statistics}: {refresh.name}, mean over batches of {refresh.batch_size}"


def _other(source: Source, other: Any) -> tuple[Source, int]:
    """Find the other recording, and the position of the wanted step in it."""
    if other is None:
        raise ConfigError(
            f"connectivity needs another snapshot: {spell('other', 'RUN[@STEP]')}, or "
            f"{spell('other', '@STEP')} of this run"
        )
    if isinstance(other, tuple):
        return _snapshot(as_source(other[0]), other[1], "other", "@")
    if not isinstance(other, str) and not hasattr(other, "__fspath__"):
        return _snapshot(as_source(other), "final", "other", "@")
    text = str(other)
    path, mark, step = text.rpartition("@")
    if not mark or not _is_step(step, source):
        path, step = text, "final"
    second = as_source(open_store(path)) if path else source
    return _snapshot(second, step, "other", f"{path}@")


def _is_step(text: str, source: Source) -> bool:
    if text in ("init", "final"):
        return True
    try:
        parse_step(text, steps_per_epoch(source) or 1)
    except StepError:
        return False
    return True


def _snapshot(source: Source, step: Any, parameter: str, before: str = "") -> tuple[Source, int]:
    """Return the recording that holds a step, and its position there.

    Step 0 of a branch is in the run that it left.
    """
    reference = find_reference(source, step, parameter, before)
    if reference.ancestor is not None and reference.step is not None:
        return as_source(reference.ancestor), reference.ancestor.column(reference.step)
    if reference.column is None:
        given = spell(parameter, f"{before}{step}")
        raise ConfigError(f"{given} names no single snapshot; use init, final or a step")
    return source, reference.column


def _result(grid: Any, losses: Any, errors: Any, units: str, attrs: dict[str, Any]) -> xr.Dataset:
    def rise(values: Any) -> float:
        return float(values.max() - (values[0] + values[-1]) / 2)

    return xr.Dataset(
        {
            "loss": ("alpha", losses, {"units": units, "long_name": "loss"}),
            "error": ("alpha", errors, {"units": "1", "long_name": "error"}),
            "instability": ((), rise(errors), {"units": "1", "long_name": "instability"}),
            "loss_barrier": ((), rise(losses), {"units": units, "long_name": "loss barrier"}),
        },
        {"alpha": ("alpha", grid, {"units": "1", "long_name": "alpha, 1 at this run"})},
        attrs,
    )
