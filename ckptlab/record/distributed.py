"""Tell which of several processes that train one model this one is."""

from __future__ import annotations

import torch


def rank() -> int:
    """Return the number of this process; 0 where it is the only one."""
    return torch.distributed.get_rank() if _is_distributed() else 0


def ranks() -> int:
    """Return how many processes there are."""
    return torch.distributed.get_world_size() if _is_distributed() else 1


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
