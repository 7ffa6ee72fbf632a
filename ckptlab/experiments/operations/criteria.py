"""Register pruning criteria: what ``--pruning`` takes, and how each finds its masks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from ckptlab.experiments.operations.arguments import code_digest, first_line, options_of
from ckptlab.registry import Registry, name_of, resolve

ARGUMENTS: tuple[str, ...] = (
    "weights",
    "start",
    "rng",
    "gradient",
    "hessian_gradient",
    "flow",
)
"""What a criterion may take, by name; see `pruning`."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class PruningCriterion:
    """One way to find sub-networks.

    `method` scores weights, and the lowest scores are removed: ``magnitude``, ``random`` or a
    user's `score`. A level prunes from `masks`: what its ``own`` previous level ended with, what
    the ``dense`` network ended with (all at once), or it takes the mask that ``imp`` has at that
    level: as it is, or with `shuffled` in another order within each tensor. The weights that decide
    are those at the ``end``, or those at the ``rewind`` step; they are scored anew in each of
    `rounds`. Then ``weights`` are rewound, or only the learning ``rate``. `fresh` initialises the
    survivors anew, the same way at every level (``once``) or not (``each``). `draws` says whether
    it needs a seed; `code` is the digest of a user's source.
    """

    name: str
    summary: str
    method: str = "magnitude"
    masks: Literal["own", "dense", "imp"] = "own"
    shuffled: bool = False
    fresh: Literal["", "once", "each"] = ""
    score: str | Callable[..., Any] = ""
    at: Literal["end", "rewind"] = "end"
    rounds: int = 1
    rewinds: Literal["weights", "rate"] = "weights"
    draws: bool = False
    reference: str = ""
    code: str = ""

    @property
    def function(self) -> Callable[..., Any]:
        """The function that scores weights, imported now."""
        found = resolve(self.score) if isinstance(self.score, str) else self.score
        function: Callable[..., Any] = found
        return function


def pruning(
    *,
    name: str | None = None,
    iterative: bool = True,
    at: Literal["end", "rewind"] = "end",
    rounds: int = 1,
    reference: str = "",
) -> Callable[[Function], Function]:
    """Register a function as a pruning criterion that ``--pruning`` and studies accept.

    Parameters
    ----------
    name : str, optional
        What users write; by default the function's name with dashes.
    iterative : bool
        Prune what the level before ended with; if not, prune the dense network's last weights to
        each level's density at once.
    at : str
        Score the weights at the ``end`` of a training, or at the step that is rewound to.
    rounds : int
        Prune to each level in as many rounds, scored anew.
    reference : str
        Where it is from.

    Returns
    -------
    decorator
        Returns the function unchanged. It takes what it names of `weights` (shape (weights,): those
        that compete), `start` (the same of the run's first recorded step), `gradient` (of the mean
        loss over some training examples), `hessian_gradient` (the Hessian times it), `flow`
        (∂R/∂|w| of synaptic flow) and `rng` (numpy Generator), and returns a score for each; the
        lowest are removed, and of equal ones those at lower positions.

    Raises
    ------
    PluginError
        If the name is taken.
    TypeError
        If a parameter is not one of these.
    """

    def register(function: Function) -> Function:
        entry = _entry(name or name_of(function), function)
        masks: Literal["own", "dense"] = "own" if iterative else "dense"
        entry = replace(entry, masks=masks, at=at, rounds=rounds, reference=reference)
        return PRUNING.decorate(function, entry)

    return register


def _entry(name: str, function: Callable[..., Any]) -> PruningCriterion:
    if not callable(function):
        raise TypeError("a pruning criterion is a function")
    if options_of(function, ARGUMENTS):
        raise TypeError(f"a pruning criterion has no options; arguments: {', '.join(ARGUMENTS)}")
    return PruningCriterion(
        name=name,
        summary=first_line(function),
        method=name,
        score=function,
        draws="rng" in inspect.signature(function).parameters,
        code=code_digest(function),
    )


