"""Register perturbations: what ``--kind`` takes, and which function computes each."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ckptlab.errors import ConfigError
from ckptlab.experiments.operations.arguments import (
    code_digest,
    first_line,
    options_of,
    parse_options,
    reference_in,
    write_options,
)
from ckptlab.registry import Registry, name_of, resolve

STATES: tuple[str, ...] = ("0", "k", "fresh")
"""Where signs or magnitudes come from: step 0, the step perturbed, or a fresh initialisation."""

GROUPS: tuple[str, ...] = ("global", "layer", "filter")
"""What is shuffled: all prunable tensors together, each one, or each output filter of one."""

ARGUMENTS: tuple[str, ...] = (
    "weights",
    "initial",
    "fresh",
    "sigma",
    "survivors",
    "layout",
    "rng",
    "states",
)
"""What a perturbation may take, by name; see `perturbation`."""

FRANKLE = "Frankle, Schwab & Morcos (2020), arXiv:2002.10365, section 5"

Options = Mapping[str, Any]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True, slots=True)
class Perturbation:
    """One way to change the surviving weights of a snapshot.

    `parse` reads what follows ``name:`` (ValueError if it is not of the `form`) and `write` undoes
    it in one spelling. `compute` takes the `ARGUMENTS` it names and its options, and returns the
    new values of the survivors. `states` names the `STATES` it needs besides w_k; `draws` says
    whether it draws from `rng`, `scaled` whether it takes `sigma`; `code` is the digest of a user's
    source.
    """

    name: str
    form: str
    parse: Callable[[str], Options]
    write: Callable[[Options], str]
    compute: str | Callable[..., Any]
    summary: str
    draws: bool = False
    scaled: bool = False
    states: Callable[[Options], tuple[str, ...]] = lambda _: ()
    reference: str = FRANKLE
    code: str = ""

    @property
    def function(self) -> Callable[..., Any]:
        """The function that computes it, imported now."""
        found = resolve(self.compute) if isinstance(self.compute, str) else self.compute
        function: Callable[..., Any] = found
        return function


@dataclass(frozen=True, kw_only=True, slots=True)
class PerturbationKind:
    """A perturbation with its options, as users write it."""

    perturbation: Perturbation
    options: Options

    def __str__(self) -> str:
        text = self.perturbation.write(self.options)
        return f"{self.perturbation.name}:{text}" if text else self.perturbation.name

    def needs(self, state: str) -> bool:
        """Return whether it needs the state ``0`` or ``fresh``."""
        return state in self.perturbation.states(self.options)


def parse_kind(text: str) -> PerturbationKind:
    """Read a kind of perturbation, such as ``shuffle:filter,keep-signs`` or ``module:object:a=1``.

    UnknownNameError if no perturbation has that name; ConfigError if it is not of the form.
    """
    name, _, rest = text.strip().partition(":")
    if name not in PERTURBATIONS:
        reference = reference_in(text)
        if reference is not None:
            name, rest = reference, text.strip().removeprefix(reference).removeprefix(":")
    entry = PERTURBATIONS.find(name)
    try:
        return PerturbationKind(perturbation=entry, options=entry.parse(rest))
    except ValueError as error:
        # A module may be called as the perturbation that importing it has registered.
        reference = reference_in(text)
        own = not isinstance(entry.compute, str)
        if own and reference is not None and reference != name:
            entry = PERTURBATIONS.find(reference)
            options = text.strip().removeprefix(reference).removeprefix(":")
            return PerturbationKind(perturbation=entry, options=entry.parse(options))
        raise ConfigError(f"perturbation {text!r} is not of the form {entry.form}") from error


def perturbation(*, name: str | None = None, reference: str = "") -> Callable[[Function], Function]:
    """Register a function as a perturbation that ``--kind`` and studies accept.

    Parameters
    ----------
    name : str, optional
        What users write; by default the function's name with dashes.
    reference : str
        Where it is from.

    Returns
    -------
    decorator
        Returns the function unchanged. It takes what it names of `weights` (float32, shape
        (survivors,): weights of convolutions and linear layers that the mask keeps), `initial` and
        `fresh` (the same of step 0 and of another initialisation), `sigma` (initial standard
        deviation of each survivor's layer), `survivors` (their positions in the vector of all
        parameters), `layout` (the tensor table) and `rng` (numpy Generator), and returns the new
        values. Parameters with other names are options, ``NAME:key=value,…``, and need defaults.

    Raises
    ------
    PluginError
        If the name is taken.
    TypeError
        If a parameter is neither an argument nor has a default.
    """

    def register(function: Function) -> Function:
        entry = _entry(name or name_of(function), function, reference)
        return PERTURBATIONS.decorate(function, entry)

    return register


def _entry(name: str, function: Callable[..., Any], reference: str = "") -> Perturbation:
    """Read an entry off a function's signature and docstring."""
    if not callable(function):
        raise TypeError("a perturbation is a function")
    options = options_of(function, ARGUMENTS)
    taken = inspect.signature(function).parameters
    needed = tuple(s for s, argument in (("0", "initial"), ("fresh", "fresh")) if argument in taken)
    keys = ",".join(f"{key}={parameter.default}" for key, parameter in options.items())
    return Perturbation(
        name=name,
        form=f"{name}[:{keys}]" if keys else name,
        parse=lambda text: parse_options(text, options),
        write=write_options,
        compute=function,
        summary=first_line(function),
        draws="rng" in taken,
        scaled="sigma" in taken,
        states=lambda _: needed,
        reference=reference,
        code=code_digest(function),
    )


