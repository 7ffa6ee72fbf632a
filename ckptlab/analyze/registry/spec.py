"""Define what the registry of metrics holds: one entry describes one metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from ckptlab.analyze.registry.options import OPTIONS, Option, package_options, user_options
from ckptlab.analyze.registry.panels import Panel
from ckptlab.analyze.registry.signature import Signature, read_signature
from ckptlab.registry import resolve

if TYPE_CHECKING:
    import xarray as xr

FRANKLE = "Frankle, Schwab & Morcos (2020), arXiv:2002.10365"

INPUTS: Mapping[str, str] = {
    "model": "the network",
    "loss": "its loss",
    "train": "the training examples, not augmented",
    "test": "the test set",
    "accuracy": "what counts as accuracy",
    "permutations": "which units may change places",
}
"""What a built-in training offers to metrics that need more than the recording."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """How a figure of a metric is best drawn.

    Parameters
    ----------
    kind : str
        ``lines`` over steps, ``path`` in the plane of two components, ``surface`` over a plane, or
        ``phases``.
    log_x, log_y : bool
        Whether an axis is logarithmic; x only where it is of steps.
    x : str
        A coordinate to draw along x instead of a dim; it may differ from line to line.
    panels : tuple of Panel
        Variables drawn one above the other, those of one panel together; all, each on its own, if
        none are named.
    report : bool
        Whether a report measures and draws it without being asked.
    """

    kind: str = "lines"
    log_x: bool = False
    log_y: bool = False
    x: str = ""
    panels: tuple[Panel, ...] = ()
    report: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricKind:
    """What a user's function of one kind is given, and what runs it.

    Parameters
    ----------
    run : str
        ``"module:function"``, called with the metric, the recording and the options.
    options : tuple of str
        Keys of `OPTIONS` that every metric of the kind takes.
    positional : int
        How many arguments the function is given; the rest are its own options.
    inputs : mapping
        As `Metric.inputs`.
    """

    run: str
    options: tuple[str, ...]
    positional: int = 1
    inputs: Mapping[str, str] = field(default_factory=dict)


KINDS: Mapping[str, MetricKind] = {
    "snapshot": MetricKind(
        run="ckptlab.analyze.engine.own_metrics:run_snapshot",
        options=("steps", "by", "kinds", "mask", "scheduler", "memory"),
    ),
    "reduce": MetricKind(
        run="ckptlab.analyze.engine.own_metrics:run_reduce",
        options=("steps", "by", "kinds", "mask", "scheduler", "memory"),
    ),
    "model": MetricKind(
        run="ckptlab.analyze.model.own_metrics:run_model",
        options=("steps", "scheduler", "seed", "samples", "batch_size", "batch_norm"),
        positional=3,
        inputs={"model": "model", "loss": "loss", "data": "train"},
    ),
}
"""What a user's metric can be computed from."""

DEFAULTS: Mapping[str, Any] = {
    "seed": 0,
    "samples": 512,
    "batch_size": 256,
    "batch_norm": "train",
}
"""Defaults of the options of `KINDS` where `OPTIONS` has none."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measurement over a recording.

    Parameters
    ----------
    name : str
        The name on the command line.
    compute : callable or str
        A function, or ``"module:function"`` that is imported when it is used. Its first line of
        documentation is the summary, its keyword arguments are the options.
    kind : str, optional
        A key of `KINDS`; without one `compute` is called with a Source and the options.
    long_name : str
        For axes.
    unit : str
        The unit of the values, ``1`` for none. Variables of a Dataset carry their own.
    dims : tuple of str
        Of the result for the whole network; `by` adds a dim before.
    needs : tuple of str
        Arrays of the run.
    inputs : mapping
        What only Python can pass, by keyword, and which of `INPUTS` a built-in training offers
        for it; empty for a metric that the recording is enough for.
    inputs_for : tuple of str
        Options that ask for the inputs; if there are none, the metric always needs them.
    reference : str
        Where the measurement comes from.
    plot : Plot
        Hints for the figure.
    combine, finalize : object
        Of a ``reduce`` metric: how partial results are put together, and what is made of them.
    shaped : bool
        Whether a ``snapshot`` metric is given whole tensors in their own shape.
    """

    name: str
    compute: Callable[..., Any] | str
    kind: str | None = None
    long_name: str = ""
    unit: str = "1"
    dims: tuple[str, ...] = ("step",)
    needs: tuple[str, ...] = ("weights",)
    inputs: Mapping[str, str] = field(default_factory=dict)
    inputs_for: tuple[str, ...] = ()
    reference: str = FRANKLE
    plot: Plot = Plot()
    combine: Any = "sum"
    finalize: Callable[..., Any] | None = None
    shaped: bool = False

    @cached_property
    def signature(self) -> Signature:
        """Keyword arguments and documentation of the function, which is not imported for it."""
        return read_signature(self.compute, KINDS[self.kind].positional if self.kind else 1)

    @property
    def summary(self) -> str:
        """One line."""
        return self.signature.summary

    @cached_property
    def options(self) -> Mapping[str, Option]:
        """Its options, by keyword."""
        if self.kind is None:
            return package_options(self.signature, self.inputs)
        defaults = {**DEFAULTS, "by": "tensor"} if self.shaped else DEFAULTS
        shared = {
            n: replace(OPTIONS[n], default=defaults.get(n, OPTIONS[n].default))
            for n in KINDS[self.kind].options
        }
        return {**shared, **user_options(self.signature, shared)}

    @property
    def python_name(self) -> str:
        """Name of the method and of the result: with underscores."""
        return self.name.replace("-", "_").replace(".", "_")

    def default(self, option: str) -> Any:
        """Return the default of one of its options."""
        return self.options[option].default

    def wants_inputs(self, options: Mapping[str, Any]) -> bool:
        """Return whether, with these options, it is measured on a model and data."""
        if not self.inputs or not self.inputs_for:
            return bool(self.inputs)
        # Step 0 is asked for, though 0 equals False.
        return any(not (options.get(x) is None or options[x] is False) for x in self.inputs_for)

    @property
    def function(self) -> Callable[..., xr.DataArray | xr.Dataset]:
        """What computes it from a Source and the options, imported now."""
        if self.kind is not None:
            return partial(resolve(KINDS[self.kind].run), self)
        function: Callable[..., Any] = (
            resolve(self.compute) if isinstance(self.compute, str) else self.compute
        )
        return function
