"""Make a problem of a built-in network, images and a task; images are read when first needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import torch

from ckptlab.problems.examples import Examples, Index, Pair
from ckptlab.problems.problem import Problem
from ckptlab.record.schedule import parse_step
from ckptlab.train.augment import Augmentation, augment
from ckptlab.train.counter_rng import Counter, Draw
from ckptlab.train.data import Data, data_shape, load_data
from ckptlab.train.models.build import build_network
from ckptlab.train.seeds import Seeds
from ckptlab.train.tasks.build import build_task, with_stages
from ckptlab.train.tasks.fit import count_answers, stage_schedules
from ckptlab.train.tasks.task import Batch, Task

if TYPE_CHECKING:
    from ckptlab.train.config import Config


@dataclass(frozen=True, slots=True, eq=False)
class ImageStage:
    """Batches of one task: augmented, normalised, then changed by the task."""

    task: Task
    augmentation: Augmentation

    @property
    def draws(self) -> tuple[Draw, ...]:
        """What is drawn for each sample at each step."""
        return self.augmentation.draws + self.task.draws

    def batch(self, drawn: torch.Tensor, step: Counter) -> Pair:
        """Return the batch of the update from `step`."""
        data, index = self.task.data, drawn[0]
        known = dict(zip(self.draws, drawn[1:], strict=True))
        images = augment(data.train.index_select(0, index), index, step, self.augmentation, known)
        labels = data.train_labels.index_select(0, index)
        made = self.task.train(Batch(data.normalise(images), labels, index, known), step)
        return Pair(made.images, made.labels)


class ImageSource:
    """Images on the device and what the network is to answer, for both halves."""

    def __init__(
        self, config: Config, device: torch.device | str, data: Data | None, download: bool
    ) -> None:
        self._config, self._device, self._given, self._download = config, device, data, download
        shape = data_shape(config.data) if data is None else data.shape
        self.shape = replace(shape, classes=count_answers(config.task, shape))
        epoch = -(-shape.train // config.train.batch_size)
        steps = parse_step(config.train.steps, epoch)
        self._schedules = stage_schedules(config.task, steps, epoch)
        self._stages: dict[int, ImageStage] = {}

    @cached_property
    def task(self) -> Task:
        """The task outside stages, with its images."""
        config, data, seeds = self._config, self._given, Seeds.resolve(self._config.train)
        if data is None:
            data = load_data(config.data, self._device, download=self._download)
        task = build_task(config.task, data, seeds)
        return with_stages(task, config.task, self._schedules, seeds)

    def stage(self, step: int) -> ImageStage:
        """Return where the batch of the update from `step` comes from."""
        task, data = self.task.at(step), self.task.data
        if id(task) not in self._stages:
            seed = Seeds.resolve(self._config.train).augment
            how = Augmentation(flip=data.flip, crop=data.crop, seed=seed)
            self._stages[id(task)] = ImageStage(task, how)
        return self._stages[id(task)]


class ImageExamples(Examples):
    """Images and answers of one half, ``train`` or ``test``.

    Outside updates they are not augmented, and the same at every step.
    """

    on_device = True

    def __init__(self, source: ImageSource, half: str) -> None:
        self._source = source
        self._half = half

    @property
    def task(self) -> Task:
        """The task outside stages."""
        return self._source.task

    def __len__(self) -> int:
        return int(getattr(self._source.shape, self._half))

    def take(self, index: Index) -> Pair:
        """Return some of them, normalised, on the device of the training."""
        data, train = self.task.data, self._half == "train"
        images, labels = (data.train, data.train_labels) if train else (data.test, data.test_labels)
        at = torch.as_tensor(index).to(images.device)
        batch = Batch(data.normalise(images[at]), labels[at], at)
        # What a task draws at random, it draws as for the first update.
        made = self.task.train(batch, 0) if train else self.task.test(batch)
        return Pair(made.images, made.labels)

    def at(self, step: int) -> ImageStage:
        """Return where the batch of the update from `step` comes from."""
        return self._source.stage(step)


class Answers(Sequence[str]):
    """Names of the answers, which only the images may tell."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return self._source.shape.classes

    def __getitem__(self, at: Any) -> Any:
        return self._source.task.answers[at]


def image_problem(
    config: Config, device: torch.device | str, data: Data | None, *, download: bool, **scores: Any
) -> Problem:
    """Make the problem that the sections model, data and task describe; `scores` are its losses.

    ConfigError or DataError if they do not fit together.
    """
    source = ImageSource(config, device, data, download)
    return Problem(
        model=partial(build_network, config.model, source.shape),
        train=ImageExamples(source, "train"),
        test=ImageExamples(source, "test"),
        answers=Answers(source),
        **scores,
    )
