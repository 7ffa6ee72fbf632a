"""Register users' networks, data sets, tasks, optimizers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ckptlab.errors import ConfigError, PluginError
from ckptlab.registry import Registry, name_of, origin_of
from ckptlab.train.datasets.registry import DATA_SOURCES, data_source
from ckptlab.train.learning_rate import RATE_SCHEDULES, schedule_entry
from ckptlab.train.models.registry import MODELS, model_family
from ckptlab.train.optimizers import OPTIMIZERS, optimizer_entry
from ckptlab.train.problem_settings import (
    ACCURACIES,
    LOSSES,
    PROBLEMS,
    accuracy_entry,
    loss_entry,
    problem_entry,
)
from ckptlab.train.tasks.registry import TASKS, task_entry

Made = TypeVar("Made", bound=Callable[..., Any])


def model(*, name: str | None = None, summary: str = "") -> Callable[[Made], Made]:
    """Register a function or class that makes a network: ``-S model.name=NAME``.

    It is called with those of ``classes``, ``channels`` and ``image_size`` (a number, or height and
    width) that it has parameters for; its other parameters are options, ``-S
    model.options.depth=3``. The network keeps its own initialisation, drawn from
    ``train.init_seed``; it takes images of shape (batch, channels, height, width) and returns
    logits of shape (batch, classes). Where the examples are no images, it may have the parameters
    ``input_shape`` and ``classes``.

    Parameters
    ----------
    name : str, optional
        What users write; the function's name with hyphens by default.
    summary : str
        One line of documentation; the docstring's first by default.

    Returns
    -------
    callable
        The decorator, which returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken.

    Examples
    --------
    >>> @ckptlab.model(name="small-net")  # doctest: +SKIP
    ... def small_net(classes, channels, hidden=32): ...
    """
    return _decorator(MODELS, model_family, name, summary=summary)


def dataset(
    *, name: str | None = None, summary: str = "", flip: bool = False, crop: int = 0
) -> Callable[[Made], Made]:
    """Register a function that reads a data set: ``-S data.name=NAME``.

    It returns (training images, their labels, test images, their labels): uint8 images of shape
    (images, height, width) or (images, height, width, channels), and whole labels from 0 on. Other
    examples it returns as (training set, test set), each as `Problem` takes it. Its parameters are
    options, ``-S data.options.share=0.5``.

    Parameters
    ----------
    name, summary : str, optional
        As `model` takes them.
    flip : bool
        Whether training images are mirrored at random unless ``data.flip`` says otherwise.
    crop : int
        Padding of their random crop in pixels unless ``data.crop`` says otherwise.

    Returns
    -------
    callable
        The decorator, which returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken.
    """
    return _decorator(DATA_SOURCES, data_source, name, summary=summary, flip=flip, crop=crop)


def task(
    *,
    name: str | None = None,
    summary: str = "",
    training: str = "",
    evaluation: str = "",
    answers: tuple[str, ...] | None = None,
    square: bool = False,
) -> Callable[[Made], Made]:
    """Register a function that makes a task: ``-S task.name=NAME``.

    It is called with those of ``data`` and ``seed`` that it has parameters for, and returns a
    `ckptlab.train.tasks.task.Task`; its other parameters are options.

    Parameters
    ----------
    name, summary : str, optional
        As `model` takes them.
    training, evaluation : str
        What the network sees and must answer in an update and on the test set, stored with a run.
    answers : tuple of str, optional
        Names of the answers, unless they are the classes of the data.
    square : bool
        Whether images must be as high as wide.

    Returns
    -------
    callable
        The decorator, which returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken.
    """
    fields = {"training": training, "evaluation": evaluation, "answers": answers, "square": square}
    return _decorator(TASKS, task_entry, name, summary=summary, **fields)


def problem(*, name: str | None = None, summary: str = "") -> Callable[[Made], Made]:
    """Register a function that makes a problem of your own: ``-S problem.name=NAME``.

    It returns a `ckptlab.Problem`, which takes the place of model, data, task and loss; its
    parameters are options, ``-S problem.options.depth=3``. It is called once in each process.

    Parameters
    ----------
    name, summary : str, optional
        As `model` takes them.

    Returns
    -------
    callable
        The decorator, which returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken.

    Examples
    --------
    >>> @ckptlab.problem(name="line")  # doctest: +SKIP
    ... def line(noise=0.1): ...
    """
    return _decorator(PROBLEMS, problem_entry, name, summary=summary)


def loss(
    *, name: str | None = None, summary: str = "", accuracy: str = "none"
) -> Callable[[Made], Made]:
    """Register a loss: ``-S loss.name=NAME``.

    A function ``loss(outputs, targets)``, or a module class that is made without arguments, which
    returns the mean over a batch: a tensor of shape ().

    Parameters
    ----------
    name, summary : str, optional
        As `model` takes them.
    accuracy : str
        What counts as accuracy unless ``loss.accuracy`` says otherwise.

    Returns
    -------
    callable
        The decorator, which returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken.
    """
    return _decorator(LOSSES, loss_entry, name, summary=summary, accuracy=accuracy)


def accuracy(*, name: str | None = None, summary: str = "") -> Callable[[Made], Made]:
    """Register what counts as accuracy: ``-S loss.accuracy=NAME``.

    A function ``accuracy(outputs, targets)`` that returns one value for each example.

    Parameters
    ----------
    name, summary : str, optional
        As `model` takes them.

    Returns
    -------
    callable
        The decorator, which returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken.
    """
    return _decorator(ACCURACIES, accuracy_entry, name, summary=summary)


def optimizer(*, name: str | None = None, summary: str = "") -> Callable[[Made], Made]:
    """Register an optimizer: ``-S optim.name=NAME``.

    A class or function called with ``params`` and ``lr`` that makes a `torch.optim.Optimizer`; its
    other parameters are options, ``-S optim.options.rho=0.9``. Its state must be tensors and
    numbers, so that a run can be resumed.

    Parameters
    ----------
    name, summary : str, optional
        As `model` takes them.

    Returns
    -------
    callable
        The decorator, which returns the class unchanged.

    Raises
    ------
    PluginError
        If the name is taken.
    """
    return _decorator(OPTIMIZERS, optimizer_entry, name, summary=summary)


def schedule(*, name: str | None = None, summary: str = "") -> Callable[[Made], Made]:
    """Register a learning-rate schedule: ``-S optim.schedule=NAME``.

    A function called with those of ``step``, ``steps``, ``warmup``, ``milestones`` and ``gamma``
    that it has parameters for; returns the factor of ``optim.lr`` in the update from ``step``. Its
    other parameters are options, ``-S optim.schedule_options.power=2``.

    Parameters
    ----------
    name, summary : str, optional
        As `model` takes them.

    Returns
    -------
    callable
        The decorator, which returns the function unchanged.

    Raises
    ------
    PluginError
        If the name is taken.
    """
    return _decorator(RATE_SCHEDULES, schedule_entry, name, summary=summary)


def name_problem(given: Any) -> str:
    """Return the name of a problem, registering an object under its own name, or ``problem``."""
    if isinstance(given, str):
        return given
    for entry in PROBLEMS.values():
        if entry.build is given:
            return entry.name
    name = (name_of(given) or "problem").replace("<lambda>", "problem")
    try:
        return PROBLEMS.add(problem_entry(name, given), "record_training").name
    except TypeError as error:
        raise ConfigError(f"problem={given!r:.80}: {error}") from error


def _decorator(
    registry: Registry[Any], adapt: Callable[..., Any], name: str | None, **fields: Any
) -> Callable[[Made], Made]:
    def register(made: Made) -> Made:
        own = (name or name_of(made)).replace("_", "-")
        origin = origin_of(made)
        try:
            entry = adapt(own, made, **fields)
        except TypeError as error:
            raise PluginError(f"{origin}: {error}", file=origin) from error
        registry.add(entry, origin)
        # `module:object` of a decorated function keeps what the decorator says of it.
        made.ckptlab_fields = fields  # type: ignore[attr-defined]
        return made

    return register
