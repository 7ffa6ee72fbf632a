"""Where jobs run: worker processes of this machine, or a cluster of dask.distributed.

Imports analyze.scheduling, cores and errors.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from ckptlab.analyze.scheduling import connect
from ckptlab.cores import count_cores
from ckptlab.errors import ConfigError

_MONITORING = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}
"""What dask observes of workers started here: little, as jobs take minutes and need every core."""


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

    gpus = count_gpus()
    count = workers or gpus or max(count_cores() // max(threads, 1), 1)
    with (
        _quiet(),
        dask.config.set(_MONITORING),
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
        client.run(_keep_quiet)
        if gpus:
            client.run(_choose_gpu, gpus)
        yield client


def count_gpus() -> int:
    """Return how many GPUs there are."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _keep_quiet() -> None:
    """Keep libraries from warning on the terminal of the driver; jobs hand theirs back."""
    import warnings

    warnings.simplefilter("ignore")


def _choose_gpu(count: int, dask_worker: Any) -> None:
    """Give the workers of a machine one GPU each, in turn."""
    # CUDA reads this when it is first used, which no job has done yet. torch's current device would
    # be that of this thread, and jobs run in another.
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[int(dask_worker.name) % count]


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
