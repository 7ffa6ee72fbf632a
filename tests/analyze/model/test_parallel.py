"""Metrics of a model on worker processes give what they give here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from distributed import LocalCluster
from torch import nn

import ckptlab
from ckptlab.analyze.engine.source import as_source
from ckptlab.analyze.model.parallel import Switches, spread
from ckptlab.analyze.model.replay_model import ReplayModel
from ckptlab.problems.examples import draw
from tests.trained import normed_network, points, record_own

SMALL = {"samples": 24, "batch_size": 12}

PRODUCTS = ("hessian-spectrum", "gradient-subspace")
"""Dozens of products with the Hessian, seconds with convolutions; the others take batch norm."""

OPTIONS = {
    "evaluation": {"steps": "0:13:3", "correct": True},
    "gradient-magnitude": {"steps": "0:13:4", "full": True, "by": "layer", **SMALL},
    "hessian-spectrum": {"steps": "0:13:12", "eigenvalues": 3, "vectors": True, **SMALL},
    "gradient-subspace": {"steps": "0:13:12", "eigenvalues": 3, **SMALL},
    "fisher-trace": {"steps": "0:13:4", **SMALL},
    "connectivity": {"other": "@4", "alphas": 5, **SMALL},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_cluster_gives_what_this_process_gives(
    tiny_resnet: Path, tiny_mlps: list[Path], cluster: LocalCluster, name: str
) -> None:
    run = ckptlab.open_run(tiny_mlps[0] if name in PRODUCTS else tiny_resnet)
    there = run.analyze(name, scheduler=cluster.scheduler_address, **OPTIONS[name])
    here = run.analyze(name, **OPTIONS[name])
    # Only NumPy's products differ, by the cores they are split over.
    xr.testing.assert_allclose(there, here, rtol=1e-10, atol=1e-12)
    assert there.attrs == here.attrs
    if name == "evaluation":
        xr.testing.assert_identical(there, here)


def test_processes_take_a_model_of_ones_own(tmp_path: Path) -> None:
    x, y = points()
    model = normed_network()
    run = ckptlab.open_run(record_own(tmp_path / "own.zarr", model, x, y))
    given = {
        "model": model,
        "data": (x, y),
        "loss": lambda outputs, targets: nn.functional.cross_entropy(outputs, targets),
        "steps": "0:7:2",
    }
    here = run.analyze("evaluation", **given)
    there = run.analyze("evaluation", scheduler="processes", **given)
    np.testing.assert_array_equal(there["eval_loss"], here["eval_loss"])
    from_dataset = xr.open_zarr(run.path).ckpt.evaluation(scheduler="processes", **given)
    np.testing.assert_array_equal(from_dataset["eval_loss"], here["eval_loss"])


def _told(replay: ReplayModel, subset, items, before) -> list[object]:
    return [(item, before, torch.get_num_threads(), torch.is_autocast_enabled()) for item in items]


def test_parts_are_contiguous_and_computed_with_the_switches_of_here(
    tmp_path: Path, cluster: LocalCluster
) -> None:
    x, y = points()
    model = normed_network()
    run = ckptlab.open_run(record_own(tmp_path / "own.zarr", model, x, y))
    replay = ReplayModel(as_source(run), model)
    subset = draw((x, y), 10, 0, 5)
    items = np.arange(5) * 10
    switches = Switches.read(replay.device)
    with torch.autocast("cpu", torch.bfloat16):
        found = spread(_told, replay, subset, items, cluster.scheduler_address)
    assert [item for item, *_ in found] == [0, 10, 20, 30, 40]
    assert [before for _, before, *_ in found] == [None, None, 10, 10, 10]
    assert {threads for *_, threads, _ in found} == {switches.threads}
    assert Switches.read(replay.device) == switches


def test_switches_are_put_back() -> None:
    here = Switches.read(torch.device("cpu"))
    other = Switches(
        device="cpu",
        threads=here.threads + 1,
        determinism=2 - here.determinism,
        tf32=(True, False),
        autocast=torch.bfloat16,
    )
    with other.set():
        assert Switches.read(torch.device("cpu")) == other
    assert Switches.read(torch.device("cpu")) == here
