"""Options of metrics: flags of the command line and keyword arguments of the same names."""

from __future__ import annotations

import contextlib
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypedDict

from ckptlab.analyze.registry.signature import REQUIRED, Argument, Signature
from ckptlab.errors import ConfigError, PluginError, spell, unknown_name

TYPES: Mapping[str, type] = {"int": int, "float": float, "str": str, "bool": bool}
"""Types that an option of a user's metric may have, beside ``Literal[…]`` of strings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """An option of metrics.

    Parameters
    ----------
    name : str
        The keyword argument, with underscores.
    metavar : str
        What the flag takes, for help; empty for a switch.
    help : str
        One line.
    default : object
        The default of the keyword argument.
    least : int, optional
        The smallest whole number accepted.
    word : str, optional
        The flag's word where it is not the keyword's.
    type : type
        ``str``, ``int``, ``float``, or ``bool`` for a switch.
    choices : tuple of str
        The only values accepted, if any.
    """

    name: str
    metavar: str = ""
    help: str = ""
    default: Any = None
    least: int | None = None
    word: str | None = None
    type: type = str
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return "--" + (self.word or self.name.replace("_", "-"))

    @property
    def switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.type is bool

    def accept(self, value: Any, metric: str) -> Any:
        """Return a value as the metric takes it; ConfigError if it is not accepted."""
        if value is None:
            return None
        if self.choices and value not in self.choices:
            raise unknown_name(f"value of {spell(self.name)}", str(value), self.choices)
        if self.least is not None or self.type is int:
            with contextlib.suppress(TypeError):
                number = operator.index(value)
                if self.least is None or number >= self.least:
                    return number
            limit = "" if self.least is None else f" >= {self.least}"
            raise ConfigError(
                f"{spell(self.name)} {value!r} of {metric} must be a whole number{limit}",
                parameter=self.name,
            )
        if self.type is float:
            with contextlib.suppress(TypeError, ValueError):
                return float(value)
            raise ConfigError(
                f"{spell(self.name)} {value!r} of {metric} must be a number", parameter=self.name
            )
        return value


class Pooled(TypedDict, total=False):
    """Options of a metric over pooled weights, as ``**selection: Unpack[Pooled]`` takes them."""

    steps: Any
    by: str
    kinds: Any
    mask: Any
    scheduler: Any
    memory: Any


class Selected(TypedDict, total=False):
    """Options of a metric over the selected weights together."""

    steps: Any
    kinds: Any
    mask: Any
    scheduler: Any
    memory: Any


BUNDLES: Mapping[str, type] = {"Unpack[Pooled]": Pooled, "Unpack[Selected]": Selected}

OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        option.name: option
        for option in (
            Option(
                name="steps",
                metavar="A:B[:STRIDE]",
                help="Recorded steps to measure, half-open; an omitted end is the end.",
            ),
            Option(
                name="relative_to",
                metavar="init|final|previous|STEP",
                help="Snapshot to compare with.",
            ),
            Option(
                name="by",
                metavar="network|layer|tensor",
                default="network",
                help="What weights are pooled over.",
            ),
            Option(
                name="kinds",
                metavar="KIND[,KIND...]|all",
                default="conv,linear",
                help="Kinds of tensors: conv, linear, norm, bias, embedding, other, or all; or "
                "parts of the network: attention, mlp, head.",
            ),
            Option(
                name="mask",
                metavar="FILE.npy|FILE.zarr[@LEVEL]",
                help="Take only the weights that a mask keeps.",
            ),
            Option(
                name="scheduler",
                metavar="threads|processes|tcp://HOST:PORT",
                help="Where dask runs the tasks: threads unless told otherwise.",
            ),
            Option(
                name="memory",
                metavar="SIZE",
                default="2GiB",
                help="What the measurement may take; it is cut into tasks that fit.",
            ),
            Option(
                name="full",
                help="Take the gradient over the training data, not that of the mini-batch.",
            ),
            Option(name="count", metavar="N", least=1, help="How many weights to draw."),
            Option(name="seed", metavar="N", least=0, help="Seed of the draw (NumPy's PCG64)."),
            Option(
                name="window",
                metavar="N",
                least=2,
                help="Consecutive recorded gradients taken as one sample of the noise.",
            ),
            Option(
                name="components",
                metavar="N",
                least=1,
                help="How many principal components to return.",
            ),
            Option(
                name="points",
                metavar="N",
                least=2,
                help="At most so many steps, evenly spaced among the selected ones, are used.",
            ),
            Option(
                name="eigenvalues",
                metavar="K",
                least=1,
                help="How many of the largest eigenvalues; default: of classes, at most 100.",
            ),
            Option(
                name="lags",
                metavar="N",
                least=1,
                help="The largest lag of the autocorrelation, in recorded steps.",
            ),
            Option(
                name="iterations",
                metavar="N",
                least=2,
                help="Steps of the Lanczos iteration, one matrix-vector product each.",
            ),
            Option(
                name="probes",
                metavar="N",
                least=1,
                help="Random vectors that the density is averaged over.",
            ),
            Option(
                name="products",
                metavar="N",
                least=3,
                help="Matrix-vector products spent on each step.",
            ),
            Option(
                name="layers",
                metavar="NAME[,NAME...]",
                help="Modules to look at, with * for any text; default: those of --kinds.",
            ),
            Option(
                name="through",
                metavar="A,B[,C]",
                help="Two snapshots for a line, three for a plane: init, final or steps.",
            ),
            Option(name="grid", metavar="N", least=2, help="Points along each side."),
            Option(
                name="margin",
                metavar="X",
                type=float,
                help="How far the grid goes beyond the snapshots, as a share of their extent.",
            ),
            Option(name="chains", metavar="N", least=1, help="Chains from each snapshot."),
            Option(
                name="burn_in", metavar="N", least=0, help="Steps of a chain that are left out."
            ),
            Option(name="length", metavar="N", least=1, help="Steps of a chain that count."),
            Option(
                name="step_size",
                metavar="X",
                type=float,
                help="Of a chain; too large a step diverges.",
            ),
            Option(
                name="localization",
                metavar="X",
                type=float,
                help="How strongly a chain is pulled back to its snapshot.",
            ),
            Option(name="vectors", help="Return the eigenvectors too."),
            Option(
                name="labels",
                metavar="sampled|exact|empirical",
                help="Labels drawn from the model, all of them weighted, or those of the data.",
            ),
            Option(name="draws", metavar="N", least=1, help="Labels sampled for each example."),
            Option(
                name="other",
                word="with",
                metavar="RUN[@STEP]|@STEP",
                help="The other snapshot, of another run or of this one; its last unless a STEP.",
            ),
            Option(name="at", metavar="init|final|STEP", help="The snapshot of this run."),
            Option(
                name="alphas",
                metavar="N",
                least=2,
                help="Points on the line, both ends included.",
            ),
            Option(
                name="statistics",
                metavar="recompute|average",
                help="Batch norm's running statistics on the line: recomputed, or averaged.",
            ),
            Option(
                name="align",
                metavar="none|weights",
                help="Match the units of the other snapshot to this one's first, by their weights.",
            ),
            Option(
                name="samples",
                metavar="N",
                least=1,
                help="Size of the fixed subset of the training examples.",
            ),
            Option(
                name="batch_size",
                metavar="N",
                least=1,
                help="Examples that go through the model at once.",
            ),
            Option(
                name="batch_norm",
                metavar="train|eval",
                help="Batch norm's statistics: of each batch, as trained, or as recorded.",
            ),
            Option(name="correct", help="Record for every test example whether it was right."),
        )
    }
)
"""Texts of the package's own options, by keyword; defaults stand in the signatures."""


