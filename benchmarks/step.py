"""What is an update worth? Ours against the loop such studies are usually run with.

The plain loop is torch's DataLoader over PIL images with torchvision's transforms, the same network
as it is usually written (`functional.relu`, default memory format), and torch's SGD. Beside both
stand the convolutions alone: what no loop around them can do without.
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
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measure import interleave, ratio_table, wait_for
from benchmarks.runs import Options
from benchmarks.targets import Target
from ckptlab.train.assemble import Training, build
from ckptlab.train.config import Config, load_config
from ckptlab.train.models.resnet import BasicBlock, CifarResNet

ALONE = "its convolutions alone"


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
        "plain loop, 0 loader processes": plain(training, steps, 0),
        "plain loop, 2 loader processes": plain(training, steps, 2),
        ALONE: convolutions(config, steps),
        "ckptlab": ours(config, steps),
        "ckptlab, bf16": ours(load_config(overrides=[*settings, "train.precision=bf16"]), steps),
    }
    rows = interleave(variants, rounds, "ckptlab")
    what = "images" if options.images else "synthetic images"
    note = (
        f"Segments of {steps} updates, {rounds} rounds. Crops of 4 pixels, flips, normalisation; "
        "SGD with momentum; fp32 unless said otherwise; ours with deterministic algorithms, the "
        "plain loop without. The convolutions are those of ours, forward and backward, on tensors "
        "that are there already."
    )
    title = f"ResNet-20, 32x32 {what}, batch 128, nothing recorded"
    none, two = (rows[f"plain loop, {n} loader processes"]["ratio"] for n in (0, 2))
    target = Target(
        "training step against the plain loop, ResNet-20",
        ">= 1.5",
        f"{two:.2f} with 2 loader processes, {none:.2f} with none",
        f"fp32, deterministic; convolutions are {rows[ALONE]['ratio']:.0%} of our update",
    )
    tables = [ratio_table(title, rows, note)]
    return {"question": "How fast is an update?", "tables": tables, "targets": [target]}


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """PIL images with the usual augmentation."""

    def __init__(self, training: Training) -> None:
        data = training.problem.train.task.data
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


def plain(training: Training, steps: int, workers: int) -> Callable[[], float]:
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
    _write_plainly(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    batches: Iterator[Any] = itertools.chain.from_iterable(itertools.repeat(loader))

    def update() -> None:
        images, labels = (part.to(device, non_blocking=True) for part in next(batches))
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return _segment(update, steps, device)


def _write_plainly(model: nn.Module) -> None:
    """Have a network of ours compute as it is usually written."""

    class Block(BasicBlock):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = functional.relu(self.bn1(self.conv1(x)))
            y = self.bn2(self.conv2(y))
            y += self.shortcut(x)
            return functional.relu(y)

    class Network(CifarResNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = functional.relu(self.bn1(self.conv1(images)))
            x = self.layer3(self.layer2(self.layer1(x)))
            x = functional.avg_pool2d(x, x.shape[-1]).flatten(1)
            logits: torch.Tensor = self.fc(x)
            return logits

    for module in model.modules():
        plain = {BasicBlock: Block, CifarResNet: Network}.get(type(module))
        if plain is not None:
            module.__class__ = plain


def convolutions(config: Config, steps: int) -> Callable[[], float]:
    training = build(config)
    batch = training.config.train.batch_size
    images = training.problem.train.task.data.train[:batch].permute(0, 3, 1, 2).float()
    met: list[tuple[nn.Conv2d, torch.Tensor, torch.Tensor]] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            met.append((module, inputs[0].detach().clone(), torch.randn_like(output)))

    hooks = [module.register_forward_hook(note) for module in training.model.modules()]
    with torch.no_grad():
        training.model(images.contiguous(memory_format=torch.channels_last))
    for hook in hooks:
        hook.remove()

    @torch.no_grad()
    def update() -> None:
        for number, (module, x, gradient) in enumerate(met):
            how = module.stride, module.padding, module.dilation
            functional.conv2d(x, module.weight, None, *how)
            torch.ops.aten.convolution_backward(
                *(gradient, x, module.weight, None, *how, False, [0, 0], 1),
                [number > 0, True, False],  # images get no gradient
            )

    return _segment(update, steps, training.device, training)


def ours(config: Config, steps: int) -> Callable[[], float]:
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
            wait_for(device)
            began = time.perf_counter()
            for _ in range(steps):
                update()
            wait_for(device)
            return time.perf_counter() - began

    return measured
