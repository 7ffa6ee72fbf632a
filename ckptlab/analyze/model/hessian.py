"""Multiply the Hessian or the Gauss-Newton matrix of a mean loss onto vectors (curvlinops)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from curvlinops import HessianLinearOperator
from torch.nn.attention import SDPBackend, sdpa_kernel


class ReverseHessian(HessianLinearOperator):
    """Hessian-vector products by reverse mode over reverse mode.

    curvlinops differentiates the gradient in forward mode. In torch that is silently wrong for
    batch, instance and layer norm that use the batch's statistics (pytorch issues 196699, 186256),
    and missing for group norm, attention and some activations; reverse mode is right for all.
    """

    _held: tuple[torch.Tensor, Any] | None = None

    def _graph(self, inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        """Return what a batch needs but once, however many vectors follow.

        Kept where all data are one batch: a graph is as large as what went through the model.
        """
        if self._held is not None and self._held[0] is inputs:
            return self._held[1]
        graph = self._differentiate(inputs, targets)
        if len(self._data) == 1:
            self._held = inputs, graph
        return graph

    def _differentiate(self, inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        loss = self._loss_func(self._model_func(inputs), targets)
        return torch.autograd.grad(loss, self._params, create_graph=True, materialize_grads=True)

    def _matmat_batch(
        self,
        X: torch.Tensor,  # noqa: N803 - named by the base class
        y: torch.Tensor,
        M: list[torch.Tensor],  # noqa: N803
    ) -> list[torch.Tensor]:
        """Multiply the matrix of one batch onto columns, the last axis of each part of `M`."""
        # Fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            graph = self._graph(X, y)
            columns = [
                self._column(graph, [part[..., k] for part in M]) for k in range(M[0].shape[-1])
            ]
        return [torch.stack(parts, dim=-1) for parts in zip(*columns, strict=True)]

    def _column(self, graph: Any, vector: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        # Where the loss is linear in a parameter, the gradient is a constant.
        varying = [i for i, gradient in enumerate(graph) if gradient.requires_grad]
        if not varying:
            return tuple(torch.zeros_like(part) for part in vector)
        return torch.autograd.grad(
            [graph[i] for i in varying],
            self._params,
            [vector[i] for i in varying],
            retain_graph=True,
            materialize_grads=True,
        )


class ReverseGGN(ReverseHessian):
    """Products of the generalized Gauss-Newton matrix Jᵀ (∇² of the loss) J, in reverse mode.

    J v is the derivative of Jᵀ u, which is linear in u: forward mode is not needed.
    """

    def _differentiate(self, inputs: torch.Tensor, targets: torch.Tensor) -> Any:
        outputs = self._model_func(inputs)
        u = torch.zeros_like(outputs, requires_grad=True)
        back = torch.autograd.grad(
            outputs, self._params, u, create_graph=True, materialize_grads=True
        )
        ends = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self._loss_func(ends, targets), ends, create_graph=True)
        return outputs, u, back, ends, slope

    def _column(self, graph: Any, vector: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        outputs, u, back, ends, slope = graph
        if not slope.requires_grad:
            # A loss that is linear in the outputs.
            return tuple(torch.zeros_like(part) for part in vector)
        # Where the outputs do not depend on a parameter, there is nothing to differentiate.
        at = [i for i, part in enumerate(back) if part.requires_grad]
        (moved,) = torch.autograd.grad(
            [back[i] for i in at], u, [vector[i] for i in at], retain_graph=True
        )
        (bent,) = torch.autograd.grad(slope, ends, moved, retain_graph=True)
        return torch.autograd.grad(
            outputs, self._params, bent, retain_graph=True, materialize_grads=True
        )


class Surviving:
    """A matrix over the weights that survive pruning, as curvlinops' estimators take one.

    Vectors are on the CPU, float64 where an estimator makes them; products have the model's own
    `precision`, and the type of the vectors.
    """

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(
        self, operator: Any, kept: npt.NDArray[np.bool_], device: torch.device, dtype: torch.dtype
    ) -> None:
        self._operator, self._kept = operator, torch.from_numpy(kept)
        self._there, self.precision = device, dtype
        size = int(kept.sum())
        self.shape = (size, size)

    def __matmul__(self, matrix: torch.Tensor) -> torch.Tensor:
        """Multiply onto a vector or the columns of a matrix."""
        whole = matrix
        if len(matrix) < len(self._kept):
            whole = torch.zeros((len(self._kept), *matrix.shape[1:]), dtype=matrix.dtype)
            whole[self._kept] = matrix
        image: torch.Tensor = self._operator @ whole.to(self._there, self.precision)
        image = image.detach().to(self.device, matrix.dtype)
        return image if whole is matrix else image[self._kept]
