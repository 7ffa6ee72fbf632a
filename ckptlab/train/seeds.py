"""Resolve the seeds of a training."""

from __future__ import annotations

from dataclasses import dataclass

from ckptlab.train.sections import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """What the random draws of a training depend on.

    `init`: initial weights; `order`: order of the images; `augment`: crops, flips and draws of the
    network, such as dropout; `task`: labels and turns.
    """

    init: int
    order: int
    augment: int
    task: int

    @classmethod
    def resolve(cls, config: TrainConfig) -> Seeds:
        """Fill in the seeds left open with the common one."""
        return cls(
            init=config.seed if config.init_seed is None else config.init_seed,
            order=config.seed if config.order_seed is None else config.order_seed,
            augment=config.seed if config.augment_seed is None else config.augment_seed,
            task=config.seed if config.task_seed is None else config.task_seed,
        )
