"""The seeds of a training."""

from __future__ import annotations

from dataclasses import dataclass

from ckptlab.train.sections import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Seeds:
    """What the random draws of a training depend on.

    Parameters
    ----------
    init : int
        Initial weights.
    order : int
        Order of the images.
    augment : int
        Crops, flips and what the network draws itself, such as dropout.
    task : int
        What a task draws: labels, turns.
    """

    init: int
    order: int
    augment: int
    task: int

    @classmethod
    def resolve(cls, config: TrainConfig) -> Seeds:
        """Fill in those left open with the common seed.

        Parameters
        ----------
        config : TrainConfig
            The settings.

        Returns
        -------
        Seeds
            All of them.
        """
        return cls(
            init=config.seed if config.init_seed is None else config.init_seed,
            order=config.seed if config.order_seed is None else config.order_seed,
            augment=config.seed if config.augment_seed is None else config.augment_seed,
            task=config.seed if config.task_seed is None else config.task_seed,
        )
