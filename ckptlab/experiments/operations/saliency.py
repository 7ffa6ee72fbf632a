"""Compute what pruning before training scores weights by: gradients, curvature, synaptic flow.

References
----------
Lee, Ajanthan & Torr (2019), arXiv:1810.02340; Wang, Zhang & Grosse (2020), arXiv:2002.07376;
Tanaka, Kunin, Yamins & Ganguli (2020), arXiv:2006.05467.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from ckptlab.errors import ConfigError
from ckptlab.experiments.operations.pruning import Mask
from ckptlab.problems.examples import draw
from ckptlab.problems.problem import Problem
from ckptlab.record.state.model_tensors import capture
from ckptlab.run import Run
from ckptlab.store.read.reader import StoredRun
from ckptlab.train.config import Config
from ckptlab.train.models.build import build_model
from ckptlab.train.numerics import numerics, resolve_device

SAMPLES = 512
"""Training examples that gradients are means over: a fixed subset of them, not augmented."""

Vector = npt.NDArray[np.float64]


class Saliency:
    """Derivatives at one step of a run, under a mask, over all parameters: shape (param,).

    Batch norm uses the statistics of each batch, as in training.
    """

    def __init__(self, stored: StoredRun, step: int, problem: Problem, config: Config) -> None:
        self._problem, self._config = problem, config
        self._device = resolve_device(config.train)
        self._state = Run(stored).state_dict(step)

    def gradient(self, kept: Mask) -> Vector:
        """Return the gradient of the mean loss."""
        model = self._model(kept)
        with numerics(self._config.train, self._device):
            return _flat(self._gradient(model))

    def hessian_gradient(self, kept: Mask) -> Vector:
        """Return the Hessian of the mean loss times its gradient."""
        model = self._model(kept)
        parameters = list(model.parameters())
        total = [torch.zeros_like(p) for p in parameters]
        # Fused attention has no second derivative.
        with numerics(self._config.train, self._device), sdpa_kernel(SDPBackend.MATH):
            direction = self._gradient(model)
            for share, loss in self._losses(model):
                first = torch.autograd.grad(
                    loss, parameters, create_graph=True, materialize_grads=True
                )
                along = sum((a * b).sum() for a, b in zip(first, direction, strict=True))
                if isinstance(along, torch.Tensor) and along.requires_grad:
                    second = torch.autograd.grad(along, parameters, materialize_grads=True)
                    torch._foreach_add_(total, second, alpha=share)
        return _flat(total)

    def flow(self, kept: Mask) -> Vector:
        """Return ∂R/∂|w| of R, the sum of outputs of the network with |w| on inputs of ones.

        Batch norm normalises nothing there. Whole-number inputs, such as tokens, are those of the
        first training example.
        """
        model = self._model(kept).double().eval()
        for norm in (m for m in model.modules() if isinstance(m, _BatchNorm)):
            norm.reset_running_stats()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.abs_()
        inputs, _ = self._problem.train.take(torch.arange(1))
        inputs = inputs.to(self._device)
        if inputs.is_floating_point():
            inputs = torch.ones_like(inputs, dtype=torch.float64)
        with numerics(self._config.train, self._device):
            outputs = model(inputs)
            if not isinstance(outputs, torch.Tensor):
                raise ConfigError(
                    f"synaptic flow needs a model that returns a tensor, not a "
                    f"{type(outputs).__name__}; choose another criterion"
                )
            parts = torch.autograd.grad(
                outputs.sum(), list(model.parameters()), allow_unused=True, materialize_grads=True
            )
        return _flat(parts)

    def _model(self, kept: Mask) -> nn.Module:
        """Return the model at the step, pruned weights at zero."""
        model = build_model(self._problem.model, 0)
        model.load_state_dict(self._state)
        captured = capture(model)
        parts = captured.layout.split({"weights": kept}).values()
        with torch.no_grad():
            for part, parameter in zip(parts, captured.parameters, strict=True):
                parameter[torch.from_numpy(~part)] = 0
        return model.to(self._device)

    def _gradient(self, model: nn.Module) -> list[torch.Tensor]:
        parameters = list(model.parameters())
        total = [torch.zeros_like(p) for p in parameters]
        for share, loss in self._losses(model):
            parts = torch.autograd.grad(loss, parameters, materialize_grads=True, allow_unused=True)
            torch._foreach_add_(total, parts, alpha=share)
        return total

    def _losses(self, model: nn.Module) -> Any:
        """Yield each batch's share of the examples, and its mean loss."""
        subset = draw(self._problem.train, SAMPLES, 0, self._config.train.batch_size)
        for inputs, targets in subset.batches(self._device):
            yield len(targets) / len(subset), self._problem.mean_loss(model(inputs), targets)


def _flat(parts: Sequence[torch.Tensor]) -> Vector:
    joined = torch.cat([part.detach().double().reshape(-1) for part in parts])
    vector: Vector = joined.cpu().numpy()
    return vector
