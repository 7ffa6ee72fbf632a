"""Choose the training images that each update sees.

The samples of any step are found without those before it.
"""

from __future__ import annotations

import torch

from ckptlab.train.counter_rng import Draw, derived_seed, permutation


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
        self._tables: dict[tuple[Draw, ...], torch.Tensor] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Number of updates an epoch."""
        return -(-self.samples // self.batch_size)

    def batch_at(self, step: int) -> torch.Tensor:
        """Return the indices, int64 of shape (batch,), that the update from `step` sees."""
        return self.drawn_at(step, ())[0]

    def drawn_at(self, step: int, draws: tuple[Draw, ...]) -> torch.Tensor:
        """Return the indices, and below them what is drawn for each, in the order of `draws`.

        int64 of shape (1 + draws, batch). A whole epoch is drawn at once: one draw of one batch is
        some forty small kernels.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._tables, self._epoch = {}, epoch
        if draws not in self._tables:
            self._tables[draws] = self._draw(epoch, draws)
        start = position * self.batch_size
        return self._tables[draws][:, start : start + self.batch_size]

    def _draw(self, epoch: int, draws: tuple[Draw, ...]) -> torch.Tensor:
        key = derived_seed(self.seed, "order", epoch)
        index = permutation(key, self.samples, self.device)
        position = torch.arange(self.samples, device=self.device) // self.batch_size
        steps = position + epoch * self.steps_per_epoch
        return torch.stack([index, *(draw(steps, index) for draw in draws)])
