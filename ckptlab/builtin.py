"""Rebuild what a run learns, its model, loss and data, for the metrics that need them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckptlab.analyze.registry.spec import Metric
from ckptlab.errors import ConfigError
from ckptlab.extras import require

if TYPE_CHECKING:
    import torch

    from ckptlab.problems.problem import Problem
    from ckptlab.train.config import Config


OFFERED: tuple[str, ...] = ("loss", "train", "test", "accuracy", "permutations")
"""What a problem offers to metrics besides its model."""


@contextlib.contextmanager
def inputs_for(
    metric: Metric,
    attributes: Mapping[str, Any],
    options: Mapping[str, Any],
    run: str = ".",
    problem: Problem | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the inputs of a metric that the caller does not give, from a problem or rebuilt.

    `run` is the path of the run: images are read from a folder beside it, or one the user names.
    Nothing if the metric needs none, or there is no problem and the run was not made by ckptlab's
    trainer. While they are in use, threads and precision are those of the training.
    """
    missing = {k: offer for k, offer in metric.inputs.items() if options.get(k) is None}
    known = problem is not None or is_replayable(attributes)
    if not missing or not metric.wants_inputs(options) or not known:
        yield {}
        return
    require("torch", metric.name)
    from ckptlab.train.models.build import build_model

    with contextlib.ExitStack() as stack:
        device: Any = "cpu"
        if problem is None:
            config, problem = rebuild(attributes, run)
            # Evaluations must equal those of the training; curvature is as exact as it can be.
            as_trained = metric.inputs.get("data") == "test"
            device = stack.enter_context(_computing(config, as_trained=as_trained))
        elif not hasattr(problem, "mean_loss"):
            raise ConfigError(
                f"problem is of type {type(problem).__name__}; give a ckptlab.Problem"
            )
        offers = {
            "model": build_model(problem.model, 0).to(device),
            **{name: getattr(problem, name) for name in OFFERED},
        }
        yield {key: offers[offer] for key, offer in missing.items()}


@contextlib.contextmanager
def _computing(config: Config, *, as_trained: bool) -> Iterator[torch.device]:
    """Compute on any device, with the threads of a training, and its precision or the highest."""
    import torch

    from ckptlab.train.numerics import numerics, resolve_device

    device = resolve_device(config.train)
    low = as_trained and config.train.precision == "bf16"
    settings = config.train if as_trained else config.train.model_copy(update={"precision": "fp32"})
    with (
        numerics(settings, device),
        torch.autocast(device.type, torch.bfloat16 if low else None, enabled=low),
    ):
        if settings.deterministic:
            # Second derivatives may need what training did not; better inexact than refused.
            torch.set_deterministic_debug_mode("warn")
        yield device


def is_replayable(attributes: Mapping[str, Any]) -> bool:
    """Return whether a run holds the settings that made it."""
    config = attributes.get("config")
    named = isinstance(config, Mapping) and any(
        isinstance(config.get(section), Mapping) for section in ("model", "problem")
    )
    return named and "classes" in attributes


def rebuild(attributes: Mapping[str, Any], run: str = ".") -> tuple[Config, Problem]:
    """Rebuild settings and problem of a run, on any device.

    Nothing is downloaded to a folder that the run names, code is imported only if the user allowed
    it, and a folder of images outside that of the run is read only if the user names it (see
    `ckptlab.train.data_root`): DataError otherwise.
    """
    from ckptlab.train.numerics import resolve_device
    from ckptlab.train.problem_build import build_problem
    from ckptlab.train.resume import run_config

    config = run_config(attributes, run)
    anywhere = config.train.model_copy(update={"device": "auto"})
    config = config.model_copy(update={"train": anywhere})
    cached = getattr(config.data, "root", None) is None
    problem = build_problem(config, resolve_device(config.train), download=cached)
    # Images that are missing are named first, before a network is made for them.
    problem.train.at(0)
    return config, problem
