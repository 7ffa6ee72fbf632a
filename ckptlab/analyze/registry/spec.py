"""What the registry of metrics holds: one entry describes one metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ckptlab.analyze.registry.options import OPTIONS
from ckptlab.analyze.registry.panels import Panel

if TYPE_CHECKING:
    import xarray as xr

FRANKLE = "Frankle, Schwab & Morcos (2020), arXiv:2002.10365"

INPUTS: Mapping[str, str] = {
    "model": "the network",
    "loss": "its loss",
    "train": "the training examples, not augmented",
    "test": "the test set",
}
"""What a built-in training offers to metrics that need more than the recording."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """How a figure of a metric is best drawn.

    Parameters
    ----------
    kind : str
        ``lines`` over steps, ``path`` in the plane of two components, or ``phases``.
    log_x, log_y : bool
        Whether an axis is logarithmic.
    panels : tuple of Panel
        Variables drawn one above the other, those of one panel together; all, each on its own, if
        none are named.
    """

    kind: str = "lines"
    log_x: bool = False
    log_y: bool = False
    panels: tuple[Panel, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One measurement over a recording.

    Parameters
    ----------
    name : str
        On the command line.
    compute : str
        ``"module:function"``, called with a Source and the options.
    summary : str
        One line, ends in a period.
    long_name : str
        For axes.
    unit : str
        Of the values; ``1`` for none. Those of a Dataset stand in its variables.
    dims : tuple of str
        Of the result for the whole network; `by` adds a dim before.
    needs : tuple of str
        Arrays of the run.
    options : tuple of str
        Keys of `OPTIONS`.
    defaults : mapping
        Where they differ from those in `OPTIONS`.
    inputs : mapping
        What only Python can pass, by keyword, and which of `INPUTS` a built-in training offers
        for it; empty for a metric that the recording is enough for.
    inputs_for : tuple of str
        Options that ask for the inputs; if there are none, the metric always needs them.
    reference : str
        Where the measurement comes from.
    plot : Plot
        Hints for the figure.
    """

    name: str
    compute: str
    summary: str
    long_name: str
    unit: str
    dims: tuple[str, ...] = ("step",)
    needs: tuple[str, ...] = ("weights",)
    options: tuple[str, ...] = ("steps", "by", "kinds", "mask", "scheduler")
    defaults: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    inputs_for: tuple[str, ...] = ()
    reference: str = FRANKLE
    plot: Plot = Plot()

    @property
    def python_name(self) -> str:
        """Name of the method and of the result: with underscores."""
        return self.name.replace("-", "_")

    def default(self, option: str) -> Any:
        """Return the default of one of its options."""
        return self.defaults.get(option, OPTIONS[option].default)

    def wants_inputs(self, options: Mapping[str, Any]) -> bool:
        """Say whether, with these options, it is measured on a model and data."""
        if not self.inputs or not self.inputs_for:
            return bool(self.inputs)
        return any(options.get(name) not in (None, False) for name in self.inputs_for)

    @property
    def function(self) -> Callable[..., xr.DataArray | xr.Dataset]:
        """The function that computes it, imported now."""
        module, _, name = self.compute.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function
