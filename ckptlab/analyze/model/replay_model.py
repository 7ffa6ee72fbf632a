"""A model at the recorded steps: what a metric that needs more than the weights is computed on.

The caller's model is copied, never changed.
"""

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

from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.engine.warnings import AnalysisWarning
from ckptlab.analyze.model.examples import Subset
from ckptlab.errors import ConfigError, LayoutError, unknown_name
from ckptlab.record.state.model_tensors import unwrap
from ckptlab.store.format.layout import Buffer, Layout

BATCH_NORM: tuple[str, ...] = ("eval", "train")
"""Statistics batch norm uses: the running ones as recorded, or those of each batch."""

Vectors = dict[str, npt.NDArray[Any]]
"""By array of the run, `weights` and those of buffers: what belongs to one step."""


class MeanLoss(nn.Module):
    """A loss, averaged over the examples of a batch whatever its own reduction.

    Parameters
    ----------
    loss : callable, optional
        ``loss(outputs, targets)``, a mean unless its attribute `reduction` says otherwise, or one
        value an example; cross-entropy by default.
    """

    reduction = "mean"

    def __init__(self, loss: Any = None) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        if not callable(self.loss):
            raise ConfigError(f"loss is {loss!r:.80}; it must be called as loss(outputs, targets)")

    @property
    def name(self) -> str:
        """What it is called."""
        return str(getattr(self.loss, "__name__", type(self.loss).__name__))

    @property
    def is_cross_entropy(self) -> bool:
        """Whether it is minus the log-probability of the target under a softmax."""
        plain = isinstance(self.loss, nn.CrossEntropyLoss) and (
            self.loss.weight is None and not self.loss.label_smoothing
        )
        return plain or self.loss is nn.functional.cross_entropy

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean loss, shape ()."""
        value: torch.Tensor = self.loss(outputs, targets)
        if value.ndim:
            return value.mean()
        return value / len(targets) if getattr(self.loss, "reduction", "") == "sum" else value


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an evaluation found.

    Parameters
    ----------
    loss, accuracy : float
        Means over the examples; the accuracy is NaN where targets are no classes.
    correct : ndarray of bool, shape (examples,)
        Whether each was answered right.
    """

    loss: float
    accuracy: float
    correct: npt.NDArray[np.bool_]


