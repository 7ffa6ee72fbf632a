"""Multiply the Hessian of a mean loss onto vectors (Hessian-vector products, curvlinops)."""

from __future__ import annotations

import torch
from curvlinops import HessianLinearOperator
from torch.nn.attention import SDPBackend, sdpa_kernel


class ReverseHessian(HessianLinearOperator):
    """Hessian-vector products by reverse mode over reverse mode.

    curvlinops differentiates the gradient in forward mode. In torch that is silently wrong for
    batch, instance and layer norm that use the batch's statistics (pytorch issues 196699, 186256),
    and missing for group norm, attention and some activations; reverse mode is right for all.
    """

    def _matmat_batch(
        self,
        X: torch.Tensor,  # noqa: N803 - named by the base class
        y: torch.Tensor,
        M: list[torch.Tensor],  # noqa: N803
    ) -> list[torch.Tensor]:
        """Multiply the Hessian of one batch onto columns, the last axis of each part of `M`."""
        # Fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss = self._loss_func(self._model_func(X), y)
            first = torch.autograd.grad(
                loss, self._params, create_graph=True, materialize_grads=True
            )
            # Where the loss is linear in a parameter, the gradient is a constant.
            varying = [i for i, gradient in enumerate(first) if gradient.requires_grad]
            if not varying:
                return [torch.zeros_like(part) for part in M]
            columns = [
                torch.autograd.grad(
                    [first[i] for i in varying],
                    self._params,
                    [M[i][..., k] for i in varying],
                    retain_graph=True,
                    materialize_grads=True,
                )
                for k in range(M[0].shape[-1])
            ]
        return [torch.stack(parts, dim=-1) for parts in zip(*columns, strict=True)]
