"""Load recorded steps into a copy of the model, and evaluate or differentiate it there."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ckptlab.analyze.engine.masks import Mask, surviving
from ckptlab.analyze.engine.selection import Selection, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.engine.warnings import AnalysisWarning
from ckptlab.errors import ConfigError, LayoutError, spell, unknown_name
from ckptlab.problems.examples import Subset
from ckptlab.problems.scores import Accuracy, MeanLoss, class_axis, each, right_answers, widened
from ckptlab.record.state.naming import unwrap
from ckptlab.store.format.layout import Layout

BATCH_NORM: tuple[str, ...] = ("train", "eval")
"""Statistics that batch norm uses: those of each batch, as in training, or the recorded ones."""

Vectors = dict[str, npt.NDArray[Any]]
"""One step of a run by array name: the parameter vector `weights`, and the buffer vectors."""


@dataclass(frozen=True, slots=True)
class ExampleScores:
    """Mean loss and accuracy over some examples, and whether each was right.

    Where the accuracy says neither right nor wrong of single examples, `correct` is empty.
    """

    loss: float
    accuracy: float
    correct: npt.NDArray[np.bool_]


class ReplayModel:
    """A copy of the recorded model into which steps of the run are loaded.

    Dropout is off. Only parameters that were trained are differentiated, and of those only the
    weights that survive pruning: `mask` (as `load_mask` takes it) and the run's own mask.

    Raises
    ------
    LayoutError
        If the model is not the one recorded, `source` holds only part of the parameters, or
        nothing is left to differentiate.
    """

    def __init__(
        self,
        source: Source,
        model: Any,
        loss: Any = None,
        *,
        batch_norm: str = "eval",
        mask: Any = None,
    ) -> None:
        if batch_norm not in BATCH_NORM:
            raise unknown_name(f"value of {spell('batch_norm')}", str(batch_norm), BATCH_NORM)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model is {type(model).__name__}; it must be a torch.nn.Module")
        self.source = source
        self.loss = MeanLoss(loss)
        self.model = copy.deepcopy(unwrap(model)).eval()
        self._live = _live(self.model)
        _require_layout(source, self._live)
        self._freeze_untrained()
        self.norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        self.batch_norm = batch_norm if self.norms else "none in the model"
        if batch_norm == "train":
            for norm in self.norms:
                # Without running statistics batch norm uses the batch's and updates nothing.
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            self._live = _live(self.model)
        rows = [source.layout[name] for name in self.names]
        trained = np.concatenate([np.arange(row.offset, row.offset + row.size) for row in rows])
        survivors = surviving(source, mask)
        self.mask = None if survivors is None else survivors.label
        self.kept = np.ones(len(trained), bool) if survivors is None else survivors.values[trained]
        self.positions = trained[self.kept]
        if not len(self.positions):
            raise LayoutError(f"mask {self.mask!r} keeps no trained parameter of {source.path}")

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The recorded parameters that are trained, in order."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def names(self) -> list[str]:
        """Names of `parameters`."""
        return [name for name, p in self.model.named_parameters() if p.requires_grad]

    @property
    def size(self) -> int:
        """Number of weights that are differentiated: trained and not pruned."""
        return len(self.positions)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def precision(self) -> str:
        """Data type of convolutions and matrix products."""
        device = self.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return str(low or self.parameters[0].dtype).removeprefix("torch.")

    def describe(self, subset: Subset) -> dict[str, Any]:
        """Return how a number was made, for the attributes of a result."""
        over = {
            "train": f"statistics of each batch of {subset.batch_size}, as in training",
            "eval": "running statistics as recorded",
        }
        about = {
            "data": subset.name,
            "batch_size": subset.batch_size,
            "batch_norm": self.batch_norm,
            "batch_norm_statistics": over.get(self.batch_norm),
            "loss": self.loss.name,
            "precision": self.precision,
            "mask": self.mask,
        }
        return {key: value for key, value in about.items() if value is not None}

    def to(self, device: str) -> ReplayModel:
        """Return a copy on a type of device, on the CPU where there is none of that type."""
        there = device if device != "cuda" or torch.cuda.is_available() else "cpu"
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model).to(there)
        other.norms = [m for m in other.model.modules() if isinstance(m, _BatchNorm)]
        other._live = _live(other.model)
        return other

    @torch.no_grad()
    def load(self, vectors: Vectors) -> None:
        """Set parameters and buffers; arrays that `vectors` lacks keep their values."""
        for name, part in self.source.layout.split(vectors).items():
            target = self._live.get(name)
            if target is not None:
                target.copy_(torch.from_numpy(np.ascontiguousarray(part)).view(part.shape))
        # Autocast keeps low-precision copies of weights, and would go on using those of the step
        # before as long as any autocast context is open.
        torch.clear_autocast_cache()

    def load_step(self, column: int) -> None:
        """Load the step at a position among the recorded ones."""
        self.load(read_step(self.source, column))

    def flat(self, parts: Any) -> torch.Tensor:
        """Join one tensor per parameter and take the weights that are differentiated."""
        joined = torch.cat([part.reshape(-1) for part in parts])
        return joined if self.kept.all() else joined[torch.from_numpy(self.kept).to(joined.device)]

    def gradient(self, subset: Subset) -> tuple[npt.NDArray[np.float64], float]:
        """Return the gradient of the mean loss, at `positions` in float64, and the loss."""
        total, value = np.zeros(self.size), 0.0
        for inputs, targets in subset.batches(self.device):
            share = len(targets) / len(subset)
            loss = self.loss(self.model(inputs), targets)
            parts = torch.autograd.grad(
                loss, self.parameters, allow_unused=True, materialize_grads=True
            )
            total += share * self.flat(parts).double().cpu().numpy()
            value += share * float(loss.detach())
        return total, value

    @torch.no_grad()
    def evaluate(self, subset: Subset, accuracy: Accuracy = right_answers) -> ExampleScores:
        """Return loss and accuracy on some examples."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        scores, flags = [], True
        for inputs, targets in subset.batches(self.device):
            outputs = widened(self.model(inputs))
            total += len(targets) * self.loss(outputs, targets).double()
            values = accuracy(outputs, targets)
            flags = flags and values.dtype == torch.bool and values.ndim == 1
            scores.append(each(values, len(targets)))
        right = torch.cat(scores).cpu().numpy()
        correct = right.astype(bool) if flags else np.zeros(0, bool)
        return ExampleScores(float(total) / len(subset), float(right.mean()), correct)

    @torch.no_grad()
    def outputs(self, subset: Subset) -> int:
        """Return the number of outputs of the model: its classes, or tokens of its vocabulary."""
        inputs, targets = subset.examples.take(subset.index[:2])
        result = self.model(inputs.to(self.device))
        axis = class_axis(result, targets)
        if axis is None:
            axis = 1 if result.ndim == 2 else -1
        return int(result.shape[axis]) if result.ndim > 1 else 1

    def _freeze_untrained(self) -> None:
        rows = {row.name: row for row in self.source.layout.tensors}
        unrecorded = []
        for name, parameter in self.model.named_parameters():
            if name not in rows and parameter.requires_grad:
                unrecorded.append(name)
            parameter.requires_grad_(name in rows and rows[name].trainable)
        if unrecorded:
            warnings.warn(
                f"{self.source.path} holds no {', '.join(unrecorded)}; they keep the model's "
                "values at every step and are not differentiated",
                AnalysisWarning,
                stacklevel=5,
            )
        if not self.parameters:
            raise LayoutError(f"{self.source.path} recorded no parameter that is trained")


