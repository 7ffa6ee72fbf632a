"""Name the problems, losses and accuracies that users add, and the settings that choose them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator

from ckptlab.registry import Registry
from ckptlab.train.factories import Factory
from ckptlab.train.sections import Choice, name_of, options_of, setting, unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemEntry:
    """A problem of a user: `build` returns a `Problem`, called with ``problem.options``."""

    name: str
    build: Callable[..., Any]
    summary: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LossEntry:
    """One loss: where it is, or a user's, and the accuracy that goes with it."""

    name: str
    loss: Factory
    summary: str
    accuracy: str = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class AccuracyEntry:
    """One thing that counts as accuracy: ``f(outputs, targets)``, one value for each example."""

    name: str
    score: Factory
    summary: str


def _first_line(target: Any) -> str:
    return (inspect.getdoc(target) or "").partition("\n")[0]


def problem_entry(name: str, build: Any, summary: str = "") -> ProblemEntry:
    """Make an entry of a user's function that returns a `Problem`, or of a `Problem`."""
    from ckptlab.problems.problem import Problem

    if isinstance(build, Problem):
        made, text = build, summary
        return ProblemEntry(name=name, build=lambda: made, summary=text)
    if not callable(build):
        raise TypeError("a problem is a ckptlab.Problem or a function that returns one")
    return ProblemEntry(name=name, build=build, summary=summary or _first_line(build))


def loss_entry(name: str, loss: Any, summary: str = "", accuracy: str = "none") -> LossEntry:
    """Make an entry of a user's ``loss(outputs, targets)``."""
    if not callable(loss):
        raise TypeError("a loss is called as loss(outputs, targets) and returns a scalar tensor")
    return LossEntry(name=name, loss=loss, summary=summary or _first_line(loss), accuracy=accuracy)


def accuracy_entry(name: str, score: Any, summary: str = "") -> AccuracyEntry:
    """Make an entry of a user's ``accuracy(outputs, targets)``."""
    if not callable(score):
        raise TypeError("an accuracy is called as accuracy(outputs, targets)")
    return AccuracyEntry(name=name, score=score, summary=summary or _first_line(score))


PROBLEMS: Registry[ProblemEntry] = Registry(
    "problem", adapt=problem_entry, group="ckptlab.problems"
)

_SCORES = "ckptlab.problems.scores"

LOSSES: Registry[LossEntry] = Registry(
    "loss",
    (
        LossEntry(
            name="cross-entropy",
            loss="torch.nn:CrossEntropyLoss",
            summary="of classes; logits (batch, classes)",
            accuracy="right-answers",
        ),
        LossEntry(
            name="token-cross-entropy",
            loss=f"{_SCORES}:TokenCrossEntropy",
            summary="of the tokens of sequences; logits (batch, time, vocabulary)",
            accuracy="right-answers",
        ),
        LossEntry(
            name="binary-cross-entropy",
            loss="torch.nn:BCEWithLogitsLoss",
            summary="of labels that hold or not; logits (batch, labels)",
            accuracy="right-labels",
        ),
        LossEntry(name="mse", loss="torch.nn:MSELoss", summary="mean squared error, regression"),
    ),
    adapt=loss_entry,
    group="ckptlab.losses",
)

ACCURACIES: Registry[AccuracyEntry] = Registry(
    "accuracy",
    (
        AccuracyEntry(
            name="right-answers",
            score=f"{_SCORES}:right_answers",
            summary="share of answers whose logit is the largest",
        ),
        AccuracyEntry(
            name="right-labels",
            score=f"{_SCORES}:right_labels",
            summary="share of labels on whose side of 0 their logit is",
        ),
        AccuracyEntry(name="none", score=f"{_SCORES}:no_accuracy", summary="NaN"),
    ),
    adapt=accuracy_entry,
    group="ckptlab.accuracies",
)


def _known(name: str | None) -> str | None:
    if name is not None and not PROBLEMS.knows(name):
        raise unknown(list(PROBLEMS))
    return name


class ProblemConfig(Choice):
    """A problem of your own, in place of model, data, task and loss."""

    name: Annotated[str | None, AfterValidator(_known)] = setting(
        None, "which problem; none: what model, data, task and loss say", "a name or module:object"
    )
    options: dict[str, Any] = options_of("problem")


class LossConfig(Choice):
    """What is minimised, and what counts as accuracy."""

    name: Annotated[str, name_of(LOSSES)] = setting(
        "cross-entropy", "which loss", "a loss name or module:object"
    )
    accuracy: Annotated[str, name_of(ACCURACIES)] | None = setting(
        None, "what counts as accuracy; default: that of the loss", "a name or module:object"
    )
