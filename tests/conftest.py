"""Runs that tests of several layers share."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptlab.record import defaults
from ckptlab.record.pipeline import step_capture
from tests.forks import workers_forked
from tests.trained import train_tiny

CLUSTER = (
    "tests/analyze/engine/test_executor.py",
    "tests/analyze/model/test_parallel.py",
    "tests/cli/test_experiments.py",
    "tests/examples/test_own_problems.py",
    "tests/experiments/jobs/test_scheduler.py",
)
"""Files whose tests share the cluster."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep on one worker the tests of a file, and files that share something slow to make.

    Marks of groups have no effect with pytest 9.2 and xdist 3.8, which writes them to an attribute
    that is gone.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class Together(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file in CLUSTER:
                return "cluster"
            reports, studies = "tests/report/", "tests/report/studies/"
            return next((folder for folder in (studies, reports) if folder in file), file)

    return Together(config, log)


@pytest.fixture(autouse=True, scope="module")
def _no_plugins_of_other_tests() -> Iterator[None]:
    """Take back what loading a plug-in says to the processes that are started later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CKPTLAB_PLUGINS", "")
        yield


@pytest.fixture(autouse=True, scope="session")
def _a_codec_that_no_load_changes() -> Iterator[None]:
    """What a recorder takes by default depends on times; equal loops are to make equal files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_capture, "choose_codec", lambda *_, **__: defaults.CODEC)
        yield


@pytest.fixture(autouse=True, scope="session")
def _workers_start_at_once() -> Iterator[None]:
    """Half of what a small experiment takes would be two workers that import torch."""
    with workers_forked():
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


@contextlib.contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for a while; obstore reads them when a store is opened."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The URL of an empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    with environment(**variables):
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT"))
        yield "s3://bucket"
    server.stop()
