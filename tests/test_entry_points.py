"""Entries of every kind from an installed package, made here: found, listed and used by name."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import torch

from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.experiments.operations.criteria import PRUNING
from ckptlab.experiments.operations.registry import PERTURBATIONS, parse_kind
from ckptlab.experiments.plans.study_file import KINDS
from ckptlab.registry import PluginWarning, Registry
from ckptlab.store.format.codecs import CODECS
from ckptlab.train.datasets.registry import DATA_SOURCES
from ckptlab.train.learning_rate import RATE_SCHEDULES
from ckptlab.train.models.registry import MODELS
from ckptlab.train.optimizers import OPTIMIZERS
from ckptlab.train.tasks.registry import TASKS
from tests.trained import train_tiny

MODULE = """
import numpy as np
import torch

def small(classes, hidden: int = 5):
    "Two layers."
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, hidden), torch.nn.ReLU(),
                               torch.nn.Linear(hidden, classes))

def descent(params, lr):
    "Plain descent."
    return torch.optim.SGD(params, lr=lr)

def falling(step):
    "A rate that falls."
    return 1 / (step + 1)

def negate(weights):
    "Turn every sign."
    return -weights

def largest(weights):
    "Remove the largest."
    return -abs(weights)

broken = 3
"""

POINTS = """
[ckptlab.models]
ep-small = made_package:small
[ckptlab.optimizers]
ep-descent = made_package:descent
[ckptlab.schedules]
ep-falling = made_package:falling
[ckptlab.perturbations]
ep-negate = made_package:negate
ep-missing = made_package:nowhere
[ckptlab.pruning]
ep-largest = made_package:largest
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package on the path with its metadata, and registries that have not looked yet."""
    (tmp_path / "made_package.py").write_text(MODULE)
    info = tmp_path / "made_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    for registry, group in (
        (MODELS, "ckptlab.models"),
        (OPTIMIZERS, "ckptlab.optimizers"),
        (RATE_SCHEDULES, "ckptlab.schedules"),
        (PERTURBATIONS, "ckptlab.perturbations"),
        (PRUNING, "ckptlab.pruning"),
    ):
        monkeypatch.setattr(registry, "_group", group)
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        monkeypatch.setattr(registry, "_origins", dict(registry._origins))


@pytest.mark.parametrize(
    ("registry", "group"),
    [
        (METRICS, "metrics"),
        (MODELS, "models"),
        (DATA_SOURCES, "datasets"),
        (TASKS, "tasks"),
        (OPTIMIZERS, "optimizers"),
        (RATE_SCHEDULES, "schedules"),
        (PERTURBATIONS, "perturbations"),
        (PRUNING, "pruning"),
        (CODECS, "codecs"),
        (KINDS, "studies"),
    ],
)
def test_every_registry_looks_for_a_group_of_its_own(
    registry: Registry, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(registry, "_group", f"ckptlab.{group}")
    monkeypatch.setattr(
        "ckptlab.registry.metadata.entry_points", lambda group: asked.append(group) or ()
    )
    list(registry)
    assert asked == [f"ckptlab.{group}"]


@pytest.mark.usefixtures("installed")
def test_a_training_of_an_installed_package_s_parts(tmp_path: Path) -> None:
    names = ["model.name=ep-small", "optim.name=ep-descent", "optim.schedule=ep-falling"]
    path = train_tiny(
        tmp_path / "run.zarr", *names, "optim.lr=0.1", "record.arrays=weights,gradients"
    )
    from ckptlab import open_run

    run = open_run(path)
    weights = run.dataset["weights"].values.astype(np.float64)
    gradients = run.dataset["gradients"].values.astype(np.float64)
    assert weights.shape[0] == 64 * 5 + 5 + 5 * 10 + 10
    for k in range(12):
        wanted = weights[:, k] - 0.1 / (k + 1) * gradients[:, k + 1]
        np.testing.assert_allclose(weights[:, k + 1], wanted, atol=1e-6)
    assert isinstance(run.state_dict(3), dict)
    assert torch.is_tensor(next(iter(run.state_dict(3).values())))


@pytest.mark.usefixtures("installed")
def test_what_cannot_be_loaded_is_left_out_with_a_warning() -> None:
    with pytest.warns(PluginWarning, match=r"made-package offers the perturbation 'ep-missing'"):
        assert "ep-negate" in list(PERTURBATIONS)
    assert "ep-missing" not in PERTURBATIONS
    assert parse_kind("ep-negate").perturbation.summary == "Turn every sign."
    assert PRUNING["ep-largest"].summary == "Remove the largest."
