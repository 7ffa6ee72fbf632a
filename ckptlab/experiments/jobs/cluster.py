"""Open the executor of jobs: worker processes of this machine, or a dask.distributed cluster."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from ckptlab.analyze.engine.executor import connect
from ckptlab.cores import count_cores
from ckptlab.errors import ConfigError
from ckptlab.extras import require

ENVIRONMENT = {
    # Keep freed memory. By default dask has workers return it, and each page that an update takes
    # anew costs a page fault: a sixth of the time of a ResNet-20 of width 8.
    "MALLOC_TRIM_THRESHOLD_": 2**30,
    "MALLOC_MMAP_THRESHOLD_": 2**25,
    # As long as the heaps that glibc gives threads, and frees when they are empty.
    "MALLOC_TOP_PAD_": 2**26,
}
"""Environment of local workers; the user's own wins."""

_SETTINGS = {
    # Observe workers seldom: jobs take minutes and need every core.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    **{f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in ENVIRONMENT.items()},
}


@contextlib.contextmanager
def open_client(
    scheduler: str | None = None, workers: int | None = None, threads: int = 1
) -> Iterator[Any]:
    """Start `workers` processes here, or connect to the cluster at the address `scheduler`.

    By default there is a worker for each GPU, or for as many cores as leave each its `threads`.
    Workers started here end with the block. ConfigError if nothing answers at the address.
    """
    if scheduler is not None:
        if "://" not in scheduler:
            raise ConfigError(
                f"scheduler {scheduler!r} is not accepted for jobs; accepted: tcp://HOST:PORT, or "
                "leave it out for local workers"
            )
        if workers is not None:
            raise ConfigError("the cluster has its own workers; leave workers or scheduler out")
        client = connect(scheduler, "leave scheduler out for local workers")
        try:
            yield client
        finally:
            client.close()
        return
    import dask

    from ckptlab.experiments.jobs.worker_plugin import WorkerSetup

    distributed = require("distributed", "running jobs")

    gpus = count_gpus()
    count = workers or gpus or max(count_cores() // max(threads, 1), 1)
    with (
        _quiet(),
        dask.config.set(_SETTINGS),
        _local_cluster(count) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(WorkerSetup(gpus))
        yield client


@contextlib.contextmanager
def _local_cluster(workers: int) -> Iterator[Any]:
    """Start processes with one job at a time each, whose memory dask need not limit."""
    cluster = require("distributed", "running jobs").LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        memory_limit=None,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
    )
    try:
        yield cluster
    finally:
        # Workers too busy to end in time end with this process; why the block ended matters more.
        with contextlib.suppress(TimeoutError):
            cluster.close()


def count_gpus() -> int:
    """Return the number of GPUs."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what distributed would log about failures that jobs report themselves."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado.application")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
