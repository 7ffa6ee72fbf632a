"""Choose the training images that each update sees.

The samples of any step are found without those before it.
"""

from __future__ import annotations

import torch

from ckptlab.train.counter_rng import derived_seed, permutation


class Order:
    """Epochs of all samples, each in its own order.

    The last batch of an epoch has what is left.
    """

    def __init__(
        self, *, samples: int, batch_size: int, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.int64)

    @property
    def steps_per_epoch(self) -> int:
        """Number of updates an epoch."""
        return -(-self.samples // self.batch_size)

    def batch_at(self, step: int) -> torch.Tensor:
        """Return the indices, int64 of shape (batch,), that the update from `step` sees."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            key = derived_seed(self.seed, "order", epoch)
            self._permutation = permutation(key, self.samples, self.device)
            self._epoch = epoch
        start = position * self.batch_size
        return self._permutation[start : start + self.batch_size]
