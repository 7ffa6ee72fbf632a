"""The registry of perturbations: what ``--kind`` takes, and what computes it.

Adding a perturbation is one
new entry here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

from ckptlab.errors import ConfigError, unknown_name

STATES: tuple[str, ...] = ("0", "k", "fresh")
"""Where signs or magnitudes come from: step 0, the step perturbed, or a fresh initialisation."""

GROUPS: tuple[str, ...] = ("global", "layer", "filter")
"""What is shuffled among itself: all prunable tensors, one, or one output filter of one."""

FRANKLE = "Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 5"

Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Perturbation:
    """One way to change the surviving weights of a snapshot.

    Parameters
    ----------
    name : str
        What a kind begins with.
    form : str
        What users write.
    parse : callable
        Reads what stands behind the colon; ValueError if it is not of the form.
    write : callable
        Undoes it, always in the same spelling.
    draws : bool
        Whether it draws from the generator; if not, every seed gives the same.
    states : callable
        Says which of `STATES` are taken whatever the options name.
    compute : str
        ``"module:function"``, called as ``f(states, generator, **options)``, returns the new
        values of the survivors.
    summary : str
        One line of documentation.
    reference : str
        Where it is from.
    """

    name: str
    form: str
    parse: Callable[[str], Options]
    write: Callable[[Options], str]
    compute: str
    summary: str
    draws: bool = False
    states: Callable[[Options], tuple[str, ...]] = lambda _: ()
    reference: str = FRANKLE

    @property
    def function(self) -> Callable[..., Any]:
        """The function that computes it, imported now."""
        module, _, name = self.compute.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A perturbation with its options, as users write it.

    Parameters
    ----------
    perturbation : Perturbation
        Its entry.
    options : mapping
        As the entry's `parse` gives them.
    """

    perturbation: Perturbation
    options: Options

    def __str__(self) -> str:
        text = self.perturbation.write(self.options)
        return f"{self.perturbation.name}:{text}" if text else self.perturbation.name

    def needs(self, state: str) -> bool:
        """Say whether it takes anything of a state, such as ``0`` or ``fresh``."""
        return state in (*self.options.values(), *self.perturbation.states(self.options))


def parse_kind(text: str) -> Kind:
    """Read a kind of perturbation, such as ``shuffle:filter,keep-signs``.

    Parameters
    ----------
    text : str
        As users write it.

    Returns
    -------
    Kind
        What it says.

    Raises
    ------
    UnknownNameError
        If there is no such perturbation.
    ConfigError
        If it is not of the form.
    """
    name, _, rest = text.strip().partition(":")
    if name not in PERTURBATIONS:
        raise unknown_name("perturbation", name, PERTURBATIONS)
    entry = PERTURBATIONS[name]
    try:
        return Kind(perturbation=entry, options=entry.parse(rest))
    except ValueError as error:
        raise ConfigError(f"perturbation {text!r} is not of the form {entry.form}") from error


def _nothing(text: str) -> Options:
    if text:
        raise ValueError(text)
    return {}


def _sign_and_magnitude(text: str) -> Options:
    sign, comma, rest = text.partition(",")
    word, colon, magnitude = rest.partition(":")
    if not comma or not colon or word != "magnitude" or {sign, magnitude} - set(STATES):
        raise ValueError(text)
    return {"sign": sign, "magnitude": magnitude}


def _state(text: str) -> Options:
    if text not in STATES:
        raise ValueError(text)
    return {"sign": text}


def _shuffle(text: str) -> Options:
    group, _, signs = text.partition(",")
    if group not in GROUPS or signs not in ("", "keep-signs", "initial-signs"):
        raise ValueError(text)
    return {"group": group, "signs": signs}


def _scale(text: str) -> Options:
    scale = float(text)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(text)
    return {"scale": scale}


PERTURBATIONS: Mapping[str, Perturbation] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Perturbation(
                name="none",
                form="none",
                parse=_nothing,
                write=lambda _: "",
                compute="ckptlab.experiments.operations.perturbations:unchanged",
                summary="The weights as they are: what the others are compared with.",
            ),
            Perturbation(
                name="sign",
                form="sign:0|k|fresh,magnitude:0|k|fresh",
                parse=_sign_and_magnitude,
                write=lambda o: f"{o['sign']},magnitude:{o['magnitude']}",
                compute="ckptlab.experiments.operations.perturbations:mixed",
                summary="Signs of one state and magnitudes of another, sign(w_a)·|w_b|.",
            ),
            Perturbation(
                name="constant",
                form="constant:0|k|fresh",
                parse=_state,
                write=lambda o: str(o["sign"]),
                compute="ckptlab.experiments.operations.perturbations:constant",
                summary="Signs of one state, and the initial standard deviation of the layer.",
                reference="Zhou, Lan, Liu & Yosinski (2019), arXiv:1905.01067, section 4.1",
            ),
            Perturbation(
                name="shuffle",
                form="shuffle:global|layer|filter[,keep-signs|,initial-signs]",
                parse=_shuffle,
                write=lambda o: ",".join(filter(None, (o["group"], o["signs"]))),
                compute="ckptlab.experiments.operations.perturbations:shuffled",
                draws=True,
                summary="The weights of each group in another order, signs kept or not.",
                states=lambda o: ("0",) if o["signs"] == "initial-signs" else (),
            ),
            Perturbation(
                name="noise",
                form="noise:N with N > 0",
                parse=_scale,
                write=lambda o: str(o["scale"]),
                compute="ckptlab.experiments.operations.perturbations:noisy",
                draws=True,
                summary="Gaussian noise of N initial standard deviations √(2/fan_in) of a layer.",
            ),
            Perturbation(
                name="reinit",
                form="reinit",
                parse=_nothing,
                write=lambda _: "",
                compute="ckptlab.experiments.operations.perturbations:reinitialised",
                summary="The weights of a fresh initialisation.",
                states=lambda _: ("fresh",),
                reference="Frankle & Carbin (2019), arXiv:1803.03635, section 2",
            ),
        )
    }
)
"""Every perturbation, by name."""
