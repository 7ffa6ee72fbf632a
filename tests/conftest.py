"""Runs that tests of several layers share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trained import train_tiny


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that share a cluster on one worker: `--dist loadgroup`."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(autouse=True, scope="module")
def _no_plugins_of_other_tests() -> Iterator[None]:
    """Take back what loading a plug-in says to the processes that are started later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CKPTLAB_PLUGINS", "")
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Two worker processes of dask that all tests of a cluster share."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        memory_limit=None,
        dashboard_address="127.0.0.1:0",
    ) as running:
        yield running


@pytest.fixture(scope="session")
def tiny_mlps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two replicates of a fully connected network."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("mlps")
    model = ["model.name=mlp", "model.width=6", "eval.steps=0:13:4"]
    return [train_tiny(folder / f"seed{s}.zarr", *model, f"train.seed={s}") for s in (0, 1)]


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with batch norm."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("resnet") / "resnet.zarr"
    return train_tiny(path, "model.name=resnet8", "model.width=4", "eval.steps=0:13:6")
