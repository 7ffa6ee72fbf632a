"""Snapshots evaluated on the test set after the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.labels import EVALUATIONS, STEP_ATTRIBUTES
from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import select_columns
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.model.examples import Subset, whole
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import Evaluated, Problem
from ckptlab.errors import ConfigError


def reevaluate(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = None,
    correct: bool = False,
    batch_size: int = 256,
    scheduler: Any = None,
) -> xr.Dataset:
    """Loss and accuracy of any snapshots, with batch norm's running statistics as recorded.

    Parameters
    ----------
    source : Source
        The recording.
    model : Module
        The network that was recorded; copied.
    data : (inputs, targets) or Dataset
        The test set.
    loss : callable, optional
        ``loss(outputs, targets)``; cross-entropy by default.
    steps : str, int or slice, optional
        Which recorded steps; by default those evaluated during the training, or all if none was.
    correct : bool
        Say of every example whether it was answered right.
    batch_size : int
        Examples at once.
    scheduler : object
        As `spread` takes it.

    Returns
    -------
    Dataset, dims (eval_step,)
        `eval_loss`, `eval_accuracy`, and with `correct` the bool `correct` (eval_step, example).

    Raises
    ------
    ConfigError
        If `correct` is asked for and the targets are no classes.
    LayoutError
        If the model is not the one recorded.
    """
    problem = Problem(source, model, loss)
    subset = whole(data, batch_size)
    columns = _evaluated(source) if steps is None else select_columns(source, steps)
    found = spread(_evaluations, problem, subset, columns, scheduler)
    if correct and not len(found[0].correct):
        raise ConfigError("correct needs outputs (examples, classes) and whole-number targets")
    series = {
        "eval_loss": [evaluated.loss for evaluated in found],
        "eval_accuracy": [evaluated.accuracy for evaluated in found],
    }
    data_vars: dict[str, Any] = {
        name: ("eval_step", np.array(values), dict(zip(("units", "long_name"), about, strict=True)))
        for (name, values), about in zip(series.items(), EVALUATIONS.values(), strict=True)
    }
    if correct:
        verdicts = np.stack([evaluated.correct for evaluated in found])
        data_vars["correct"] = (("eval_step", "example"), verdicts, {"long_name": "answered right"})
    coords = {"eval_step": ("eval_step", source.steps[columns], dict(STEP_ATTRIBUTES))}
    about = {"evaluated": "afterwards", "data": subset.name, "loss": problem.loss.name}
    return xr.Dataset(data_vars, coords, {**about, "batch_norm": problem.batch_norm})


def _evaluations(
    problem: Problem, subset: Subset, columns: Sequence[int], before: int | None
) -> list[Evaluated]:
    del before
    found = []
    for column in paced(columns):
        problem.load_step(column)
        found.append(problem.evaluate(subset))
    return found


def _evaluated(source: Source) -> npt.NDArray[np.int64]:
    at = source.small("eval_step") if source.has("eval_step") else np.zeros(0)
    columns = np.flatnonzero(np.isin(source.steps, at))
    return columns if len(columns) else select_columns(source, None)
