"""Turn the data that users pass into examples, and draw a fixed subset of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import ConfigError

Index = npt.NDArray[np.int64] | torch.Tensor
"""Which examples, int64 of shape (examples,)."""


class Pair(NamedTuple):
    """Inputs and targets, ready for the model."""

    inputs: torch.Tensor
    targets: torch.Tensor


class Stage(Protocol):
    """Where the batches of some updates come from; `draws` are drawn for each sample and step."""

    @property
    def draws(self) -> tuple[Any, ...]:
        """What is drawn for each sample at each step."""
        ...

    def batch(self, drawn: torch.Tensor, step: int | torch.Tensor) -> Pair:
        """Return the batch of the update from `step`, which may be a number on the device.

        The first row of `drawn`, int64 of shape (1 + draws, batch), are the samples.
        """
        ...


class ExampleSet(Protocol):
    """Inputs and targets, taken by index."""

    def __len__(self) -> int: ...

    def take(self, index: Index) -> Pair:
        """Return some examples, the same at every step."""
        ...

    def at(self, step: int) -> Stage:
        """Return where the batch of the update from `step` comes from."""
        ...


class Examples:
    """Base of the example sets made here: an update sees what `take` returns."""

    on_device = False
    """Whether batches are made on the device alone, without waiting for it."""

    draws: tuple[Any, ...] = ()
    """What is drawn for each sample at each step."""

    def take(self, index: Index) -> Pair:
        """Return some examples, the same at every step."""
        raise NotImplementedError

    def at(self, step: int) -> Stage:  # noqa: ARG002 - the same at every step
        """Return where the batch of the update from `step` comes from."""
        return self

    def batch(self, drawn: torch.Tensor, step: int | torch.Tensor) -> Pair:  # noqa: ARG002
        """Return the batch of the update from `step`."""
        return self.take(drawn[0])

    def to(self, device: torch.device) -> Examples:
        """Return the same examples where the training is, or `self` if they must stay."""
        del device
        return self


@dataclass(frozen=True, slots=True)
class TensorExamples(Examples):
    """Inputs and targets in memory, both of shape (examples, …)."""

    inputs: torch.Tensor
    targets: torch.Tensor

    on_device = True

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: Index) -> Pair:
        """Return inputs and targets of some examples."""
        at = torch.as_tensor(index)
        return Pair(
            self.inputs[at.to(self.inputs.device)], self.targets[at.to(self.targets.device)]
        )

    def to(self, device: torch.device) -> Examples:
        """Return them on a device."""
        return TensorExamples(self.inputs.to(device), self.targets.to(device))


@dataclass(frozen=True, slots=True)
class ItemExamples(Examples):
    """A map-style dataset whose items are pairs of input and target."""

    items: Any

    def __len__(self) -> int:
        return len(self.items)

    def take(self, index: Index) -> Pair:
        """Collate some items."""
        found = torch.utils.data.default_collate([self.items[i] for i in index.tolist()])
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise ConfigError(
                f"items of {type(self.items).__name__} are no pairs of input and target"
            )
        return Pair(*found)


@dataclass(frozen=True, slots=True)
class OwnExamples(Examples):
    """An object of a user's with `take`, and perhaps with a `batch` that augments."""

    own: Any

    def __len__(self) -> int:
        return len(self.own)

    def take(self, index: Index) -> Pair:
        """Return inputs and targets of some examples."""
        return Pair(*self.own.take(np.asarray(torch.as_tensor(index).cpu())))

    def batch(self, drawn: torch.Tensor, step: int | torch.Tensor) -> Pair:
        """Return the batch of the update from `step`, augmented if the object does that."""
        if not hasattr(self.own, "batch"):
            return self.take(drawn[0])
        return Pair(*self.own.batch(drawn[0].cpu().numpy(), int(step)))


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

    def batches(self, device: torch.device) -> Iterator[Pair]:
        """Yield inputs and targets on a device, always in the same batches."""
        for start in range(0, len(self.index), self.batch_size):
            inputs, targets = self.examples.take(self.index[start : start + self.batch_size])
            yield Pair(inputs.to(device), targets.to(device))


def as_examples(data: Any, name: str = "data") -> Examples:
    """Return an example set for a pair of arrays, a torch dataset or an example set.

    ConfigError, which calls it `name`, if the data is none of these or holds no example.
    """
    examples: Any
    if isinstance(data, Examples):
        examples = data
    elif (
        isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(p, "ndim") for p in data)
    ):
        inputs, targets = (torch.as_tensor(part) for part in data)
        if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
            raise ConfigError(
                f"{name} has inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)}; "
                "both need one row for each example"
            )
        examples = TensorExamples(inputs, targets)
    elif hasattr(data, "take") and hasattr(data, "__len__"):
        examples = OwnExamples(data)
    elif (
        hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and not isinstance(data, str | bytes | dict)
    ):
        examples = ItemExamples(data)
    else:
        raise ConfigError(
            f"{name} is {type(data).__name__}; accepted: (inputs, targets), two tensors over the "
            "examples, or a torch dataset of such pairs"
        )
    if not len(examples):
        raise ConfigError(f"{name} holds no example")
    found: Examples = examples
    return found


def draw(data: Any, samples: int | None, seed: int, batch_size: int) -> Subset:
    """Draw a fixed subset: the first `samples` of a permutation by NumPy's PCG64.

    A larger subset contains a smaller one of the same seed. None takes every example.
    """
    examples: Any = as_examples(data)
    count = len(examples)
    if samples is None or samples >= count:
        return Subset(examples, np.arange(count), batch_size, f"all {count} examples")
    index = np.sort(np.random.default_rng(seed).permutation(count)[:samples])
    name = f"{samples} of {count} examples, drawn by NumPy's PCG64 with seed {seed}"
    return Subset(examples, index, batch_size, name)
