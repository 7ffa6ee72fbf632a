"""Evaluate recorded steps on the test set after training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.labels import EVALUATIONS, STEP_ATTRIBUTES
from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import select_columns
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import ExampleScores, ReplayModel
from ckptlab.errors import ConfigError
from ckptlab.problems.examples import Subset, draw
from ckptlab.problems.scores import Accuracy, right_answers


def reevaluate(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    accuracy: Any = None,
    steps: Any = None,
    correct: bool = False,
    batch_size: int = 256,
    scheduler: Any = None,
) -> xr.Dataset:
    """Loss and accuracy at recorded steps, with batch norm's running statistics as recorded.

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
    accuracy : callable, optional
        ``accuracy(outputs, targets)``, one value per example; right answers by default.
    steps : str, int or slice, optional
        Recorded steps; by default those evaluated during training, or all if none was.
    correct : bool
        Return also whether each example was classified correctly.
    batch_size : int
        Examples that go through the model at once.
    scheduler : object
        As `spread` takes it.

    Returns
    -------
    Dataset, dims (eval_step,)
        `eval_loss`, `eval_accuracy`, and with `correct` the bool `correct` (eval_step, example).

    Raises
    ------
    ConfigError
        If `correct` is asked for and the targets are not classes.
    LayoutError
        If the model is not the one recorded.
    """
    replay = ReplayModel(source, model, loss)
    subset = draw(data, None, 0, batch_size)
    columns = _evaluated(source) if steps is None else select_columns(source, steps)
    measure = partial(_evaluations, accuracy=accuracy or right_answers)
    found = spread(measure, replay, subset, columns, scheduler)
    if correct and not len(found[0].correct):
        raise ConfigError(
            "correct needs an accuracy that is true or false for each example, such as outputs "
            "(examples, classes) against whole-number targets give"
        )
    series = {
        "eval_loss": [scores.loss for scores in found],
        "eval_accuracy": [scores.accuracy for scores in found],
    }
    data_vars: dict[str, Any] = {
        name: ("eval_step", np.array(values), {"units": units, "long_name": long_name})
        for (name, values), (units, long_name) in zip(
            series.items(), EVALUATIONS.values(), strict=True
        )
    }
    data_vars["eval_loss"][2]["units"] = replay.loss.units
    if correct:
        each = np.stack([scores.correct for scores in found])
        about = {"long_name": "whether classified correctly"}
        data_vars["correct"] = (("eval_step", "example"), each, about)
    coords = {"eval_step": ("eval_step", source.steps[columns], dict(STEP_ATTRIBUTES))}
    attrs = {"evaluated": "afterwards", **replay.describe(subset)}
    return xr.Dataset(data_vars, coords, attrs)


def _evaluations(
    model: ReplayModel,
    subset: Subset,
    columns: Sequence[int],
    before: int | None,
    *,
    accuracy: Accuracy,
) -> list[ExampleScores]:
    del before
    found = []
    for column in paced(columns):
        model.load_step(column)
        found.append(model.evaluate(subset, accuracy))
    return found


def _evaluated(source: Source) -> npt.NDArray[np.int64]:
    """Return the recorded steps that were evaluated during training, or all if none was."""
    at = source.small("eval_step") if source.has("eval_step") else np.zeros(0)
    columns = np.flatnonzero(np.isin(source.steps, at))
    return columns if len(columns) else select_columns(source, None)
