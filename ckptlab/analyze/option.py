"""The options of metrics: flags of the command line and keyword arguments of the same names.

Imports nothing of ckptlab.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """An option of metrics: a flag of the command line and a keyword argument.

    Parameters
    ----------
    name : str
        With underscores, as the keyword argument is called.
    metavar : str
        What it takes, for the help.
    help : str
        One line.
    default : str or int, optional
        Unless a metric has its own.
    least : int, optional
        It takes a whole number, at least this.
    """

    name: str
    metavar: str
    help: str
    default: str | int | None = None
    least: int | None = None


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
                help="Kinds of tensors: conv, linear, norm, bias, embedding, other, or all.",
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
                name="count",
                metavar="N",
                default=10,
                least=1,
                help="How many weights to draw.",
            ),
            Option(
                name="seed",
                metavar="N",
                default=0,
                least=0,
                help="Seed of the draw (NumPy's PCG64).",
            ),
            Option(
                name="window",
                metavar="N",
                default=10,
                least=2,
                help="Consecutive recorded gradients taken as one sample of the noise.",
            ),
            Option(
                name="components",
                metavar="N",
                default=10,
                least=1,
                help="How many principal components to return.",
            ),
            Option(
                name="points",
                metavar="N",
                default=500,
                least=2,
                help="At most so many steps, evenly spaced among the selected ones, are used.",
            ),
        )
    }
)
"""Every option any metric takes, by keyword."""
