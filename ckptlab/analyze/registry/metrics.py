"""The registry of metrics: commands, methods, documentation and figures are generated from it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ckptlab.analyze.registry.entries import ENTRIES
from ckptlab.analyze.registry.spec import KINDS, Metric, Plot
from ckptlab.errors import ConfigError, PluginError, unknown_name
from ckptlab.registry import Registry, allow, is_reference, name_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["METRICS", "Metric", "Plot", "compute", "find_metric", "metric", "metric_named"]

Function = TypeVar("Function", bound=Callable[..., Any])


def _adapt(name: str, target: Any) -> Metric:
    entry = target if isinstance(target, Metric) else METRICS.entry_of(target)
    if not isinstance(entry, Metric):
        raise TypeError("it is not a metric; decorate the function with @ckptlab.metric(...)")
    return entry if is_reference(name) else replace(entry, name=name)


METRICS: Registry[Metric] = Registry("metric", ENTRIES, adapt=_adapt, group="ckptlab.metrics")
"""Every metric, by name."""


def metric(
    *,
    name: str | None = None,
    unit: str = "1",
    kind: str = "snapshot",
    dims: tuple[str, ...] = (),
    reference: str = "",
    long_name: str = "",
    log_x: bool = False,
    log_y: bool = False,
    report: bool = False,
    combine: Any = "sum",
    finalize: Callable[..., Any] | None = None,
    shaped: bool = False,
) -> Callable[[Function], Function]:
    """Register a function as a metric; it stays an ordinary function.

    Parameters
    ----------
    name : str, optional
        The name on the command line, in lower case with hyphens; the function's by default.
    unit : str
        The unit of the values, ``1`` for none.
    kind : str
        What the function is given. ``snapshot``: the selected weights of one group at one step,
        float32, shape (weights,). ``reduce``: a chunk of them; it returns a number, or a mapping
        of named numbers or arrays. ``model``: the model of one step, its loss ``loss(outputs,
        targets)``, and the data, an iterable of batches (inputs, targets).
    dims : tuple of str
        Dims of one value, where the function returns an array; () for a number.
    reference : str
        Where the measurement comes from.
    long_name : str
        For axes; the name by default.
    log_x, log_y : bool
        Whether an axis of the figure is logarithmic.
    report : bool
        Whether ``ckptlab report`` measures and draws it without being asked.
    combine : str, mapping or callable
        Of ``reduce``: how two partial results become one: ``sum``, ``min`` or ``max``, a mapping
        of these by the name of the field, or ``combine(one, other)``.
    finalize : callable, optional
        Of ``reduce``: makes the value of the partial result, a number or a mapping of fields.
    shaped : bool
        Of ``snapshot``: give the function one tensor at a time, in its own shape; pruned weights
        are zero.

    Returns
    -------
    callable
        The decorator. The docstring's first line becomes the summary. Further parameters of the
        function become options: each needs a type (``int``, ``float``, ``str``, ``bool`` or a
        ``Literal`` of strings) and a default; its help is that of the docstring.

    Raises
    ------
    PluginError
        If the name is taken or the function cannot be a metric; names the file and the fix.

    Examples
    --------
    >>> @ckptlab.metric(name="largest-weight", unit="weight")  # doctest: +SKIP
    ... def largest_weight(weights):
    ...     "Largest absolute weight."
    ...     return np.abs(weights).max()
    >>> run.analyze(largest_weight, by="layer")  # doctest: +SKIP
    """

    def register(function: Function) -> Function:
        own = (name or name_of(function)).replace("_", "-")
        entry = Metric(
            name=own,
            compute=function,
            kind=kind,
            unit=unit,
            inputs=KINDS[kind].inputs if kind in KINDS else {},
            dims=("tensor", "step", *dims) if shaped else ("step", *dims),
            reference=reference or "none given",
            long_name=long_name or own.replace("-", " "),
            plot=Plot(log_x=log_x, log_y=log_y, report=report),
            combine=combine,
            finalize=finalize,
            shaped=shaped,
        )
        _require_usable(entry, function)
        return METRICS.decorate(function, entry)

    return register


def _require_usable(entry: Metric, function: Callable[..., Any]) -> None:
    if not hasattr(function, "__code__"):
        raise PluginError(f"@ckptlab.metric takes a function, not {type(function).__name__}")
    place = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
    if not re.fullmatch(r"[a-z][a-z0-9-]*", entry.name) or entry.name == "list":
        raise PluginError(
            f"{place}: {entry.name!r} cannot be the name of a metric; write name= in lower case, "
            'with hyphens, such as "largest-weight"',
            file=place,
        )
    if entry.kind not in KINDS:
        problem = unknown_name("kind of metric", str(entry.kind), KINDS)
        raise PluginError(f"{place}: {problem}", file=place)
    if not entry.summary:
        raise PluginError(
            f"{place}: {entry.name} needs a docstring; its first line is the summary", file=place
        )
    # An option without a type or a default is refused here, not when it is used.
    _ = entry.options


def metric_named(name: str) -> Metric:
    """Look a metric up, with hyphens or underscores; UnknownNameError suggests the nearest."""
    if name not in METRICS and not is_reference(name):
        own = name.replace("-", "_")
        name = next((m.name for m in METRICS.values() if m.python_name == own), name)
    return METRICS.find(name)


def find_metric(metric: str | Metric | Callable[..., Any]) -> Metric:
    """Return the metric that a user gives: a name, ``module:function``, or the function itself."""
    if isinstance(metric, str):
        if is_reference(metric):
            allow(metric)
        return metric_named(metric)
    entry = METRICS.entry_of(metric) or metric
    if not isinstance(entry, Metric):
        raise ConfigError(
            f"{metric!r:.80} is not a metric; give its name, or decorate the function with "
            "@ckptlab.metric(...)"
        )
    return entry


def compute(
    recording: Any, name: str | Metric | Callable[..., Any], **options: Any
) -> xr.DataArray | xr.Dataset:
    """Compute a metric on a recording.

    Parameters
    ----------
    recording : StoredRun, Run or Dataset
        As `engine.source.as_source` takes it.
    name : str, Metric or callable
        The metric, or its name.
    **options : object
        Those that the metric takes; None stands for the default. A metric with inputs also takes
        `model`, `loss` and `data`.

    Returns
    -------
    DataArray or Dataset
        Named with underscores; units, long name and reference in the attributes.

    Raises
    ------
    UnknownNameError
        If there is no such metric, or it takes no such option.
    ConfigError
        If an option is of the wrong type.
    StoreError
        If the run lacks an array that the metric needs.
    """
    from ckptlab.analyze.engine.labels import describe
    from ckptlab.analyze.engine.source import as_source, require_arrays

    entry = find_metric(name)
    for option in options:
        if option not in entry.options and option not in entry.inputs:
            accepted = (*entry.options, *entry.inputs)
            raise unknown_name(f"option of {entry.name}", option, accepted)
    source = as_source(recording)
    given = {key: value for key, value in options.items() if value is not None}
    settings = {
        key: option.accept(given.get(key, option.default), entry.name)
        for key, option in entry.options.items()
    }
    inputs = {key: given[key] for key in entry.inputs if key in given}
    _require_inputs(entry, given, inputs, source.path)
    # A step evaluated now needs no evaluation in the recording.
    require_arrays(source, entry.name, ("weights",) if inputs else entry.needs)
    return describe(entry.function(source, **settings, **inputs), entry, source)


def _require_inputs(
    entry: Metric, given: Mapping[str, Any], inputs: Mapping[str, Any], path: str
) -> None:
    asked = any(given.get(name) for name in entry.inputs_for if entry.options[name].switch)
    needed = entry.inputs and (inputs or not entry.inputs_for or asked)
    missing = [key for key in ("model", "data") if needed and key not in inputs]
    if missing:
        raise ConfigError(
            f"{entry.name} needs {' and '.join(missing)}, which {path} cannot give: the built-in "
            f"trainer did not record it. In Python: run.analyze({entry.name!r}, model=model, "
            "loss=loss, data=(inputs, targets))"
        )
