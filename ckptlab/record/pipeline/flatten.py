"""Flatten live tensors into rows; on the CPU without torch's thread pool.

torch copies and reduces every tensor above a few thousand elements on all threads and waits for
the slowest; while another thread compresses, that wait costs more than the copy. One thread moves
a megabyte in a tenth of a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from numba import types
from numba.extending import intrinsic


class Flattener:
    """Copy `tensors`, one after the other in C order, into a row.

    Others of the same form may be set. `on_move` is called whenever one lies elsewhere than before.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor], on_move: Callable[[], None] | None = None
    ) -> None:
        self.tensors = list(tensors)
        self._on_move = on_move
        self._on_cpu = all(t.device.type == "cpu" for t in tensors)
        self._pointers: list[int] | None = None
        self._flat: list[npt.NDArray[Any]] = []

    def copy(self, row: torch.Tensor, views: list[torch.Tensor]) -> None:
        """Copy into `row`, of which `views` are the stretches in the tensors' shapes."""
        pointers = [tensor.data_ptr() for tensor in self.tensors]
        if pointers != self._pointers:
            if self._on_move is not None:
                self._on_move()
            self._pointers, self._flat = pointers, self._flatten(row.dtype)
        if self._flat:
            np.concatenate(self._flat, out=row.numpy())
        else:
            torch._foreach_copy_(views, self.tensors, non_blocking=True)

    def _flatten(self, dtype: torch.dtype) -> list[npt.NDArray[Any]]:
        """View every tensor as a vector; an empty list if one cannot be viewed so."""
        if not self._on_cpu or any(t.dtype != dtype or not t.is_contiguous() for t in self.tensors):
            return []
        return [tensor.detach().view(-1).numpy() for tensor in self.tensors]


def _make_pointer(typing: Any, address: Any) -> Any:
    """Make an address, a uintp, the pointer that `numba.carray` takes."""
    del typing, address

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.uintp), generate


_pointer: Any = intrinsic(_make_pointer)
_array_at: Any = vars(numba)["carray"]


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def norms_at(
    addresses: npt.NDArray[np.uintp],
    sizes: npt.NDArray[np.int64],
    norm: npt.NDArray[np.float32],
    mean_abs: npt.NDArray[np.float32],
) -> None:
    """Write L2 norm and mean absolute value of float32 vectors at addresses, summed in float64.

    All four arrays have shape (tensor,); `sizes` counts elements.
    """
    for t in range(len(sizes)):
        values = _array_at(_pointer(addresses[t]), sizes[t], np.float32)
        squares = 0.0
        magnitudes = 0.0
        for i in range(sizes[t]):
            value = np.float64(values[i])
            squares += value * value
            magnitudes += abs(value)
        norm[t] = math.sqrt(squares)
        mean_abs[t] = magnitudes / max(sizes[t], 1)