def _adapt(name: str, target: Any) -> Perturbation:
    entry = PERTURBATIONS.entry_of(target)
    return _entry(name, target) if entry is None else replace(entry, name=name)


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


_HERE = "ckptlab.experiments.operations.perturbations"

PERTURBATIONS: Registry[Perturbation] = Registry(
    "perturbation",
    (
        Perturbation(
            name="none",
            form="none",
            parse=_nothing,
            write=lambda _: "",
            compute=f"{_HERE}:unchanged",
            summary="The weights as they are: the baseline of the others.",
        ),
        Perturbation(
            name="sign",
            form="sign:0|k|fresh,magnitude:0|k|fresh",
            parse=_sign_and_magnitude,
            write=lambda o: f"{o['sign']},magnitude:{o['magnitude']}",
            compute=f"{_HERE}:mixed",
            states=lambda o: (o["sign"], o["magnitude"]),
            summary="Signs of one state and magnitudes of another, sign(w_a)·|w_b|.",
        ),
        Perturbation(
            name="constant",
            form="constant:0|k|fresh",
            parse=_state,
            write=lambda o: str(o["sign"]),
            compute=f"{_HERE}:constant",
            scaled=True,
            states=lambda o: (o["sign"],),
            summary="Signs of one state, and the initial standard deviation of the layer.",
            reference="Zhou, Lan, Liu & Yosinski (2019), arXiv:1905.01067, section 4.1",
        ),
        Perturbation(
            name="shuffle",
            form="shuffle:global|layer|filter[,keep-signs|,initial-signs]",
            parse=_shuffle,
            write=lambda o: ",".join(filter(None, (o["group"], o["signs"]))),
            compute=f"{_HERE}:shuffled",
            draws=True,
            states=lambda o: ("0",) if o["signs"] == "initial-signs" else (),
            summary="The weights of each group in another order, signs kept or not.",
        ),
        Perturbation(
            name="noise",
            form="noise:N with N > 0",
            parse=_scale,
            write=lambda o: str(o["scale"]),
            compute=f"{_HERE}:noisy",
            draws=True,
            scaled=True,
            summary="Gaussian noise of N initial standard deviations of the layer.",
        ),
        Perturbation(
            name="reinit",
            form="reinit",
            parse=_nothing,
            write=lambda _: "",
            compute=f"{_HERE}:reinitialised",
            states=lambda _: ("fresh",),
            summary="The weights of a fresh initialisation.",
            reference="Frankle & Carbin (2019), arXiv:1803.03635, section 2",
        ),
    ),
    adapt=_adapt,
    group="ckptlab.perturbations",
)
"""Every perturbation, by name."""
