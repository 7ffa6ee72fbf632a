"""Flattening live tensors into rows on the CPU, without torch's thread pool.

Imports nothing of ckptlab. torch copies and reduces every tensor above a few thousand elements on
all threads and waits for the slowest; while another thread compresses, that wait costs more than
the copy. One thread moves a megabyte in a tenth of a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch


class Gather:
    """Copies tensors, one after the other in C order, into a row.

    Parameters
    ----------
    tensors : sequence of Tensor
        Live ones; what they hold when called is copied. Others of the same form may be set.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.tensors = list(tensors)
        self._on_cpu = all(t.device.type == "cpu" for t in tensors)
        self._pointers: list[int] = []
        self._flat: list[npt.NDArray[Any]] | None = None

    def copy(self, row: torch.Tensor, views: list[torch.Tensor]) -> None:
        """Copy into `row`, of which `views` are the stretches in the tensors' shapes."""
        pointers = [tensor.data_ptr() for tensor in self.tensors] if self._on_cpu else []
        if pointers != self._pointers or self._flat is None:
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


def gather_gradients(
    parameters: Sequence[torch.nn.Parameter], row: npt.NDArray[np.float32]
) -> bool:
    """Copy all gradients, flattened, into a row.

    Parameters
    ----------
    parameters : sequence of Parameter
        On the CPU.
    row : ndarray, shape (param,)
        Written.

    Returns
    -------
    bool
        False, and nothing is written, if one is missing, sparse or not float32.
    """
    flat = []
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None or gradient.dtype != torch.float32 or gradient.is_sparse:
            return False
        flat.append(gradient.detach().reshape(-1).numpy())
    np.concatenate(flat, out=row)
    return True


@numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
def segment_norms(
    row: npt.NDArray[np.float32],
    offsets: npt.NDArray[np.int64],
    norm: npt.NDArray[np.float32],
    mean_abs: npt.NDArray[np.float32],
) -> None:
    """Write L2 norm and mean absolute value of every stretch of a row, summed in float64.

    Parameters
    ----------
    row : ndarray of float32, shape (param,)
        All stretches, one after the other.
    offsets : ndarray of int64, shape (tensor + 1,)
        Where each starts, and the end.
    norm, mean_abs : ndarray of float32, shape (tensor,)
        Written.
    """
    for t in range(len(offsets) - 1):
        squares = 0.0
        magnitudes = 0.0
        for i in range(offsets[t], offsets[t + 1]):
            value = np.float64(row[i])
            squares += value * value
            magnitudes += abs(value)
        norm[t] = math.sqrt(squares)
        mean_abs[t] = magnitudes / max(offsets[t + 1] - offsets[t], 1)