def package_options(signature: Signature, inputs: Mapping[str, Any]) -> dict[str, Option]:
    """Return the options of a function of the package: those of its keywords that `OPTIONS` has."""
    found = {name: OPTIONS[name] for name in _bundle(signature.rest)}
    for argument in signature.arguments:
        if argument.name not in inputs:
            known = OPTIONS[argument.name]
            kind = next((t for t in (bool, float) if argument.annotation == t.__name__), str)
            default = known.default if argument.default is None else argument.default
            found[argument.name] = replace(known, default=default, type=kind)
    # The order of `OPTIONS` is the order of help.
    return {name: found[name] for name in OPTIONS if name in found}


def user_options(signature: Signature, taken: Mapping[str, Option]) -> dict[str, Option]:
    """Return the options of a user's function; PluginError names the parameter, file and fix."""
    found = {}
    for argument in signature.arguments:
        if argument.name in taken:
            raise PluginError(
                f"{signature.place}: the option {argument.name!r} belongs to every metric of this "
                "kind; rename the parameter",
                file=signature.place,
            )
        found[argument.name] = _user_option(argument, signature.place)
    return found


def _user_option(argument: Argument, place: str) -> Option:
    name, fix = argument.name, f"write {argument.name}: TYPE = DEFAULT"
    if argument.default is REQUIRED:
        raise PluginError(f"{place}: the option {name!r} has no default; {fix}", file=place)
    written = re.sub(r"\s*\|\s*None$|^Optional\[(.*)\]$", r"\1", argument.annotation).strip()
    literal = re.fullmatch(r"(?:\w+\.)*Literal\[(.*)\]", written)
    choices = tuple(re.findall(r"""['"]([^'"]*)['"]""", literal[1])) if literal else ()
    kind = str if choices else TYPES.get(written)
    if kind is None:
        given = f"the type {argument.annotation}" if argument.annotation else "no type"
        raise PluginError(
            f"{place}: the option {name!r} has {given}; {fix}, TYPE one of "
            f"{', '.join(TYPES)}, Literal['a', 'b']",
            file=place,
        )
    metavar = "|".join(choices) or {bool: "", int: "N", float: "X", str: "TEXT"}[kind]
    return Option(
        name=name,
        metavar=metavar,
        help=argument.help,
        default=argument.default,
        type=kind,
        choices=choices,
    )


def _bundle(rest: str) -> tuple[str, ...]:
    return tuple(BUNDLES[rest].__annotations__) if rest in BUNDLES else ()
