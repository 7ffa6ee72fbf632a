"""Train a sub-network: pruned weights are exactly zero, and stay so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ckptlab.errors import LayoutError
from ckptlab.record.state.model_tensors import capture


class Sparsity:
    """Zeroes pruned weights, their gradients and the optimizer's state of them.

    With all three at zero, momentum and weight decay leave a pruned weight where it is, so that
    nothing has to be zeroed after an update. `mask`, bool of shape (param,), keeps where it is
    True; LayoutError if it has another length.
    """

    def __init__(self, model: nn.Module, mask: npt.NDArray[np.bool_]) -> None:
        captured = capture(model)
        if mask.shape != (captured.layout.parameters,):
            raise LayoutError(
                f"the mask has shape {mask.shape}, the model has {captured.layout.parameters} "
                f"parameters; give one bool for each, shape ({captured.layout.parameters},)"
            )
        self.mask = mask
        self._pruned: list[tuple[nn.Parameter, torch.Tensor]] = []
        parts = captured.layout.split({"weights": mask}).values()
        for part, parameter in zip(parts, captured.parameters, strict=True):
            if part.all():
                continue
            # In the parameter's own strides, or each assignment would copy.
            pruned = torch.empty_like(parameter, dtype=torch.bool, requires_grad=False)
            pruned.copy_(torch.from_numpy(~part))
            self._pruned.append((parameter, pruned))

    @torch.no_grad()
    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero pruned weights and the optimizer's state of them, once, before training."""
        for parameter, pruned in self._pruned:
            states = optimizer.state.get(parameter, {}).values()
            for value in (parameter, *states):
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(pruned, 0)

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights: between backward and the update."""
        for parameter, pruned in self._pruned:
            if parameter.grad is not None:
                # Not a product: infinity times zero is NaN, in a run that diverges.
                parameter.grad.masked_fill_(pruned, 0)
