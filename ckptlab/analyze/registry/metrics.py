"""The registry of metrics: commands, methods, documentation and figures are generated from it."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ckptlab.analyze.registry.options import OPTIONS
from ckptlab.analyze.registry.panels import TELEMETRY, Panel
from ckptlab.analyze.registry.spec import FRANKLE, Metric, Plot
from ckptlab.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["METRICS", "Metric", "Plot", "compute", "metric_named"]

POOLED = ("steps", "by", "kinds", "mask", "scheduler")
ON_SUBSET = ("samples", "seed", "batch_size")
ON_TRAINING = MappingProxyType({"model": "model", "loss": "loss", "data": "train"})
ON_TEST = MappingProxyType({"model": "model", "loss": "loss", "data": "test"})
GUR_ARI = "Gur-Ari, Roberts & Dyer (2018), arXiv:1812.04754"
COMPARED = ("steps", "relative_to", "by", "kinds", "mask", "scheduler")

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric(
                name="weight-distance",
                compute="ckptlab.analyze.weights.distance:weight_distance",
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
                compute="ckptlab.analyze.weights.distance:weight_change",
                summary="Distance moved since the previous recorded step, ‖w − w_prev‖₂.",
                long_name="change of the weights",
                unit="weight",
                plot=Plot(log_x=True, log_y=True),
            ),
            Metric(
                name="relative-change",
                compute="ckptlab.analyze.weights.distance:relative_change",
                summary="Distance moved as a share of the norm, ‖w − r‖₂ / ‖w‖₂.",
                long_name="relative change of the weights",
                unit="1",
                options=COMPARED,
                defaults={"relative_to": "previous"},
                plot=Plot(log_x=True, log_y=True),
            ),
            Metric(
                name="weight-magnitude",
                compute="ckptlab.analyze.weights.distance:weight_magnitude",
                summary="Mean absolute value of the weights.",
                long_name="mean absolute weight",
                unit="weight",
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="sign-flips",
                compute="ckptlab.analyze.weights.distance:sign_flips",
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
                compute="ckptlab.analyze.weights.distance:cosine",
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
                compute="ckptlab.analyze.weights.distance:effective_std",
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
                compute="ckptlab.analyze.weights.gradients:gradient_magnitude",
                summary="L2 norm and mean absolute value of the mini-batch or the full gradient.",
                long_name="gradient magnitude",
                unit="loss per weight",
                needs=("gradient_norm", "gradient_mean_abs"),
                options=(*POOLED, "full", *ON_SUBSET, "batch_norm"),
                # As the mini-batch gradients of the training, over all of the data.
                defaults={"samples": None, "batch_norm": "train"},
                inputs=ON_TRAINING,
                inputs_for=("full",),
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True, log_y=True),
            ),
            Metric(
                name="gradient-noise",
                compute="ckptlab.analyze.weights.gradients:gradient_noise",
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
                compute="ckptlab.analyze.weights.recorded:evaluation",
                summary="Loss and accuracy on the test set, as recorded or of any step afterwards.",
                long_name="evaluation on the test set",
                unit="1",
                dims=("eval_step",),
                needs=("eval_loss", "eval_accuracy"),
                options=("steps", "correct", "batch_size", "scheduler"),
                inputs=ON_TEST,
                inputs_for=("steps", "correct"),
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True),
            ),
            Metric(
                name="trajectories",
                compute="ckptlab.analyze.weights.trajectory:trajectories",
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
                compute="ckptlab.analyze.weights.trajectory:subspace",
                summary="Principal components of the path of the weights.",
                long_name="projection on principal components",
                unit="weight",
                dims=("component", "step"),
                options=("steps", "kinds", "mask", "scheduler", "components", "points"),
                reference="Li et al. (2018), arXiv:1712.09913, section 7",
                plot=Plot(kind="path"),
            ),
            Metric(
                name="hessian-spectrum",
                compute="ckptlab.analyze.model.curvature:hessian_spectrum",
                summary="Largest eigenvalues of the Hessian of the training loss.",
                long_name="eigenvalue",
                unit="loss per weight^2",
                dims=("step", "eigenvalue"),
                options=("steps", "eigenvalues", *ON_SUBSET, "batch_norm", "vectors", "scheduler"),
                defaults={"steps": "log:2"},
                inputs=ON_TRAINING,
                reference=f"{GUR_ARI}; sharpness: Cohen et al. (2021), arXiv:2103.00065",
                plot=Plot(
                    log_x=True,
                    panels=(
                        Panel(
                            variables=("eigenvalues",),
                            title="Largest Hessian eigenvalues",
                            about="Of the training loss on a fixed subset, algebraically largest "
                            "first.",
                        ),
                        Panel(
                            variables=("sharpness", "two_over_lr"),
                            title="Sharpness",
                            about="The largest eigenvalue, and 2 / learning rate, beyond which "
                            "plain gradient descent is unstable.",
                        ),
                    ),
                ),
            ),
            Metric(
                name="gradient-subspace",
                compute="ckptlab.analyze.model.curvature:gradient_subspace",
                summary="Share of the gradient in the top Hessian subspace, and its drift.",
                long_name="share of the gradient",
                unit="1",
                options=("steps", "eigenvalues", *ON_SUBSET, "batch_norm", "scheduler"),
                defaults={"steps": "log:2"},
                inputs=ON_TRAINING,
                reference=GUR_ARI,
                plot=Plot(
                    log_x=True,
                    panels=(
                        Panel(
                            variables=("gradient_share",),
                            title="Gradient within the top Hessian subspace",
                            about="Share of the squared gradient that lies in the span of the "
                            "top eigenvectors.",
                            percent=True,
                        ),
                        Panel(
                            variables=("overlap_previous", "overlap_last"),
                            title="How the top subspace turns",
                            about="Overlap of the span of the top eigenvectors with the previous "
                            "and with the last one; 1 is the same subspace.",
                        ),
                    ),
                ),
            ),
            Metric(
                name="fisher-trace",
                compute="ckptlab.analyze.model.fisher:fisher_trace",
                summary="Trace of the Fisher information, E‖∇ log p(y|x)‖².",
                long_name="Fisher trace",
                unit="1 per weight^2",
                options=("steps", "by", "kinds", "labels", "draws", *ON_SUBSET, "scheduler"),
                defaults={"steps": "log:3", "kinds": "all"},
                inputs=ON_TRAINING,
                reference="Achille, Rovere & Soatto (2019), arXiv:1711.08856, section 3",
                plot=Plot(log_x=True, log_y=True),
            ),
            Metric(
                name="connectivity",
                compute="ckptlab.analyze.model.connectivity:connectivity",
                summary="Loss and error on the line between two snapshots, and the instability.",
                long_name="error",
                unit="1",
                dims=("alpha",),
                options=("other", "at", "alphas", "statistics", *ON_SUBSET, "scheduler"),
                defaults={"samples": 1024},
                inputs=MappingProxyType({**ON_TEST, "training_data": "train"}),
                reference="Frankle, Dziugaite, Roy & Carbin (2020), arXiv:1912.05671",
            ),
            Metric(
                name="telemetry",
                compute="ckptlab.analyze.weights.telemetry:telemetry",
                summary="Every cheap metric at once, from one read of the run.",
                long_name="telemetry",
                unit="1",
                reference=f"{FRANKLE}, section 4",
                plot=Plot(log_x=True, panels=TELEMETRY),
            ),
            Metric(
                name="timeline",
                compute="ckptlab.analyze.weights.timeline:timeline",
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
        If an option takes a whole number and got something else.
    StoreError
        If the run lacks an array that the metric needs.
    """
    metric = metric_named(name)
    from ckptlab.analyze.engine.labels import describe
    from ckptlab.analyze.engine.source import as_source, require_arrays

    for option in options:
        if option not in metric.options and option not in metric.inputs:
            accepted = (*metric.options, *metric.inputs)
            raise unknown_name(f"option of {metric.name}", option, accepted)
    source = as_source(recording)
    given = {key: value for key, value in options.items() if value is not None}
    settings = {key: given.get(key, metric.default(key)) for key in metric.options}
    for key, value in settings.items():
        least = OPTIONS[key].least
        if least is not None and value is not None:
            settings[key] = _whole(value, least, f"{key} {value!r} of {metric.name}")
    inputs = {key: given[key] for key in metric.inputs if key in given}
    _require_inputs(metric, given, inputs, source.path)
    # Evaluated afterwards, nothing needs to have been evaluated before.
    require_arrays(source, metric.name, ("weights",) if inputs else metric.needs)
    return describe(metric.function(source, **settings, **inputs), metric, source)


def _whole(value: Any, least: int, what: str) -> int:
    """Take a whole number of any kind, NumPy's too."""
    with contextlib.suppress(TypeError):
        number = operator.index(value)
        if number >= least:
            return number
    raise ConfigError(f"{what} must be a whole number >= {least}")


def _require_inputs(
    metric: Metric, given: Mapping[str, Any], inputs: Mapping[str, Any], path: str
) -> None:
    asked = any(given.get(name) for name in metric.inputs_for if OPTIONS[name].switch)
    needed = metric.inputs and (inputs or not metric.inputs_for or asked)
    missing = [key for key in ("model", "data") if needed and key not in inputs]
    if missing:
        raise ConfigError(
            f"{metric.name} needs {' and '.join(missing)}, which {path} cannot give: it was "
            f"recorded from a loop of one's own. In Python: run.analyze({metric.name!r}, "
            "model=model, loss=loss, data=(inputs, targets))"
        )