def _adapt(name: str, target: Any) -> PruningCriterion:
    entry = PRUNING.entry_of(target)
    return _entry(name, target) if entry is None else replace(entry, name=name, method=name)


_SCORES = "ckptlab.experiments.operations.pruning"
_MAGNITUDE, _RANDOM = f"{_SCORES}:magnitude", f"{_SCORES}:random_scores"
LOTTERY = "Frankle & Carbin (2019), arXiv:1803.03635"

PRUNING: Registry[PruningCriterion] = Registry(
    "pruning",
    (
        PruningCriterion(
            name="imp",
            summary="iterative magnitude pruning: each level prunes what the level before ended "
            "with",
            score=_MAGNITUDE,
            reference=LOTTERY,
        ),
        PruningCriterion(
            name="one-shot",
            summary="as many weights at once, by the magnitudes the dense network ended with",
            masks="dense",
            score=_MAGNITUDE,
        ),
        PruningCriterion(
            name="random",
            summary="as many weights, drawn at random for each level: masks are not nested, and "
            "layers not as dense as those of imp",
            method="random",
            draws=True,
            masks="dense",
            score=_RANDOM,
        ),
        PruningCriterion(
            name="random-nested",
            summary="as many weights, drawn at random from those that the level before kept",
            method="random",
            draws=True,
            score=_RANDOM,
        ),
        PruningCriterion(
            name="random-layers",
            summary="the masks of imp, shuffled within each tensor: every layer as dense as there",
            masks="imp",
            shuffled=True,
            draws=True,
        ),
        PruningCriterion(
            name="reinit",
            summary="the masks of imp, with survivors freshly initialised: one draw for all levels",
            masks="imp",
            fresh="once",
            reference=LOTTERY,
        ),
        PruningCriterion(
            name="reinit-levels",
            summary="the same, with another initialisation at each level",
            masks="imp",
            fresh="each",
        ),
        PruningCriterion(
            name="learning-rate-rewinding",
            summary="imp that rewinds the learning rate alone: survivors keep their last weights",
            rewinds="rate",
            score=_MAGNITUDE,
            reference="Renda, Frankle & Carbin (2020), arXiv:2003.02389",
        ),
        PruningCriterion(
            name="sign-preserving",
            summary="iterative: first go weights whose sign is no longer that of the first step, "
            "then those of lowest magnitude",
            method="sign-preserving",
            score=f"{_SCORES}:sign_preserving",
            reference="Zhou, Lan, Liu & Yosinski (2019), arXiv:1905.01067, large final, same sign",
        ),
        PruningCriterion(
            name="snip",
            summary="at once, at the rewind step: lowest |w · g|, g the gradient of the loss",
            method="snip",
            masks="dense",
            at="rewind",
            score=f"{_SCORES}:snip",
            reference="Lee, Ajanthan & Torr (2019), arXiv:1810.02340",
        ),
        PruningCriterion(
            name="grasp",
            summary="at once, at the rewind step: lowest w · Hg, H the Hessian of the loss",
            method="grasp",
            masks="dense",
            at="rewind",
            score=f"{_SCORES}:grasp",
            reference="Wang, Zhang & Grosse (2020), arXiv:2002.07376",
        ),
        PruningCriterion(
            name="synflow",
            summary="in 100 rounds, at the rewind step, without data: lowest synaptic flow",
            method="synflow",
            masks="dense",
            at="rewind",
            rounds=100,
            score=f"{_SCORES}:synflow",
            reference="Tanaka, Kunin, Yamins & Ganguli (2020), arXiv:2006.05467",
        ),
    ),
    adapt=_adapt,
    group="ckptlab.pruning",
)
"""Ways to a sub-network, by name; all but the first are controls."""

METHODS: dict[str, str] = {"magnitude": _MAGNITUDE, "random": _RANDOM}
"""Built-in scores, by method."""


def score_function(method: str) -> Callable[..., Any]:
    """Return the function that scores weights by a method."""
    if method in METHODS:
        function: Callable[..., Any] = resolve(METHODS[method])
        return function
    return PRUNING.find(method, "pruning").function