class Problem:
    """A model, its loss, and the snapshots to load into it.

    Parameters
    ----------
    source : Source
        The recording.
    model : Module
        The network that was recorded; a copy of it is used. Dropout and the like are off.
    loss : callable, optional
        As `MeanLoss` takes it.
    batch_norm : str
        One of `BATCH_NORM`.

    Raises
    ------
    LayoutError
        If the model is another than the one recorded, or `source` holds only a part of it.
    """

    def __init__(
        self, source: Source, model: Any, loss: Any = None, *, batch_norm: str = "eval"
    ) -> None:
        if batch_norm not in BATCH_NORM:
            raise unknown_name("value of batch_norm", str(batch_norm), BATCH_NORM)
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model is {type(model).__name__}; it must be a torch.nn.Module")
        self.source = source
        self.loss = MeanLoss(loss)
        self.model = copy.deepcopy(unwrap(model)).eval()
        self._live = _live(self.model)
        require_layout(source, self._live)
        self._set_trainable()
        self.norms = [m for m in self.model.modules() if isinstance(m, _BatchNorm)]
        self.batch_norm = batch_norm if self.norms else "none in the model"
        if batch_norm == "train":
            for norm in self.norms:
                # Without running statistics batch norm takes the batch's own, and updates nothing.
                norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            self._live = _live(self.model)

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
        """Number of elements of `parameters`."""
        return sum(p.numel() for p in self.parameters)

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Positions of the elements of `parameters` in the parameter vector."""
        rows = [self.source.layout[name] for name in self.names]
        return np.concatenate([np.arange(row.offset, row.offset + row.size) for row in rows])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def portable(self) -> Problem:
        """Return a copy that can be sent to another process: its model lies on the CPU."""
        return self._with(copy.deepcopy(self.model).to("cpu"))

    def settled(self, device: str) -> Problem:
        """Return a copy on a type of device, on the CPU where there is none of that type."""
        there = device if device != "cuda" or torch.cuda.is_available() else "cpu"
        return self._with(copy.deepcopy(self.model).to(there))

    def _with(self, model: nn.Module) -> Problem:
        other = copy.copy(self)
        other.model = model
        other.norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
        other._live = _live(model)
        return other

    @torch.no_grad()
    def load(self, vectors: Vectors) -> None:
        """Set parameters and buffers.

        Parameters
        ----------
        vectors : dict of str to ndarray
            As `read_step` gives them.
        """
        held = {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in vectors.items()}
        for row in self.source.layout.rows:
            vector = held.get(row.array if isinstance(row, Buffer) else "weights")
            target = self._live.get(row.name)
            if vector is not None and target is not None:
                part = vector[row.offset : row.offset + row.size]
                target.copy_(part.view(row.shape))

    def load_step(self, column: int) -> None:
        """Set the model to the step at a position among the recorded ones."""
        self.load(read_step(self.source, column))

    def gradient(self, subset: Subset) -> tuple[npt.NDArray[np.float64], float]:
        """Return gradient and value of the mean loss over some examples.

        Parameters
        ----------
        subset : Subset
            The examples.

        Returns
        -------
        gradient : ndarray of float64, shape (param,)
            With respect to `parameters`, flat.
        loss : float
            The mean loss.
        """
        total, value = np.zeros(self.size), 0.0
        for inputs, targets in subset.batches(self.device):
            share = len(targets) / len(subset)
            loss = self.loss(self.model(inputs), targets)
            parts = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            filled = [
                torch.zeros_like(p) if g is None else g
                for g, p in zip(parts, self.parameters, strict=True)
            ]
            total += share * torch.cat([g.reshape(-1) for g in filled]).double().cpu().numpy()
            value += share * float(loss.detach())
        return total, value

    @torch.no_grad()
    def evaluate(self, subset: Subset) -> Evaluated:
        """Return loss and accuracy on some examples.

        Parameters
        ----------
        subset : Subset
            The examples.

        Returns
        -------
        Evaluated
            Means, and the verdict on each example.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = []
        for inputs, targets in subset.batches(self.device):
            outputs = self.model(inputs)
            outputs = outputs.float() if outputs.dtype in (torch.bfloat16, torch.half) else outputs
            total += len(targets) * self.loss(outputs, targets).double()
            if _are_classes(outputs, targets):
                correct.append(outputs.argmax(1) == targets)
        right = torch.cat(correct).cpu().numpy() if correct else np.zeros(0, bool)
        accuracy = float(right.mean()) if len(right) else float("nan")
        return Evaluated(float(total) / len(subset), accuracy, right)

    @torch.no_grad()
    def outputs(self, subset: Subset) -> int:
        """Return the number of outputs of the model: its number of classes."""
        inputs, _ = subset.examples.take(subset.index[:2])
        result = self.model(inputs.to(self.device))
        return int(result.shape[1]) if result.ndim > 1 else 1

    def _set_trainable(self) -> None:
        rows = {row.name: row for row in self.source.layout.tensors}
        unrecorded = []
        for name, parameter in self.model.named_parameters():
            if name not in rows and parameter.requires_grad:
                unrecorded.append(name)
            parameter.requires_grad_(name in rows and rows[name].trainable)
        if unrecorded:
            warnings.warn(
                f"{self.source.path} holds no {', '.join(unrecorded)}; they stay as they are in "
                "the model at every step, and are not differentiated",
                AnalysisWarning,
                stacklevel=5,
            )
        if not self.parameters:
            raise LayoutError(f"{self.source.path} recorded no parameter that is trained")


def read_step(source: Source, column: int) -> Vectors:
    """Read what was recorded at one step.

    Parameters
    ----------
    source : Source
        The recording.
    column : int
        Position among the recorded steps.

    Returns
    -------
    dict of str to ndarray
        The parameter vector and the buffer vectors.
    """
    arrays = ["weights", *(a for a in source.layout.buffer_sizes if source.has(a))]
    return {name: source.column(name, column) for name in arrays}


def require_layout(source: Source, live: dict[str, torch.Tensor]) -> None:
    """Raise unless a model holds every tensor that a run recorded.

    Parameters
    ----------
    source : Source
        The recording.
    live : dict of str to Tensor
        Parameters and buffers of the model.

    Raises
    ------
    LayoutError
        If one is missing or of another shape, or `source` holds a part of the parameters only.
    """
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


def require_same_tensors(one: Layout, other: Layout, names: tuple[str, str]) -> None:
    """Raise LayoutError, naming the first difference, unless two runs are of the same model."""
    rows = [{row.name: (row.shape, row.offset) for row in layout.rows} for layout in (one, other)]
    for name in {**rows[0], **rows[1]}:
        found = [table.get(name) for table in rows]
        if found[0] != found[1]:
            first, second = ("missing" if f is None else f"{f[0]} at {f[1]}" for f in found)
            raise LayoutError(
                f"{names[0]} and {names[1]} are not of the same model: {name!r} is {first} in the "
                f"one and {second} in the other; take runs of one model"
            )


def _live(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _are_classes(outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    return outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point()
