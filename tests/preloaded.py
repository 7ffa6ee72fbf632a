"""What forked processes have imported from the start; one thread each."""

import torch

import ckptlab.record.recorder  # noqa: F401
import tests.record.loops  # noqa: F401

torch.set_num_threads(1)
