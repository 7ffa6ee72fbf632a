"""Training a sub-network: pruned weights are exactly zero, and stay so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ckptlab.errors import LayoutError
from ckptlab.record.state.model_tensors import capture


class Sparsity:
    """Zeroes pruned weights, their gradients and whatever the optimizer remembers of them.

    With all three at zero, momentum and weight decay leave a pruned weight where it is, so that
    nothing has to be zeroed again after an update.

    Parameters
    ----------
    model : Module
        Its parameters are the ones pruned.
    mask : ndarray of bool, shape (param,)
        True keeps; in the order of the parameter vector.

    Raises
    ------
    LayoutError
        If the mask is of another length.
    """

    def __init__(self, model: nn.Module, mask: npt.NDArray[np.bool_]) -> None:
        captured = capture(model)
        if mask.shape != (captured.layout.parameters,):
            raise LayoutError(
                f"the mask has shape {mask.shape}, the model has {captured.layout.parameters} "
                f"parameters; give one bool for each, shape ({captured.layout.parameters},)"
            )
        self.mask = mask
        self._pruned: list[nn.Parameter] = []
        self._kept: list[torch.Tensor] = []
        for tensor, parameter in zip(captured.layout.tensors, captured.parameters, strict=True):
            part = mask[tensor.offset : tensor.offset + tensor.size]
            if part.all():
                continue
            # In the parameter's own strides, or each product would copy.
            kept = torch.ones_like(parameter, requires_grad=False)
            kept.copy_(torch.from_numpy(part.astype(np.float32)).view(tensor.shape))
            self._pruned.append(parameter)
            self._kept.append(kept)

    @torch.no_grad()
    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero pruned weights and the optimizer's state of them, once, before training.

        Parameters
        ----------
        optimizer : Optimizer
            Of the model.
        """
        for parameter, kept in zip(self._pruned, self._kept, strict=True):
            states = optimizer.state.get(parameter, {}).values()
            for value in (parameter, *states):
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    # Not a product, which would leave negative zeros, and NaN as it is.
                    value.masked_fill_(kept == 0, 0)

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights: between backward and the update."""
        found = [
            (parameter.grad, kept)
            for parameter, kept in zip(self._pruned, self._kept, strict=True)
            if parameter.grad is not None
        ]
        if found:
            gradients, kept = zip(*found, strict=True)
            torch._foreach_mul_(list(gradients), list(kept))
