"""Set up each local worker process when it starts, also one that replaces a dead one."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from typing import Any

from distributed import WorkerPlugin


class WorkerSetup(WorkerPlugin):
    """Give each worker its GPU in turn, and silence warnings that jobs return themselves."""

    name = "ckptlab-setup"

    def __init__(self, gpus: int) -> None:
        self._gpus = gpus

    def setup(self, worker: Any) -> None:
        """Set up the process of `worker`; distributed calls this before the first job."""
        # Warnings of libraries would reach the driver's terminal.
        warnings.simplefilter("ignore")
        if self._gpus:
            _choose_gpu(int(worker.name), self._gpus)
        atexit.register(_leave)


def _leave() -> None:
    """End the process at once; a closed worker has its results on disk."""
    # Otherwise the driver waits a second or more while Python tears torch's modules down.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _choose_gpu(worker: int, count: int) -> None:
    """Make one GPU visible to the process."""
    # CUDA reads this at first use, which is later. torch.cuda.set_device would set it for this
    # thread alone, and jobs run in another.
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[worker % count]
