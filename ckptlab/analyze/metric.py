"""The registry of metrics: commands, methods, documentation and figures are generated from it.

Imports analyze.option and errors, and nothing heavy: `ckptlab analyze --help` reads this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ckptlab.analyze.option import OPTIONS
from ckptlab.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import xarray as xr

FRANKLE = "Frankle, Schwab & Morcos (2020), arXiv:2002.10365"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """How a figure of a metric is best drawn.

    Parameters
    ----------
    kind : str
        ``lines`` over steps, ``path`` in the plane of two components, or ``phases``.
    log_x, log_y : bool
        Whether an axis is logarithmic.
    """

    kind: str = "lines"
    log_x: bool = False
    log_y: bool = False


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
    reference: str = FRANKLE
    plot: Plot = Plot()

    @property
    def python_name(self) -> str:
        """Name of the method and of the result: with underscores."""
        return self.name.replace("-", "_")

    def default(self, option: str) -> Any:
        """Return the default of one of its options."""
        return self.defaults.get(option, OPTIONS[option].default)

    @property
    def function(self) -> Callable[..., xr.DataArray | xr.Dataset]:
        """The function that computes it, imported now."""
        module, _, name = self.compute.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


POOLED = ("steps", "by", "kinds", "mask", "scheduler")
COMPARED = ("steps", "relative_to", "by", "kinds", "mask", "scheduler")

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                name="weight-distance",
                compute="ckptlab.analyze.distance:weight_distance",
                summary="Euclidean distance of the weights from a snapshot, ‖w − r‖₂.",
                long_name="distance of the weights",
                unit="weight",
                options=COMPARED,
                defaults={"relative_to": "init"},
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="weight-change",
                compute="ckptlab.analyze.distance:weight_change",
                summary="Distance moved since the previous recorded step, ‖w − w_prev‖₂.",
                long_name="change of the weights",
                unit="weight",
                plot=Plot(log_x=True, log_y=True),
            ),
            Metric(
                name="relative-change",
                compute="ckptlab.analyze.distance:relative_change",
                summary="Distance moved as a share of the norm, ‖w − r‖₂ / ‖w‖₂.",
                long_name="relative change of the weights",
                unit="1",
                options=COMPARED,
                defaults={"relative_to": "previous"},
                plot=Plot(log_x=True, log_y=True),
            ),
            Metric(
                name="weight-magnitude",
                compute="ckptlab.analyze.distance:weight_magnitude",
                summary="Mean absolute value of the weights.",
                long_name="mean absolute weight",
                unit="weight",
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="sign-flips",
                compute="ckptlab.analyze.signs:sign_flips",
                summary="Share of weights whose sign is opposite to a snapshot's.",
                long_name="share of weights with flipped sign",
                unit="1",
                options=COMPARED,
                defaults={"relative_to": "previous"},
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="cosine",
                compute="ckptlab.analyze.distance:cosine",
                summary="Cosine of the angle between the weights and a snapshot.",
                long_name="cosine similarity",
                unit="1",
                options=COMPARED,
                defaults={"relative_to": "init"},
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="effective-std",
                compute="ckptlab.analyze.distance:effective_std",
                summary="Standard deviation of the difference to a snapshot, std(w − r).",
                long_name="effective standard deviation",
                unit="weight",
                options=COMPARED,
                defaults={"relative_to": "init"},
                reference=f"{FRANKLE}, section 5",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="gradient-magnitude",
                compute="ckptlab.analyze.gradients:gradient_magnitude",
                summary="L2 norm and mean absolute value of the mini-batch gradient.",
                long_name="gradient magnitude",
                unit="loss per weight",
                needs=("gradient_norm", "gradient_mean_abs"),
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True, log_y=True),
            ),
            Metric(
                name="gradient-noise",
                compute="ckptlab.analyze.gradients:gradient_noise",
                summary="Gradient noise scale tr(Σ) / |G|², from recorded mini-batch gradients.",
                long_name="gradient noise scale",
                unit="mini-batches",
                needs=("gradients",),
                options=(*POOLED, "window"),
                reference="McCandlish et al. (2018), arXiv:1812.06162, appendix A.1",
                plot=Plot(log_x=True, log_y=True),
            ),
            Metric(
                name="evaluation",
                compute="ckptlab.analyze.recorded:evaluation",
                summary="Loss and accuracy on the test set, as recorded.",
                long_name="evaluation on the test set",
                unit="1",
                dims=("eval_step",),
                needs=("eval_loss", "eval_accuracy"),
                options=("steps",),
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="trajectories",
                compute="ckptlab.analyze.trajectory:trajectories",
                summary="Values of a few randomly drawn weights at every step.",
                long_name="weight",
                unit="weight",
                dims=("param", "step"),
                options=("steps", "kinds", "mask", "scheduler", "count", "seed"),
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="subspace",
                compute="ckptlab.analyze.trajectory:subspace",
                summary="Principal components of the path of the weights.",
                long_name="projection on principal components",
                unit="weight",
                dims=("component", "step"),
                options=("steps", "kinds", "mask", "scheduler", "components", "points"),
                reference="Li et al. (2018), arXiv:1712.09913, section 7",
                plot=Plot(kind="path"),
            ),
            Metric(
                name="telemetry",
                compute="ckptlab.analyze.telemetry:telemetry",
                summary="Every cheap metric at once, from one read of the run.",
                long_name="telemetry",
                unit="1",
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="timeline",
                compute="ckptlab.analyze.timeline:timeline",
                summary="The phases of early training, with the evidence for each.",
                long_name="phases of early training",
                unit="1",
                dims=("phase",),
                options=("kinds", "mask", "scheduler"),
                reference=f"{FRANKLE}, figure 2",
                plot=Plot(kind="phases", log_x=True),
            ),
        )
    }
)
"""Every metric, by name."""


def metric_named(name: str) -> Metric:
    """Look a metric up.

    Parameters
    ----------
    name : str
        With hyphens or underscores.

    Returns
    -------
    Metric
        The entry of `METRICS`.

    Raises
    ------
    UnknownNameError
        If there is none; suggests the nearest.
    """
    key = name.replace("_", "-")
    if key not in METRICS:
        raise unknown_name("metric", name, METRICS)
    return METRICS[key]


def compute(recording: Any, name: str, **options: Any) -> xr.DataArray | xr.Dataset:
    """Compute a metric on a recording.

    Parameters
    ----------
    recording : StoredRun, Run or Dataset
        As `analyze.source.as_source` takes it.
    name : str
        Of the metric.
    **options : object
        Those that the metric takes; None stands for the default.

    Returns
    -------
    DataArray or Dataset
        Named with underscores; units, long name and reference in the attributes.

    Raises
    ------
    UnknownNameError
        If there is no such metric, or it takes no such option.
    ConfigError
        If an option takes a whole number and got something else.
    StoreError
        If the run lacks an array that the metric needs.
    """
    metric = metric_named(name)
    from ckptlab.analyze.results import describe
    from ckptlab.analyze.source import as_source, require_arrays

    for option in options:
        if option not in metric.options:
            raise unknown_name(f"option of {metric.name}", option, metric.options)
    source = as_source(recording)
    require_arrays(source, metric.name, metric.needs)
    given = {key: value for key, value in options.items() if value is not None}
    settings = {key: given.get(key, metric.default(key)) for key in metric.options}
    for key, value in settings.items():
        least = OPTIONS[key].least
        if least is not None and (not isinstance(value, int) or value < least):
            raise ConfigError(f"{key} {value!r} of {metric.name} must be a whole number >= {least}")
    return describe(metric.function(source, **settings), metric, source)
