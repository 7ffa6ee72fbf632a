"""Where tasks run: dask's threads or processes, or a cluster."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ckptlab.errors import ConfigError, spell, unknown_name

LOCAL: tuple[str, ...] = ("threads", "processes", "synchronous")
"""Schedulers of dask that need no cluster."""

ACCEPTED: tuple[str, ...] = ("threads", "processes", "tcp://HOST:PORT")
"""What an error says is accepted."""

CONNECT_SECONDS = 4


@dataclass(frozen=True)
class Executor:
    """How to run a graph of delayed tasks.

    Parameters
    ----------
    compute : callable
        Takes a delayed object and, optionally, how many tasks may run at a time; returns its value.
    place : callable
        Takes a value that many tasks need, returns what to hand to them.
    workers : int
        How many tasks run at a time.
    """

    compute: Callable[..., Any]
    place: Callable[[Any], Any]
    workers: int


@contextmanager
def open_executor(scheduler: Any = None) -> Iterator[Executor]:
    """Connect to a scheduler.

    Parameters
    ----------
    scheduler : str, distributed.Client or None
        ``threads``, ``processes``, ``synchronous``, an address such as ``tcp://host:8786``, or a
        client. None leaves it to dask: what `dask.config` or an active client says, else threads.

    Yields
    ------
    Executor
        Until the block is left; a connection opened here is then closed.

    Raises
    ------
    ConfigError
        If nothing answers at the address, or it has no workers.
    UnknownNameError
        If it is none of these.
    """
    if scheduler is None or scheduler in LOCAL:
        yield _local(scheduler)
    elif hasattr(scheduler, "scatter"):
        yield _on_cluster(scheduler)
    elif "://" in str(scheduler):
        client = connect(str(scheduler))
        try:
            yield _on_cluster(client)
        finally:
            client.close()
    else:
        raise unknown_name(spell("scheduler"), str(scheduler), ACCEPTED)


def _local(scheduler: str | None) -> Executor:
    from dask.base import compute as dask_compute
    from dask.delayed import delayed
    from dask.system import CPU_COUNT
    from threadpoolctl import threadpool_limits

    options = {} if scheduler is None else {"scheduler": scheduler}

    def compute(task: Any, workers: int = CPU_COUNT) -> Any:
        limit = {} if workers >= CPU_COUNT else {"num_workers": workers}
        # Tasks are the parallelism: a matrix product that takes all cores only fights the others.
        with threadpool_limits(1, "blas"):
            return dask_compute(task, **options, **limit)[0]

    def place(value: Any) -> Any:
        # A name of its own, or dask would hash the arrays.
        return delayed(value, name=f"shared-{uuid.uuid4().hex}", traverse=False)

    return Executor(compute, place, CPU_COUNT)


def _on_cluster(client: Any) -> Executor:
    from dask.delayed import delayed

    def compute(task: Any, workers: int = 0) -> Any:  # noqa: ARG001  Each worker has its memory.
        # One task at the end, whatever lists of tasks `task` is.
        return client.compute(delayed(_unchanged, pure=False)(task)).result()

    def place(value: Any) -> Any:
        return client.scatter(value, hash=False)

    return Executor(compute, place, max(sum(client.nthreads().values()), 1))


def _unchanged(value: Any) -> Any:
    return value


def connect(address: str, otherwise: str | None = None) -> Any:
    """Connect to a cluster that has workers.

    Parameters
    ----------
    address : str
        Of the scheduler, such as ``tcp://host:8786``.
    otherwise : str, optional
        What an error advises if there is none; the threads of this process by default.

    Returns
    -------
    distributed.Client
        To be closed by the caller.

    Raises
    ------
    ConfigError
        If nothing answers at the address, or it has no workers.
    """
    from distributed import Client
    from distributed.comm.registry import backends

    # A client of an unknown protocol fails, and again when it is collected.
    if address.partition("://")[0] not in backends:
        raise unknown_name(spell("scheduler"), address, ACCEPTED)
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
        raise ConfigError(
            f"no scheduler answers at {address} ({type(error).__name__}); start one with "
            "`dask scheduler` and `dask worker`, or "
            + (otherwise or f"use {spell('scheduler', 'threads')}")
        ) from error
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        client.close()
        raise ConfigError(
            f"the scheduler at {address} has no workers; start one with `dask worker {address}`"
        ) from error
    return client
