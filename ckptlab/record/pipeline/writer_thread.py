"""Commit filled buffers in a writer thread, and hand them back to training.

There are two buffers, a double buffer: training waits for a free one before it would queue a
third. This backpressure is measured as stall time. An error here surfaces in training's thread.
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
import numpy.typing as npt

from ckptlab.errors import CkptlabError, WriteError
from ckptlab.record.pipeline.buffers import BY_TENSOR, SCALARS, BlockBuffer
from ckptlab.record.pipeline.encode_pool import EncodePool
from ckptlab.record.pipeline.observer import Observed
from ckptlab.record.pipeline.sharded_writer import ShardedWriter
from ckptlab.record.state.optimizer import OptimizerState
from ckptlab.store.format.block import Block, Evaluation
from ckptlab.store.write.writer import StoreWriter

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Commit:
    """What the writer thread commits at once: the first `count` steps of a buffer.

    Without a buffer only evaluations and what was observed are left to write. `state` is the
    optimizer's at the last of these steps, `last` says whether the buffer is free afterwards, and
    `encoded` is set once the large arrays are encoded.
    """

    buffer: BlockBuffer | None
    count: int
    state: OptimizerState | None
    evaluations: list[Evaluation]
    last: bool
    observed: Observed = field(default_factory=Observed)
    encoded: threading.Event = field(default_factory=threading.Event)


class WriterThread:
    """Commit in order, in a thread that alone uses `writer` until it is closed.

    `threads` cores compress. Where they train as well (`shared`), all but one compress only while
    training waits for them. `nice` lowers the thread's priority below training's (Linux).
    `everywhere` returns which of some flags are set on all ranks that hold a part of the model.
    """

    def __init__(
        self,
        writer: StoreWriter | ShardedWriter,
        buffers: list[BlockBuffer],
        *,
        threads: int,
        shared: bool,
        nice: int,
        everywhere: Callable[[Flags], Flags] = lambda flags: flags,
    ) -> None:
        self.error: CkptlabError | None = None
        self.zeroed = False
        self._writer = writer
        self._nice = nice
        self._everywhere = everywhere
        self._commits: queue.SimpleQueue[Commit | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[BlockBuffer] = queue.SimpleQueue()
        for buffer in buffers:
            self._free.put(buffer)
        self._pool = EncodePool(threads - 1, always=not shared)
        self._thread = threading.Thread(target=self._run, name="ckptlab-writer", daemon=True)
        self._thread.start()

    def take(self) -> tuple[BlockBuffer, float]:
        """Return a free buffer and the seconds waited for it; raise what the thread raised."""
        self.check()
        try:
            return self._free.get_nowait(), 0.0
        except queue.Empty:
            pass
        found: list[BlockBuffer] = []

        def try_for(seconds: float) -> bool:
            with contextlib.suppress(queue.Empty):
                found.append(self._free.get(timeout=seconds))
            return bool(found)

        waited = self._wait(try_for)
        return found[0], waited

    def wait_encoded(self, commit: Commit) -> float:
        """Let all cores encode what is queued; return the seconds, or raise as `take` does."""
        return self._wait(commit.encoded.wait)

    def put(self, commit: Commit) -> None:
        """Queue a commit."""
        self.check()
        self._commits.put(commit)

    def check(self) -> None:
        """Raise the error the thread died of, if it did."""
        if self.error is not None:
            raise self.error

    def close(self, seconds: float | None = None) -> None:
        """Wait until everything queued is committed, or for some time only."""
        self._commits.put(None)
        with self._pool.called():
            self._thread.join(seconds)
        self._pool.close()

    def _wait(self, try_for: Callable[[float], bool]) -> float:
        began = time.perf_counter()
        with self._pool.called():
            while not try_for(0.5):
                dead = not self._thread.is_alive()  # asked first: its error is set before it ends
                self.check()
                if dead:
                    raise WriteError("the writer thread died; the run holds what was committed")
        return time.perf_counter() - began

    def _run(self) -> None:
        self._lower_priority()
        try:
            while (commit := self._next_commit()) is not None:
                self._commit(commit)
        except CkptlabError as error:
            self.error = error
        except BaseException as error:
            self.error = WriteError(f"recording failed: {type(error).__name__}: {error}")
            self.error.__cause__ = error

    def _next_commit(self) -> Commit | None:
        """Wait for a commit, and meanwhile sync what was committed when it is time."""
        while self._writer.unsynced:
            try:
                return self._commits.get(timeout=max(self._writer.sync_in(hurry=False), 0.0))
            except queue.Empty:
                if self._writer.sync_in(hurry=not self._commits.empty()) <= 0:
                    self._writer.sync()
        return self._commits.get()

    def _commit(self, commit: Commit) -> None:
        if commit.buffer is None:
            if commit.evaluations or commit.observed.steps:
                observations = commit.observed.to_observations()
                self._writer.write_evaluations(commit.evaluations, observations)
            self._writer.sync()
            commit.encoded.set()
            return
        buffer, count = commit.buffer, commit.count
        rows = {name: buffer.host(name, count) for name in buffer.views}
        series = {name: buffer.host(name, count)[:, 0] for name in (*SCALARS, *buffer.scalars)}
        series |= {name: np.ascontiguousarray(buffer.host(name, count).T) for name in BY_TENSOR}
        for slot, skipped in list(buffer.skips.items()):
            buffer.series["skipped"][slot] = bool(skipped)
        series |= {name: values[:count] for name, values in buffer.series.items()}
        block = Block(
            start=buffer.start,
            rows=rows,
            series=series,
            anchor=commit.state.to_anchor() if commit.state else None,
            evaluations=commit.evaluations,
            observations=commit.observed.to_observations(),
        )
        self.zeroed |= _forget_zeroed(block, self._everywhere)
        self._writer.write_block(
            block,
            map_chunks=self._pool.map,
            encoded=commit.encoded.set,
            hurry=not self._commits.empty(),
        )
        if commit.last:
            self._free.put(buffer)

    def _lower_priority(self) -> None:
        # Linux counts priorities by thread: compression then fills the gaps training leaves.
        if sys.platform == "linux" and self._nice:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)


def _forget_zeroed(block: Block, everywhere: Callable[[Flags], Flags]) -> bool:
    """Make gradients that are zero in every tensor NaN; return whether there were any.

    They were zeroed before the recorder saw them: a real gradient is not zero everywhere.
    """
    norms = block.series["gradient_norm"]
    seen = ~np.isnan(norms).all(axis=0)
    zeroed = everywhere(seen & (np.nan_to_num(norms, nan=0.0) == 0).all(axis=0))
    for name in BY_TENSOR:
        block.series[name][:, zeroed] = np.nan
    if "gradients" in block.rows:
        block.rows["gradients"][zeroed] = np.nan
    return bool(zeroed.any())
