"""Copy gradients and measure their norms by tensor, without waiting for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.record.pipeline.buffers import BY_TENSOR, BlockBuffer
from ckptlab.record.pipeline.flatten import norms_at
from ckptlab.record.state.model_tensors import Capture


class GradientNorms:
    """Write the L2 norm and mean absolute value of every recorded parameter's gradient."""

    def __init__(self, parameters: Sequence[torch.Tensor]) -> None:
        self._parameters = parameters
        device = parameters[0].device
        # On the device once: copying them there at every step would wait for it.
        self._sizes = torch.tensor([max(p.numel(), 1) for p in parameters], dtype=torch.float32)
        self._sizes = self._sizes.to(device)
        self._on_cpu = device.type == "cpu"
        self._lengths = np.array([p.numel() for p in parameters], np.int64)
        self._chosen: dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def write(self, norm: torch.Tensor, mean_abs: torch.Tensor) -> bool:
        """Write both, shape (tensor,) each, NaN where there is no gradient; return if any is."""
        if self._on_cpu and (addresses := self._addresses()) is not None:
            norms_at(addresses, self._lengths, norm.numpy(), mean_abs.numpy())
            return True
        gradients = [_values(p.grad) for p in self._parameters if p.grad is not None]
        if len(gradients) == len(self._parameters):
            torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32), out=norm)
            torch.stack(torch._foreach_norm(gradients, 1, dtype=torch.float32), out=mean_abs)
            mean_abs.div_(self._sizes)
            return True
        norm.fill_(torch.nan)
        mean_abs.fill_(torch.nan)
        if not gradients:
            return False
        index, sizes = self._index()
        two = torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32))
        one = torch.stack(torch._foreach_norm(gradients, 1, dtype=torch.float32))
        norm.index_copy_(0, index, two)
        mean_abs.index_copy_(0, index, one / sizes)
        return True

    def _addresses(self) -> npt.NDArray[np.uintp] | None:
        """Return where the gradients lie; None unless each is float32 in one piece of memory."""
        addresses = []
        for parameter in self._parameters:
            gradient = parameter.grad
            if (
                gradient is None
                or gradient.dtype != torch.float32
                or gradient.layout != torch.strided
                # In whatever order: it is summed over.
                or not (
                    gradient.is_contiguous()
                    or gradient.is_contiguous(memory_format=torch.channels_last)
                )
            ):
                return None
            addresses.append(gradient.data_ptr())
        return np.array(addresses, np.uintp)

    def _index(self) -> tuple[torch.Tensor, torch.Tensor]:
        present = tuple(i for i, p in enumerate(self._parameters) if p.grad is not None)
        if present not in self._chosen:
            index = torch.tensor(present, device=self._sizes.device)
            self._chosen[present] = index, self._sizes[index]
        return self._chosen[present]


class Gradients:
    """Record gradients and their norms: of all parameters, or of those that one optimizer trains.

    The norms of one alone are those of all, also where it trains some.
    """

    def __init__(
        self,
        captured: Capture,
        optimizers: Mapping[str, torch.optim.Optimizer],
    ) -> None:
        parameters = self._parameters = captured.tensors
        self._all = GradientNorms(parameters)
        self._parts: dict[str, tuple[list[int], torch.Tensor, GradientNorms]] = {}
        for name, optimizer in optimizers.items() if len(optimizers) > 1 else ():
            trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
            own = [i for i, parameter in enumerate(captured.parameters) if id(parameter) in trained]
            index = torch.tensor(own, device=parameters[0].device)
            self._parts[name] = own, index, GradientNorms([parameters[i] for i in own])

    def record(self, buffer: BlockBuffer, slot: int, optimizer: str | None = None) -> bool:
        """Write those of all, or of one of several optimizers; return whether there are any."""
        norm, mean = (buffer.rows[name][slot] for name in BY_TENSOR)
        places = buffer.views["gradients"][slot] if "gradients" in buffer.views else None
        if optimizer not in self._parts:
            if places is not None:
                write_gradients(self._parameters, places)
            return self._all.write(norm, mean)
        own, index, norms = self._parts[optimizer]
        parts = torch.empty((2, len(own)), device=index.device)
        found = norms.write(*parts)
        norm.index_copy_(0, index, parts[0])
        mean.index_copy_(0, index, parts[1])
        if places is not None:
            write_gradients([self._parameters[i] for i in own], [places[i] for i in own])
        return found

    def leave_out(self, buffer: BlockBuffer, slot: int) -> None:
        """Write NaN, of which the gradients of each optimizer may then replace its own."""
        for name in (*BY_TENSOR, "gradients"):
            if name in buffer.rows:
                buffer.rows[name][slot].fill_(torch.nan)


def write_gradients(
    parameters: Sequence[torch.Tensor], destinations: Sequence[torch.Tensor]
) -> None:
    """Copy every gradient to its place; NaN where there is none."""
    places, gradients = [], []
    for parameter, place in zip(parameters, destinations, strict=True):
        if parameter.grad is None:
            place.fill_(torch.nan)
        else:
            places.append(place)
            sparse = parameter.grad.is_sparse
            gradients.append(parameter.grad.to_dense() if sparse else parameter.grad)
    if places:
        torch._foreach_copy_(places, gradients)


def writes_into_gradients(optimizer: torch.optim.Optimizer | None) -> bool:
    """Return whether the optimizer's update leaves something else in `grad` than it found there."""
    groups = [] if optimizer is None else optimizer.param_groups
    if isinstance(optimizer, torch.optim.SGD):
        return any(g["nesterov"] and not g["weight_decay"] and not g["maximize"] for g in groups)
    return isinstance(optimizer, torch.optim.Rprop)


def _values(gradient: torch.Tensor) -> torch.Tensor:
    # The norm of a sparse gradient is that of its values.
    return gradient.coalesce().values() if gradient.is_sparse else gradient
