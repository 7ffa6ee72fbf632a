"""The tensor table: which stretch of the parameter vector belongs to which tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import LayoutError, StoreError, unknown_name

KINDS: tuple[str, ...] = ("conv", "linear", "norm", "bias", "embedding", "other")
"""What a tensor can be; `all` selects every kind."""

DEFAULT_KINDS: tuple[str, ...] = ("conv", "linear")
"""The kinds pooled unless told otherwise: the weights that pruning acts on."""

PARAMETER_DTYPES: tuple[str, ...] = ("float32", "float16", "bfloat16")
"""Types of parameters: those that float32 holds exactly."""

BUFFER_DTYPES: tuple[str, ...] = (
    "float64",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint8",
    "bool",
)
"""Types of buffers that are stored in an array of their own."""

MAX_PARAMETERS = 2**40


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One named parameter and its stretch ``[offset, offset + size)`` of the parameter vector.

    Parameters
    ----------
    name : str
        Name in ``named_parameters()``, without the prefixes of wrappers.
    shape : tuple of int
        Shape in the model.
    offset : int
        Index of its first element, in C order, in the parameter vector.
    dtype : str
        Data type in the model, such as ``"float32"`` or ``"bfloat16"``.
    kind : str
        One of `KINDS`.
    trainable, prunable : bool
        Whether it requires a gradient; whether pruning may touch it.
    aliases : tuple of str
        Other names of the same tensor (tied weights).
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    dtype: str = "float32"
    kind: str = "other"
    trainable: bool = True
    prunable: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def layer(self) -> str:
        """Name of the module that owns it; its own name at the root."""
        return self.name.rpartition(".")[0] or self.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Buffer:
    """One persistent buffer and its stretch of the buffer vector of its array.

    Parameters
    ----------
    name : str
        Name in ``named_buffers()``.
    shape : tuple of int
        Shape in the model.
    offset : int
        Index of its first element in `array`.
    dtype : str
        Data type in the model.
    array : str
        ``"buffers"`` (float32) or ``"buffers_<dtype>"`` for what float32 cannot hold exactly.
    aliases : tuple of str
        Other names of the same buffer.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    dtype: str = "float32"
    array: str = "buffers"
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """All tensors and buffers of a model, in order.

    Parameters
    ----------
    tensors : tuple of Tensor
        They cover the parameter vector without gaps, in order.
    buffers : tuple of Buffer
        They cover the vector of each buffer array without gaps, in order.

    Raises
    ------
    LayoutError
        If a stretch overlaps another, leaves a gap, or a name comes twice or does not print.
    """

    tensors: tuple[Tensor, ...]
    buffers: tuple[Buffer, ...] = field(default=())

    def __post_init__(self) -> None:
        _require_contiguous("tensor", self.tensors)
        for array in self.buffer_sizes:
            _require_contiguous("buffer", [b for b in self.buffers if b.array == array])

    @cached_property
    def parameters(self) -> int:
        """Length of the parameter vector."""
        return sum(tensor.size for tensor in self.tensors)

    @cached_property
    def buffer_sizes(self) -> dict[str, int]:
        """Length of the vector of each buffer array, by array name."""
        sizes: dict[str, int] = {}
        for buffer in self.buffers:
            sizes[buffer.array] = sizes.get(buffer.array, 0) + buffer.size
        return sizes

    @property
    def rows(self) -> list[Tensor | Buffer]:
        """Tensors, then buffers."""
        return [*self.tensors, *self.buffers]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Tensor names, in order."""
        return tuple(tensor.name for tensor in self.tensors)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Shape (tensors + 1,): where each tensor starts, and the end."""
        sizes = [tensor.size for tensor in self.tensors]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)

    def __getitem__(self, name: str) -> Tensor:
        """Look a tensor up by its name or an alias of it."""
        for tensor in self.tensors:
            if name == tensor.name or name in tensor.aliases:
                return tensor
        raise unknown_name("tensor", name, self.names)

    def tensor_index(self) -> npt.NDArray[np.int32]:
        """Shape (param,): the index of the tensor each parameter belongs to."""
        sizes = [tensor.size for tensor in self.tensors]
        return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)

    def select(self, kinds: Sequence[str] = DEFAULT_KINDS) -> npt.NDArray[np.bool_]:
        """Say which tensors are of the given kinds.

        Parameters
        ----------
        kinds : sequence of str
            Of `KINDS`, or ``"all"``.

        Returns
        -------
        ndarray of bool, shape (tensors,)
            True where the tensor is of one of the kinds.

        Raises
        ------
        UnknownNameError
            If a kind does not exist.
        LayoutError
            If no tensor is of these kinds.
        """
        for kind in kinds:
            if kind not in (*KINDS, "all"):
                raise unknown_name("kind", kind, (*KINDS, "all"))
        chosen = np.array([t.kind in kinds or "all" in kinds for t in self.tensors], bool)
        if not chosen.any():
            present = ", ".join(sorted({t.kind for t in self.tensors})) or "none"
            raise LayoutError(
                f"kinds {','.join(kinds)!r} select no tensor of this model; present: {present}. "
                "Use one of these, or kinds=all."
            )
        return chosen

    def to_attributes(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables ``tensors`` and ``buffers`` as the root attributes hold them."""
        return {
            "tensors": [
                {
                    "name": t.name,
                    "shape": list(t.shape),
                    "offset": t.offset,
                    "dtype": t.dtype,
                    "kind": t.kind,
                    "trainable": t.trainable,
                    "prunable": t.prunable,
                    "aliases": list(t.aliases),
                }
                for t in self.tensors
            ],
            "buffers": [
                {
                    "name": b.name,
                    "shape": list(b.shape),
                    "offset": b.offset,
                    "dtype": b.dtype,
                    "array": b.array,
                    "aliases": list(b.aliases),
                }
                for b in self.buffers
            ],
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Layout:
        """Rebuild the layout from root attributes.

        Parameters
        ----------
        attributes : mapping
            Holds ``tensors`` and ``buffers`` as `to_attributes` gives them.

        Returns
        -------
        Layout
            The same layout.

        Raises
        ------
        StoreError
            If a row is not of the documented form.
        """
        try:
            tensors = tuple(
                Tensor(
                    name=_text(row["name"]),
                    shape=_shape(row["shape"]),
                    offset=_count(row["offset"]),
                    dtype=_one_of(row["dtype"], PARAMETER_DTYPES),
                    kind=_one_of(row["kind"], KINDS),
                    trainable=bool(row["trainable"]),
                    prunable=bool(row["prunable"]),
                    aliases=tuple(_text(a) for a in row["aliases"]),
                )
                for row in attributes["tensors"]
            )
            buffers = tuple(
                Buffer(
                    name=_text(row["name"]),
                    shape=_shape(row["shape"]),
                    offset=_count(row["offset"]),
                    dtype=_one_of(row["dtype"], (*PARAMETER_DTYPES, *BUFFER_DTYPES)),
                    array=_one_of(row["array"], [_buffer_array(row["dtype"])]),
                    aliases=tuple(_text(a) for a in row["aliases"]),
                )
                for row in attributes["buffers"]
            )
            return cls(tensors, buffers)
        except (KeyError, TypeError, ValueError, LayoutError) as error:
            raise StoreError(f"the tensor table of the store is malformed: {error}") from error


def _require_contiguous(what: str, rows: Iterable[Tensor] | Iterable[Buffer]) -> None:
    end = 0
    seen: set[str] = set()
    for row in rows:
        if row.offset != end:
            raise LayoutError(f"{what} {row.name!r} starts at {row.offset}, expected {end}")
        if row.name in seen:
            raise LayoutError(f"{what} {row.name!r} comes twice")
        if not all(name.isprintable() for name in (row.name, *row.aliases)):
            # Terminals would obey some of them.
            raise LayoutError(f"{what} name {row.name!r:.80} holds characters that do not print")
        seen.add(row.name)
        end += row.size
        if end > MAX_PARAMETERS:
            raise LayoutError(f"{what} {row.name!r} ends at {end}, beyond {MAX_PARAMETERS}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r:.80}")
    return value


def _one_of(value: object, accepted: Sequence[str]) -> str:
    if value not in accepted:
        raise ValueError(f"expected one of {', '.join(accepted)}, got {value!r:.80}")
    return _text(value)


def _buffer_array(dtype: object) -> str:
    return f"buffers_{dtype}" if dtype in BUFFER_DTYPES else "buffers"


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"expected a count, got {value!r:.80}")
    return value


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list of sizes, got {value!r:.80}")
    return tuple(_count(size) for size in value)
