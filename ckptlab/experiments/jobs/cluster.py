"""Where jobs run: worker processes of this machine, or a cluster of dask.distributed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from ckptlab.analyze.engine.executor import connect
from ckptlab.cores import count_cores
from ckptlab.errors import ConfigError

ENVIRONMENT = {
    # What a training frees is kept. dask has workers give it back, and every page that an update
    # then takes anew costs a fault: a sixth of the time of a ResNet-20 of width 8.
    "MALLOC_TRIM_THRESHOLD_": 2**30,
    "MALLOC_MMAP_THRESHOLD_": 2**25,
    # As long as the heaps that glibc gives threads, and drops when they are empty.
    "MALLOC_TOP_PAD_": 2**26,
}
"""Environment of workers started here, unless the user's own says otherwise."""

_SETTINGS = {
    # What dask observes of its workers: little, as jobs take minutes and need every core.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    **{f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in ENVIRONMENT.items()},
}


@contextlib.contextmanager
def open_client(
    scheduler: str | None = None, workers: int | None = None, threads: int = 1
) -> Iterator[Any]:
    """Start workers, or connect to a cluster.

    Parameters
    ----------
    scheduler : str, optional
        Address such as ``tcp://host:8786``; workers of this machine by default.
    workers : int, optional
        How many processes are started here; by default one for each GPU, or for as many cores as
        leave each worker `threads` of its own.
    threads : int
        Threads that each job computes with.

    Yields
    ------
    distributed.Client
        Workers started here end with the block.

    Raises
    ------
    ConfigError
        If nothing answers at the address, or it is none.
    """
    if scheduler is not None:
        if "://" not in scheduler:
            raise ConfigError(
                f"scheduler {scheduler!r} is not accepted for jobs; accepted: tcp://HOST:PORT, or "
                "leave it out for workers of this machine"
            )
        if workers is not None:
            raise ConfigError("workers are those of the cluster; leave workers or scheduler out")
        client = connect(scheduler, "leave scheduler out for workers of this machine")
        try:
            yield client
        finally:
            client.close()
        return
    import dask
    from distributed import Client, LocalCluster

    from ckptlab.experiments.jobs.worker_plugin import Arrival

    gpus = count_gpus()
    count = workers or gpus or max(count_cores() // max(threads, 1), 1)
    with (
        _quiet(),
        dask.config.set(_SETTINGS),
        # Each worker is a process with one job at a time; its memory is the job's own business.
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=True,
            memory_limit=None,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(Arrival(gpus))
        yield client


def count_gpus() -> int:
    """Return how many GPUs there are."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep distributed from reporting on its own what is reported as a job's failure."""
    loggers = [logging.getLogger(name) for name in ("distributed", "tornado.application")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
