"""What a worker started here does when it comes up, also where it takes a dead one's place."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from typing import Any

from distributed import WorkerPlugin


class Arrival(WorkerPlugin):
    """Set up a worker process.

    Parameters
    ----------
    gpus : int
        How many GPUs the workers share; each takes one, in turn.
    """

    name = "ckptlab-arrival"

    def __init__(self, gpus: int) -> None:
        self._gpus = gpus

    def setup(self, worker: Any) -> None:
        """Set up the process of `worker`, which distributed calls in it before the first job."""
        # Jobs hand their warnings back; those of libraries would come to the driver's terminal.
        warnings.simplefilter("ignore")
        if self._gpus:
            _choose_gpu(int(worker.name), self._gpus)
        atexit.register(_leave)


def _leave() -> None:
    """End the process, after the handlers that were registered later."""
    # Python would take torch's modules apart one by one, for a second or more, and the driver would
    # wait for it. A worker that has closed has its results on disk.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _choose_gpu(worker: int, count: int) -> None:
    """Show the process one GPU."""
    # CUDA reads this when it is first used, which no job has done yet. torch's current device would
    # be that of this thread, and jobs run in another.
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[worker % count]
