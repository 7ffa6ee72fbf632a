"""The data that a metric of a model is measured on: what users pass, and a fixed subset of it."""

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

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def take(self, index: npt.NDArray[np.int64]) -> Batch:
        """Return inputs and targets of some of them, ready for the model."""
        ...


@dataclass(frozen=True, slots=True)
class TensorExamples:
    """Examples in memory.

    Parameters
    ----------
    inputs, targets : Tensor, shape (examples, …)
        What the model takes, and what the loss compares its output with.
    """

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: npt.NDArray[np.int64]) -> Batch:
        """Return some of them."""
        at = torch.from_numpy(index)
        return (
            self.inputs[at.to(self.inputs.device)],
            self.targets[at.to(self.targets.device)],
        )


@dataclass(frozen=True, slots=True)
class ItemExamples:
    """A map-style dataset, whose items are pairs of input and target.

    Parameters
    ----------
    items : Dataset
        With ``len`` and indexing.
    """

    items: Any

    def __len__(self) -> int:
        return len(self.items)

    def take(self, index: npt.NDArray[np.int64]) -> Batch:
        """Collate some of them."""
        batch = torch.utils.data.default_collate([self.items[int(i)] for i in index])
        return batch[0], batch[1]


@dataclass(frozen=True, slots=True)
class Subset:
    """The examples a measurement is made on.

    Parameters
    ----------
    examples : ExampleSet
        All there are.
    index : ndarray of int64
        Which of them, increasing.
    batch_size : int
        How many go through the model at once.
    name : str
        What they are, for the attributes of results.
    """

    examples: ExampleSet
    index: npt.NDArray[np.int64]
    batch_size: int
    name: str

    def __len__(self) -> int:
        return len(self.index)

    def held(self) -> Subset:
        """Return the same examples, in memory and on the CPU."""
        inputs, targets = self.examples.take(self.index)
        held = TensorExamples(inputs.cpu(), targets.cpu())
        return Subset(held, np.arange(len(self.index)), self.batch_size, self.name)

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """Yield batches, always the same ones.

        Parameters
        ----------
        device : device
            Where the model is.

        Yields
        ------
        tuple of Tensor
            Inputs and targets.
        """
        for start in range(0, len(self.index), self.batch_size):
            inputs, targets = self.examples.take(self.index[start : start + self.batch_size])
            yield inputs.to(device), targets.to(device)


def as_examples(data: Any) -> ExampleSet:
    """Take what users pass as data.

    Parameters
    ----------
    data : (inputs, targets), Dataset or ExampleSet
        A pair of tensors or arrays over the examples, a map-style torch dataset of pairs, or
        anything with ``len`` and ``take(index)``.

    Returns
    -------
    ExampleSet
        The same examples.

    Raises
    ------
    ConfigError
        If it is none of these, or holds no example.
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


def whole(data: Any, batch_size: int) -> Subset:
    """Take every example; see `draw`."""
    examples = as_examples(data)
    count = len(examples)
    return Subset(examples, np.arange(count), batch_size, f"all {count} examples")


def draw(data: Any, samples: int, seed: int, batch_size: int) -> Subset:
    """Draw a fixed subset.

    Parameters
    ----------
    data : object
        As `as_examples` takes it.
    samples : int
        How many; all of them if there are no more.
    seed : int
        Of NumPy's PCG64: the first of a permutation, so that a larger subset holds a smaller one.
    batch_size : int
        How many go through the model at once.

    Returns
    -------
    Subset
        In increasing order.
    """
    examples = as_examples(data)
    count = len(examples)
    if samples >= count:
        return whole(data, batch_size)
    index = np.sort(np.random.default_rng(seed).permutation(count)[:samples])
    name = f"{samples} of {count} examples, drawn by NumPy's PCG64 with seed {seed}"
    return Subset(examples, index, batch_size, name)
