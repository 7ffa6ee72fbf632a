"""A real cluster, and addresses where there is none."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from dask.delayed import delayed
from distributed import LocalCluster
from threadpoolctl import threadpool_info

import ckptlab
from ckptlab.analyze.engine.executor import open_executor
from ckptlab.errors import ConfigError, StoreError, UnknownNameError
from tests.analyze.recordings import Made


@pytest.mark.parametrize("name", ["telemetry", "trajectories", "subspace", "gradient-noise"])
def test_a_cluster_gives_what_threads_give(made: Made, cluster: LocalCluster, name: str) -> None:
    run = ckptlab.open_run(made.path)
    there = run.analyze(name, scheduler=cluster.scheduler_address)
    xr.testing.assert_allclose(there, run.analyze(name))


def test_a_relative_path_means_the_same_to_workers_elsewhere(
    made: Made, cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ckptlab.open_run(made.path).analyze("weight-distance")
    with cluster.get_client() as client:
        client.run(os.chdir, "/")
    monkeypatch.chdir(made.path.parent)
    run = ckptlab.open_run(made.path.name)
    there = run.analyze("weight-distance", scheduler=cluster.scheduler_address)
    np.testing.assert_array_equal(there.values, here.values)


def test_a_run_that_workers_cannot_see_is_not_called_damaged(
    made: Made, tmp_path: Path, cluster: LocalCluster
) -> None:
    path = tmp_path / "mine.zarr"
    shutil.copytree(made.path, path)
    run = ckptlab.open_run(path)
    path.rename(tmp_path / "elsewhere.zarr")  # as a worker on another machine finds it
    with pytest.raises(StoreError, match=r"no run at .*mine\.zarr, seen from .*every worker"):
        run.analyze("weight-change", scheduler=cluster.scheduler_address)


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
    with pytest.raises(UnknownNameError, match=r"unknown scheduler 'foo://x'\. Accepted: proc"):
        ckptlab.open_run(made.path).analyze("sign-flips", scheduler="foo://x")
    with pytest.raises(UnknownNameError, match="Did you mean 'threads'"):
        ckptlab.open_run(made.path).analyze("sign-flips", scheduler="thread")


def test_matrix_products_leave_the_cores_to_other_tasks() -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with open_executor("threads") as executor:
        assert set(executor.compute(delayed(threads)())) == {1}
    assert threads() == before
