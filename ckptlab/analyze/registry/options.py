"""The options of metrics: flags of the command line and keyword arguments of the same names."""

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
    word : str, optional
        Of the flag, where it is not the keyword.
    switch : bool
        It takes nothing: given, it is True.
    """

    name: str
    metavar: str
    help: str
    default: str | int | None = None
    least: int | None = None
    word: str | None = None
    switch: bool = False

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return "--" + (self.word or self.name.replace("_", "-"))


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
                name="full",
                metavar="",
                switch=True,
                help="Take the gradient over the training data, not that of the mini-batch.",
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
            Option(
                name="eigenvalues",
                metavar="K",
                least=1,
                help="How many of the largest Hessian eigenvalues; default: the number of classes.",
            ),
            Option(
                name="vectors",
                metavar="",
                switch=True,
                help="Return the eigenvectors too.",
            ),
            Option(
                name="labels",
                metavar="sampled|exact|empirical",
                default="sampled",
                help="Labels drawn from the model, all of them weighted, or those of the data.",
            ),
            Option(
                name="draws",
                metavar="N",
                default=1,
                least=1,
                help="Labels sampled for each example.",
            ),
            Option(
                name="other",
                word="with",
                metavar="RUN[@STEP]|@STEP",
                help="The other snapshot, of another run or of this one; its last unless a STEP.",
            ),
            Option(
                name="at",
                metavar="init|final|STEP",
                default="final",
                help="The snapshot of this run.",
            ),
            Option(
                name="alphas",
                metavar="N",
                default=30,
                least=2,
                help="Points on the line, both ends included.",
            ),
            Option(
                name="statistics",
                metavar="recompute|average",
                default="recompute",
                help="Batch norm's running statistics on the line: recomputed, or averaged.",
            ),
            Option(
                name="samples",
                metavar="N",
                default=512,
                least=1,
                help="Size of the fixed subset of the training examples.",
            ),
            Option(
                name="batch_size",
                metavar="N",
                default=256,
                least=1,
                help="Examples that go through the model at once.",
            ),
            Option(
                name="batch_norm",
                metavar="eval|train",
                default="eval",
                help="Batch norm's statistics: running ones as recorded, or those of each batch.",
            ),
            Option(
                name="correct",
                metavar="",
                switch=True,
                help="Say of every test example whether it was answered right.",
            ),
        )
    }
)
"""Every option any metric takes, by keyword."""