def select_trained(
    model: ReplayModel, *, steps: Any, by: str, kinds: Any, mask: Mask | None
) -> tuple[Selection, npt.NDArray[np.int32]]:
    """Select steps and weights; returns the group of each differentiated weight too, or −1.

    LayoutError if no trained parameter is of `kinds`; None stands for all.
    """
    kinds = "all" if kinds is None else kinds
    selection = select(model.source, steps=steps, by=by, kinds=kinds, mask=mask)
    group = selection.group[model.positions]
    if (group < 0).all():
        raise LayoutError(f"no trained parameter is of kinds {','.join(selection.kinds)}")
    return selection, group


def read_step(source: Source, column: int) -> Vectors:
    """Read the parameter vector and the buffer vectors at a position among the recorded steps."""
    arrays = ["weights", *(a for a in source.layout.buffer_sizes if source.has(a))]
    return {name: source.column(name, column) for name in arrays}


def require_same_tensors(one: Layout, other: Layout, names: tuple[str, str]) -> None:
    """Raise LayoutError, naming the first difference, unless two runs are of the same model."""
    difference = one.difference(other, dtypes=False)
    if difference is not None:
        name, first, second = difference
        raise LayoutError(
            f"{names[0]} and {names[1]} are not of the same model: {name!r} is "
            f"{first} in the one and {second} in the other; take runs of one model"
        )


def _require_layout(source: Source, live: dict[str, torch.Tensor]) -> None:
    """Raise unless the model holds every tensor of the run, and `source` all of the run."""
    if len(source.tensor_index) != source.layout.parameters:
        raise LayoutError("the dataset holds some of the parameters only; pass the whole run")
    for row in source.layout.rows:
        tensor = live.get(row.name)
        if tensor is None or tuple(tensor.shape) != row.shape:
            found = "none of that name" if tensor is None else str(tuple(tensor.shape))
            raise LayoutError(
                f"{source.path} recorded {row.name!r} {row.shape}, the model has {found}; pass the "
                "model that was recorded"
            )


def _live(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
