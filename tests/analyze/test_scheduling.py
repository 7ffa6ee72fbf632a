"""A real cluster, and addresses where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import xarray as xr
from distributed import LocalCluster

import ckptlab
from ckptlab.errors import ConfigError, UnknownNameError
from tests.analyze.recordings import Made


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as running:
        yield running


@pytest.mark.parametrize("name", ["telemetry", "trajectories", "subspace", "gradient-noise"])
def test_a_cluster_gives_what_threads_give(made: Made, cluster: LocalCluster, name: str) -> None:
    run = ckptlab.open_run(made.path)
    there = run.analyze(name, scheduler=cluster.scheduler_address)
    xr.testing.assert_allclose(there, run.analyze(name))


def test_a_dataset_and_a_mask_reach_the_workers(
    made: Made, mask: np.ndarray, cluster: LocalCluster
) -> None:
    dataset = xr.open_zarr(made.path).isel(step=slice(2, 30))
    with cluster.get_client() as client:
        there = dataset.ckpt.analyze("cosine", relative_to="7", mask=mask, scheduler=client)
    here = dataset.ckpt.analyze("cosine", relative_to="7", mask=mask)
    xr.testing.assert_allclose(there, here)


def test_a_dead_address_fails_soon(made: Made) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9 "):
        ckptlab.open_run(made.path).analyze("sign-flips", scheduler="tcp://127.0.0.1:9")
    assert time.monotonic() - began < 60


def test_an_unknown_scheduler_is_named(made: Made) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'threads'"):
        ckptlab.open_run(made.path).analyze("sign-flips", scheduler="thread")
