"""Build the problem that settings describe: a user's own, or of model, data, task and loss."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ckptlab.errors import ConfigError
from ckptlab.problems.examples import TensorExamples
from ckptlab.problems.problem import Problem
from ckptlab.registry import resolve
from ckptlab.train.data import Data, own_halves
from ckptlab.train.factories import call
from ckptlab.train.image_problem import image_problem
from ckptlab.train.models.registry import find_model
from ckptlab.train.problem_settings import ACCURACIES, LOSSES, PROBLEMS, ProblemConfig
from ckptlab.train.tasks.registry import PlainTaskConfig

if TYPE_CHECKING:
    from ckptlab.train.config import Config


def build_problem(
    config: Config,
    device: torch.device | str = "cpu",
    *,
    data: Data | None = None,
    download: bool = True,
) -> Problem:
    """Build a problem, with its examples on a device; images are read when first needed.

    Parameters
    ----------
    config : Config
        The settings.
    device : device
        Where the training is.
    data : Data, optional
        The images on the device, where they were read before.
    download : bool
        Whether images that are absent may be downloaded.

    Returns
    -------
    Problem
        Model, loss and examples.

    Raises
    ------
    ConfigError, DataError
        If the settings do not fit together, or the user's objects are not what is needed.
    """
    if config.problem.name is not None:
        return _own(config.problem, str(device))
    halves = None if data is not None else own_halves(config.data)
    if halves is None:
        return image_problem(config, device, data, download=download, **_scores(config))
    return _of_halves(config, halves, torch.device(device))


def _own(config: ProblemConfig, device: str) -> Problem:
    entry = PROBLEMS.find(str(config.name), "problem.name")
    return _built(entry.build, config.model_dump_json(), device)


@functools.lru_cache(maxsize=2)
def _built(build: Callable[..., Any], text: str, device: str) -> Problem:
    """Call a user's function once for each process, since it may read data."""
    settings = json.loads(text)
    name = f"problem.name={settings['name']!r}"
    problem = call(build, "problem.name", {}, settings.get("options", {}))
    if not isinstance(problem, Problem):
        raise ConfigError(f"{name} returns {type(problem).__name__}; a ckptlab.Problem is needed")
    place = torch.device(device)
    problem.train, problem.test = problem.train.to(place), problem.test.to(place)
    return problem


def _scores(config: Config) -> dict[str, Any]:
    entry = LOSSES.find(config.loss.name, "loss.name")
    loss = resolve(entry.loss) if isinstance(entry.loss, str) else entry.loss
    accuracy = ACCURACIES.find(config.loss.accuracy or entry.accuracy, "loss.accuracy").score
    return {
        "loss": loss() if inspect.isclass(loss) else loss,
        "accuracy": resolve(accuracy) if isinstance(accuracy, str) else accuracy,
    }


def _of_halves(config: Config, halves: tuple[Any, Any], device: torch.device) -> Problem:
    """Make the problem of data that are no images."""
    data = config.data
    if data.flip is not None or data.crop is not None or config.task != PlainTaskConfig():
        raise ConfigError(
            f"data.name={data.name!r} gives examples that are no images; data.flip, data.crop and "
            "task.* change images, leave them out"
        )
    family, _ = find_model(config.model.name)
    if isinstance(family.build, str):
        raise ConfigError(
            f"model.name={config.model.name!r} takes images, and data.name={data.name!r} gives "
            "other examples; name a model of your own, model.name=module:function"
        )
    train, test = halves
    made = partial(call, family.build, "model.name", _sizes(train), config.model.options)
    return Problem(model=made, train=train.to(device), test=test.to(device), **_scores(config))


def _sizes(train: Any) -> dict[str, Any]:
    """Return what a model may ask for: the shape of an input, and the number of classes."""
    inputs, targets = train.take(torch.arange(1))
    offered: dict[str, Any] = {"input_shape": tuple(inputs.shape[1:])}
    if isinstance(train, TensorExamples) and not targets.is_floating_point():
        offered["classes"] = int(train.targets.max()) + 1
    return offered
