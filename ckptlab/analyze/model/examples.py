"""Turn the data that users pass into examples, and draw a fixed subset of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import ConfigError

Batch = tuple[torch.Tensor, torch.Tensor]


class ExampleSet(Protocol):
    """Inputs and targets, taken by index."""

    def __len__(self) -> int: ...

    def take(self, index: npt.NDArray[np.int64]) -> Batch:
        """Return inputs and targets of some examples, ready for the model."""
        ...


@dataclass(frozen=True, slots=True)
class TensorExamples:
    """Inputs and targets in memory, both of shape (examples, …)."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: npt.NDArray[np.int64]) -> Batch:
        """Return inputs and targets of some examples."""
        at = torch.from_numpy(index)
        return self.inputs[at.to(self.inputs.device)], self.targets[at.to(self.targets.device)]


@dataclass(frozen=True, slots=True)
class ItemExamples:
    """A map-style dataset whose items are pairs of input and target."""

    items: Any

    def __len__(self) -> int:
        return len(self.items)

    def take(self, index: npt.NDArray[np.int64]) -> Batch:
        """Collate some items."""
        batch = torch.utils.data.default_collate([self.items[int(i)] for i in index])
        return batch[0], batch[1]


@dataclass(frozen=True, slots=True)
class Subset:
    """The examples that a metric is measured on.

    `index` is increasing; `name` describes the subset in the attributes of results.
    """

    examples: ExampleSet
    index: npt.NDArray[np.int64]
    batch_size: int
    name: str

    def __len__(self) -> int:
        return len(self.index)

    def in_memory(self) -> Subset:
        """Return the same examples, in memory and on the CPU."""
        inputs, targets = self.examples.take(self.index)
        held = TensorExamples(inputs.cpu(), targets.cpu())
        return Subset(held, np.arange(len(self.index)), self.batch_size, self.name)

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """Yield inputs and targets on a device, always in the same batches."""
        for start in range(0, len(self.index), self.batch_size):
            inputs, targets = self.examples.take(self.index[start : start + self.batch_size])
            yield inputs.to(device), targets.to(device)


def as_examples(data: Any) -> ExampleSet:
    """Return an example set for a pair of arrays, a torch dataset or an example set.

    ConfigError if the data is none of these, or holds no example.
    """
    examples: ExampleSet
    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(p, "ndim") for p in data):
        inputs, targets = (torch.as_tensor(part) for part in data)
        if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
            raise ConfigError(
                f"data has inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}; "
                "both need one row for each example"
            )
        examples = TensorExamples(inputs, targets)
    elif hasattr(data, "take") and hasattr(data, "__len__"):
        examples = data
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        examples = ItemExamples(data)
    else:
        raise ConfigError(
            f"data is {type(data).__name__}; accepted: (inputs, targets), two tensors over the "
            "examples, or a torch dataset of such pairs"
        )
    if not len(examples):
        raise ConfigError("data holds no example")
    return examples


def draw(data: Any, samples: int | None, seed: int, batch_size: int) -> Subset:
    """Draw a fixed subset: the first `samples` of a permutation by NumPy's PCG64.

    A larger subset contains a smaller one of the same seed. None takes every example.
    """
    examples = as_examples(data)
    count = len(examples)
    if samples is None or samples >= count:
        return Subset(examples, np.arange(count), batch_size, f"all {count} examples")
    index = np.sort(np.random.default_rng(seed).permutation(count)[:samples])
    name = f"{samples} of {count} examples, drawn by NumPy's PCG64 with seed {seed}"
    return Subset(examples, index, batch_size, name)
