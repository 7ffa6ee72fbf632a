"""The writer thread: takes filled buffers, commits them, hands them back.

There are two buffers: the trainer waits for a free one before it would
queue a third, and the time it waits is measured. An error here surfaces in the trainer.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ckptlab.errors import CkptlabError, WriteError
from ckptlab.record.pipeline.buffers import BY_TENSOR, SCALARS, Buffer
from ckptlab.record.pipeline.encode_pool import Crew
from ckptlab.record.state.optimizer import OptimizerState
from ckptlab.store.format.block import Block, Evaluation
from ckptlab.store.write.writer import StoreWriter


@dataclass(frozen=True, slots=True)
class Job:
    """One commit.

    Parameters
    ----------
    buffer : Buffer or None
        Filled; None where only evaluations are left to write.
    count : int
        How many of its steps are written.
    state : OptimizerState or None
        Of the last of them.
    evaluations : list of Evaluation
        New ones.
    last : bool
        Whether the buffer is free afterwards.
    encoded : threading.Event
        Set once its large arrays are encoded.
    """

    buffer: Buffer | None
    count: int
    state: OptimizerState | None
    evaluations: list[Evaluation]
    last: bool
    encoded: threading.Event = field(default_factory=threading.Event)


class Committer:
    """Commits jobs in order in a thread of its own.

    Parameters
    ----------
    writer : StoreWriter
        Used by that thread alone until it is closed.
    buffers : list of Buffer
        All of them, free.
    threads : int
        Cores that compress.
    shared : bool
        Whether they train as well: then all but one compress only while training waits for them.
    nice : int
        How much lower than training's the priority of the writer is (Linux).
    """

    def __init__(
        self, writer: StoreWriter, buffers: list[Buffer], *, threads: int, shared: bool, nice: int
    ) -> None:
        self.error: CkptlabError | None = None
        self.zeroed = False
        self._writer = writer
        self._nice = nice
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[Buffer] = queue.SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)
        self._crew = Crew(threads - 1, always=not shared)
        writer.shards.map_chunks = self._crew.map
        writer.hurried = lambda: not self._jobs.empty()
        self._thread = threading.Thread(target=self._run, name="ckptlab-writer", daemon=True)
        self._thread.start()

    def take(self) -> tuple[Buffer, float]:
        """Return a free buffer and the seconds waited for it; raises what the thread raised."""
        self.check()
        try:
            return self._free.get_nowait(), 0.0
        except queue.Empty:
            pass
        found: list[Buffer] = []

        def try_for(seconds: float) -> bool:
            with contextlib.suppress(queue.Empty):
                found.append(self._free.get(timeout=seconds))
            return bool(found)

        waited = self._wait(try_for)
        return found[0], waited

    def wait_encoded(self, job: Job) -> float:
        """Let all cores encode what was queued; return the seconds, or raise as `take`."""
        return self._wait(job.encoded.wait)

    def put(self, job: Job) -> None:
        """Queue a commit."""
        self.check()
        self._jobs.put(job)

    def check(self) -> None:
        """Raise the error the thread died of, if it did."""
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Wait until everything queued is committed."""
        self._jobs.put(None)
        with self._crew.called():
            self._thread.join()
        self._crew.close()

    def _wait(self, try_for: Callable[[float], bool]) -> float:
        began = time.perf_counter()
        with self._crew.called():
            while not try_for(0.5):
                dead = not self._thread.is_alive()  # first: what it died of is said before
                self.check()
                if dead:
                    raise WriteError("the writer thread died; the run holds what was committed")
        return time.perf_counter() - began

    def _run(self) -> None:
        self._lower()
        try:
            while (job := self._next_job()) is not None:
                self._commit(job)
        except CkptlabError as error:
            self.error = error
        except BaseException as error:
            self.error = WriteError(f"recording failed: {type(error).__name__}: {error}")
            self.error.__cause__ = error

    def _next_job(self) -> Job | None:
        """Wait for a job; while there is none, what was committed is synced in good time."""
        while self._writer.unsynced:
            try:
                return self._jobs.get(timeout=max(self._writer.sync_in, 0.0))
            except queue.Empty:
                if self._writer.sync_in <= 0:
                    self._writer.sync()
        return self._jobs.get()

    def _commit(self, job: Job) -> None:
        if job.buffer is None:
            self._writer.write_evaluations(job.evaluations)
            return
        buffer, count = job.buffer, job.count
        rows = {name: buffer.host(name, count) for name in buffer.views}
        series = {name: buffer.host(name, count)[:, 0] for name in SCALARS}
        series |= {name: np.ascontiguousarray(buffer.host(name, count).T) for name in BY_TENSOR}
        series |= {name: values[:count] for name, values in buffer.series.items()}
        block = Block(
            start=buffer.start,
            rows=rows,
            series=series,
            anchor=job.state.to_anchor() if job.state else None,
            evaluations=job.evaluations,
        )
        self.zeroed |= _forget_zeroed(block)
        self._writer.write_block(block, job.encoded.set)
        if job.last:
            self._free.put(buffer)

    def _lower(self) -> None:
        # Linux counts priorities by thread: compression then fills the gaps training leaves.
        if sys.platform == "linux" and self._nice:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)


def _forget_zeroed(block: Block) -> bool:
    """Make gradients that are zero in every tensor NaN; say whether there were any.

    They were zeroed before the recorder saw them: a real gradient is not zero everywhere.
    """
    norms = block.series["gradient_norm"]
    seen = ~np.isnan(norms).all(axis=0)
    zeroed = seen & (np.nan_to_num(norms, nan=0.0) == 0).all(axis=0)
    for name in BY_TENSOR:
        block.series[name][:, zeroed] = np.nan
    if "gradients" in block.rows:
        block.rows["gradients"][zeroed] = np.nan
    return bool(zeroed.any())
