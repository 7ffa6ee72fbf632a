"""Rebuild model, loss and data of a run of the built-in trainer, for the metrics that need them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.registry.spec import Metric
from ckptlab.extras import require

if TYPE_CHECKING:
    import torch

    from ckptlab.train.assemble import Training


@contextlib.contextmanager
def inputs_for(
    metric: Metric, attributes: Mapping[str, Any], options: Mapping[str, Any], run: str = "."
) -> Iterator[dict[str, Any]]:
    """Yield the inputs of a metric that the caller does not give, rebuilt from a run's attributes.

    `run` is the path of the run: images are read from a folder beside it, or one the user names.
    Nothing if the metric needs none, or the run was not made by the built-in trainer. While they
    are in use, threads and precision are those of the training.
    """
    missing = {k: offer for k, offer in metric.inputs.items() if options.get(k) is None}
    if not missing or not metric.wants_inputs(options) or not is_builtin(attributes):
        yield {}
        return
    torch = require("torch", metric.name)
    training = rebuild(attributes, run)
    from ckptlab.train.numerics import numerics

    # Evaluations must equal those of the training; curvature is as exact as it can be.
    as_trained = metric.inputs.get("data") == "test"
    low = training.update.autocast if as_trained else None
    settings = training.config.train
    settings = settings if as_trained else settings.model_copy(update={"precision": "fp32"})
    with (
        numerics(settings, training.device),
        torch.autocast(training.device.type, low, enabled=low is not None),
    ):
        if settings.deterministic:
            # Second derivatives may need what training did not; better inexact than refused.
            torch.set_deterministic_debug_mode("warn")
        offers = {
            "model": training.model,
            "loss": torch.nn.CrossEntropyLoss(),
            "train": TaskExamples(training, "train"),
            "test": TaskExamples(training, "test"),
        }
        yield {key: offers[offer] for key, offer in missing.items()}


def is_builtin(attributes: Mapping[str, Any]) -> bool:
    """Return whether a run was made by the built-in trainer."""
    config = attributes.get("config")
    return (
        isinstance(config, Mapping)
        and isinstance(config.get("model"), Mapping)
        and "classes" in attributes
    )


def rebuild(attributes: Mapping[str, Any], run: str = ".") -> Training:
    """Rebuild the training of a run on any device, its model at the initialisation.

    Nothing is downloaded to a folder that the run names, code is imported only if the user allowed
    it, and a folder of images outside that of the run is read only if the user names it (see
    `ckptlab.train.data_root`): DataError otherwise.
    """
    from ckptlab.train.assemble import build
    from ckptlab.train.data import load_data
    from ckptlab.train.numerics import resolve_device
    from ckptlab.train.resume import run_config

    config = run_config(attributes, run)
    anywhere = config.train.model_copy(update={"device": "auto"})
    config = config.model_copy(update={"train": anywhere})
    cached = getattr(config.data, "root", None) is None
    data = load_data(config.data, resolve_device(config.train), download=cached)
    return build(config, data=data)


class TaskExamples:
    """The images and labels that the network is trained or tested on outside stages.

    Without augmentation, and the same at every step, so that steps can be compared. `split` is
    ``train`` or ``test``.
    """

    def __init__(self, training: Training, split: str) -> None:
        self._task = training.task
        self._split = split

    def __len__(self) -> int:
        shape = self._task.data.shape
        return shape.train if self._split == "train" else shape.test

    def take(self, index: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some of them, normalised, on the device of the training."""
        import torch

        from ckptlab.train.tasks.task import Batch

        data = self._task.data
        train = self._split == "train"
        images, labels = (data.train, data.train_labels) if train else (data.test, data.test_labels)
        at = torch.from_numpy(index).to(images.device)
        batch = Batch(data.normalise(images[at]), labels[at], at)
        # What a task draws at random, it draws as for the first update.
        batch = self._task.train(batch, 0) if train else self._task.test(batch)
        return batch.images, batch.labels
