"""Dense, per-step recordings of neural-network training, and the measurements made on them.

Importing ckptlab does not import torch; `Recorder` does, when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wrapt import when_imported

from ckptlab._version import __version__
from ckptlab.extras import explained

if TYPE_CHECKING:
    from ckptlab.analyze.health.check import check_health
    from ckptlab.analyze.registry.metrics import metric
    from ckptlab.analyze.trackers import tracker
    from ckptlab.experiments.operations.criteria import pruning
    from ckptlab.experiments.operations.registry import perturbation
    from ckptlab.experiments.plans.study_file import study_kind
    from ckptlab.plugins import load_plugin
    from ckptlab.problems.problem import Problem
    from ckptlab.record.convert.readers.registry import reader
    from ckptlab.record.recorder import Recorder
    from ckptlab.registry import allow
    from ckptlab.run import Run, open_run
    from ckptlab.runs import Runs, open_runs
    from ckptlab.shortcuts import export_checkpoints, record_branch, record_training, write_report
    from ckptlab.store.format.codecs import codec
    from ckptlab.train.decorators import (
        accuracy,
        dataset,
        loss,
        model,
        optimizer,
        problem,
        schedule,
        task,
    )

__all__ = [
    "Problem",
    "Recorder",
    "Run",
    "Runs",
    "__version__",
    "accuracy",
    "allow",
    "check_health",
    "codec",
    "dataset",
    "export_checkpoints",
    "load_plugin",
    "loss",
    "metric",
    "model",
    "open_run",
    "open_runs",
    "optimizer",
    "perturbation",
    "problem",
    "pruning",
    "reader",
    "record_branch",
    "record_training",
    "schedule",
    "study_kind",
    "task",
    "tracker",
    "write_report",
]

_LAZY = {
    "Problem": "ckptlab.problems.problem",
    "Recorder": "ckptlab.record.recorder",
    "Run": "ckptlab.run",
    "Runs": "ckptlab.runs",
    "allow": "ckptlab.registry",
    "check_health": "ckptlab.analyze.health.check",
    "codec": "ckptlab.store.format.codecs",
    "load_plugin": "ckptlab.plugins",
    "metric": "ckptlab.analyze.registry.metrics",
    "open_run": "ckptlab.run",
    "open_runs": "ckptlab.runs",
    "perturbation": "ckptlab.experiments.operations.registry",
    "pruning": "ckptlab.experiments.operations.criteria",
    "reader": "ckptlab.record.convert.readers.registry",
    "tracker": "ckptlab.analyze.trackers",
    "study_kind": "ckptlab.experiments.plans.study_file",
    **dict.fromkeys(
        ("export_checkpoints", "record_branch", "record_training", "write_report"),
        "ckptlab.shortcuts",
    ),
    **dict.fromkeys(
        ("accuracy", "dataset", "loss", "model", "optimizer", "problem", "schedule", "task"),
        "ckptlab.train.decorators",
    ),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import ckptlab` stays light."""
    if name not in _LAZY:
        raise AttributeError(f"module 'ckptlab' has no attribute {name!r}")
    with explained(f"ckptlab.{name}"):
        return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__


# Datasets get their accessor `ckpt` with xarray, whichever of the two is imported first; importing
# xarray here would make every command half a second slower to start.
when_imported("xarray")(lambda _: import_module("ckptlab.accessor"))
