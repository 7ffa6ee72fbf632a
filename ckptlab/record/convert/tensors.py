"""Tensors of a checkpoint that are read a stretch at a time, whatever file they lie in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ckptlab.errors import DataError

Array: TypeAlias = npt.NDArray[Any]

UNFINISHED = "unfinished"
"""`problem` of an error: a checkpoint is not written to its end."""

NUMPY: dict[str, str] = {
    **{name: name for name in ("float64", "float32", "float16", "bool")},
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bfloat16": "uint16",
    "complex64": "complex64",
    "complex128": "complex128",
}
"""The NumPy type in which elements of a type are handed over: bfloat16 as its 16 bits."""


@dataclass(eq=False, kw_only=True, slots=True)
class LazyTensor:
    """A tensor whose elements are read when they are asked for.

    `dtype` is torch's name of its type; `elements(start, stop)` reads some in C order, of the type
    that `NUMPY` says. Tensors of one `identity` are one tensor. `flaw` says why it cannot be
    stored, such as ``not dense``.
    """

    shape: tuple[int, ...]
    dtype: str
    elements: Callable[[int, int], Array]
    identity: object = None
    flaw: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        """Number of dims."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the checkpoint."""
        return self.size * np.dtype(NUMPY.get(self.dtype, "uint8")).itemsize

    def same(self, other: LazyTensor) -> bool:
        """Return whether the other one is this one under another name."""
        return self is other or (self.identity is not None and self.identity == other.identity)


Tree = Mapping[str, Any]
"""Nested dicts with `LazyTensor` leaves, and whatever else the checkpoint holds."""


@dataclass(kw_only=True, slots=True)
class Content:
    """What one checkpoint holds.

    Parameters
    ----------
    tree : mapping
        Its tensors by name, in nested dicts as they were saved, beside other values.
    ties : mapping of str to str
        Further names of tensors, by these names.
    step : int, optional
        The step that a file beside the tensors tells.
    notes : list of str
        What was left out, a line each.
    ranged : bool
        Whether a stretch is read without holding the whole.
    copies : mapping of str to callable
        Reads another model that lies beside, by the name that `--weights` takes.
    optimizers : callable, optional
        Reads the states of its optimizers, as ``optimizer.state_dict()`` gives them.
    order : callable
        Puts the names of its tensors in the order of the model; None if that is not known.
    """

    tree: Tree
    ties: Mapping[str, str] = field(default_factory=dict)
    step: int | None = None
    notes: list[str] = field(default_factory=list)
    ranged: bool = True
    copies: Mapping[str | None, Callable[[], Content]] = field(default_factory=dict)
    optimizers: Callable[[], Sequence[Mapping[str, Any]]] | None = None
    order: Callable[[list[str]], Sequence[str] | None] = lambda _: None


def file_tensor(path: Path, dtype: str, shape: tuple[int, ...], offset: int) -> LazyTensor:
    """Return a tensor whose elements lie in a file from `offset` on, in C order."""
    kind = np.dtype(NUMPY.get(dtype, "uint8")).newbyteorder("<")

    def elements(start: int, stop: int) -> Array:
        at = offset + start * kind.itemsize
        try:
            found = np.fromfile(path, kind, stop - start, offset=at)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if len(found) != stop - start:
            raise DataError(f"{path} became shorter while it was read; wait until it is written")
        return found

    return LazyTensor(shape=shape, dtype=dtype, elements=elements)


def array_tensor(array: Array) -> LazyTensor:
    """Return a tensor that is a NumPy array in memory."""
    name = array.dtype.newbyteorder("=").name
    flaw = "" if name in NUMPY else "not a type of torch"

    def elements(start: int, stop: int) -> Array:
        return array.reshape(-1)[start:stop]

    return LazyTensor(
        shape=array.shape, dtype=name, elements=elements, identity=id(array), flaw=flaw
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A rectangle of a tensor that is saved in several: where it begins, and its elements."""

    start: tuple[int, ...]
    tensor: LazyTensor


def parted_tensor(shape: tuple[int, ...], dtype: str, parts: Sequence[Part]) -> LazyTensor:
    """Return the tensor that rectangles make up; ValueError if they do not cover it once."""
    covered = sum(part.tensor.size for part in parts)
    inside = all(
        len(part.start) == len(shape) == part.tensor.ndim
        and all(
            at >= 0 and at + n <= whole
            for at, n, whole in zip(part.start, part.tensor.shape, shape, strict=True)
        )
        for part in parts
    )
    if covered != math.prod(shape) or not inside or _overlap(parts):
        raise ValueError("its parts do not make up the tensor")
    if not shape or len(parts) == 1:
        return LazyTensor(shape=shape, dtype=dtype, elements=parts[0].tensor.elements)
    width = math.prod(shape[1:])

    def elements(start: int, stop: int) -> Array:
        first, last = start // width, -(-stop // width)
        rows = np.empty((last - first, *shape[1:]), NUMPY[dtype])
        for part in parts:
            tensor, at = part.tensor, part.start[0]
            a, b = max(first, at), min(last, at + tensor.shape[0])
            if a < b and tensor.size:
                each = tensor.size // tensor.shape[0]
                found = tensor.elements((a - at) * each, (b - at) * each)
                place = tuple(
                    slice(s, s + n) for s, n in zip(part.start[1:], tensor.shape[1:], strict=True)
                )
                rows[(slice(a - first, b - first), *place)] = found.reshape(
                    b - a, *tensor.shape[1:]
                )
        return rows.reshape(-1)[start - first * width : stop - first * width]

    return LazyTensor(shape=shape, dtype=dtype, elements=elements)


def _overlap(parts: Sequence[Part]) -> bool:
    """Return whether two rectangles share an element; sorted, so that few pairs are compared."""
    ordered = sorted((part for part in parts if part.tensor.size), key=lambda part: part.start)
    for i, a in enumerate(ordered):
        for b in ordered[i + 1 :]:
            if a.start and b.start[0] >= a.start[0] + a.tensor.shape[0]:
                break
            if all(
                max(s, t) < min(s + n, t + m)
                for s, n, t, m in zip(a.start, a.tensor.shape, b.start, b.tensor.shape, strict=True)
            ):
                return True
    return False
