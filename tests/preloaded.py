"""What forked processes have imported, and compiled, from the start; one thread each."""

import signal

import distributed  # noqa: F401
import numpy as np
import pytest  # noqa: F401
import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo  # imported by the first optimizer, and slow
import torch.distributed.fsdp
import torch.distributed.tensor.parallel

import ckptlab.cli.record
import ckptlab.train.trainer  # noqa: F401
import tests.faults.kills
import tests.record.loops  # noqa: F401
from ckptlab.record.pipeline.flatten import norms_at

# Shells have jobs in the background ignore it, and tests may be one.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
one = np.ones(1, np.float32)
norms_at(np.array([one.ctypes.data], np.uintp), np.array([1]), one.copy(), one.copy())
