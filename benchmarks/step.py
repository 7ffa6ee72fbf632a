"""What is an update worth? Ours against the loop such studies are usually run with.

The plain loop is torch's DataLoader over PIL images with torchvision's transforms, the same network
in its default memory format, and torch's SGD.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measure import Target, interleave, ratio_table
from benchmarks.runs import Options
from ckptlab.train.config import Config, load_config
from ckptlab.train.training import Training, build


def run(options: Options) -> dict[str, Any]:
    """Time segments of updates of ResNet-20 on 32x32 images at batch 128."""
    steps, rounds = (4, 1) if options.quick else (50, 5)
    settings = [
        *options.pictures,
        "data.flip=true",
        "data.crop=4",
        "train.steps=1000000",
        "eval.steps=none",
    ]
    config = load_config(overrides=settings)
    training = build(config)
    variants: dict[str, Callable[[], float]] = {
        "plain loop, 0 loader processes": _plain(training, steps, 0),
        "plain loop, 2 loader processes": _plain(training, steps, 2),
        "ckptlab": _ours(config, steps),
        "ckptlab, bf16": _ours(load_config(overrides=[*settings, "train.precision=bf16"]), steps),
    }
    rows = interleave(variants, rounds, "ckptlab")
    what = "images" if options.images else "synthetic images"
    note = (
        f"Segments of {steps} updates, {rounds} rounds. Crops of 4 pixels, flips, normalisation; "
        "SGD with momentum; fp32 unless said otherwise; ours with deterministic algorithms, the "
        "plain loop without."
    )
    title = f"ResNet-20, 32x32 {what}, batch 128, nothing recorded"
    best = min(row["ratio"] for name, row in rows.items() if name.startswith("plain"))
    target = Target(
        "training step against the plain loop, ResNet-20",
        ">= 1.5",
        f"{best:.2f}",
        "fp32, deterministic; the quicker of the plain loops",
    )
    tables = [ratio_table(title, rows, note)]
    return {"question": "How fast is an update?", "tables": tables, "targets": [target]}


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """PIL images with the usual augmentation."""

    def __init__(self, training: Training) -> None:
        data = training.task.data
        values = data.train.cpu().numpy()
        self._images = [Image.fromarray(image) for image in values]
        self._labels = data.train_labels.tolist()
        mean, std = (values.reshape(-1, 3) / 255).mean(0), (values.reshape(-1, 3) / 255).std(0)
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean.astype(np.float32), std.astype(np.float32)),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._transform(self._images[index]), self._labels[index]


def _plain(training: Training, steps: int, workers: int) -> Callable[[], float]:
    device = training.device
    loader: DataLoader[Any] = DataLoader(
        Pictures(training),
        batch_size=128,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )
    model = build(training.config).model.to(memory_format=torch.contiguous_format).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    batches: Iterator[Any] = itertools.chain.from_iterable(itertools.repeat(loader))

    def update() -> None:
        images, labels = (part.to(device, non_blocking=True) for part in next(batches))
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return _segment(update, steps, device)


def _ours(config: Config, steps: int) -> Callable[[], float]:
    training = build(config)
    done = itertools.count()

    def update() -> None:
        training.step(next(done))

    return _segment(update, steps, training.device, training)


def _segment(
    update: Callable[[], None], steps: int, device: torch.device, training: Training | None = None
) -> Callable[[], float]:
    def measured() -> float:
        with contextlib.nullcontext() if training is None else training.numerics():
            update()  # what the first update sets up is not what is asked
            _wait(device)
            began = time.perf_counter()
            for _ in range(steps):
                update()
            _wait(device)
            return time.perf_counter() - began

    return measured


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
