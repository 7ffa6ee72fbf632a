"""Describe a model's tensors and buffers: which stretch of the stored vectors each one fills."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import LayoutError, StoreError, spell, unknown_name
from ckptlab.store.format.parts import PARTS, part_of, split_name

KINDS: tuple[str, ...] = ("conv", "linear", "norm", "bias", "embedding", "other")
"""Kinds of tensors; `all` selects every kind, and `PARTS` some of the default kinds."""

DEFAULT_KINDS: tuple[str, ...] = ("conv", "linear")
"""The kinds pooled unless told otherwise: the weights that pruning acts on."""

PARAMETER_DTYPES: tuple[str, ...] = ("float32", "float16", "bfloat16", "float64")
"""Accepted types of parameters. float32 holds each exactly but float64, which is rounded, and whose
exact values are a buffer of the same name."""

BUFFER_DTYPES: tuple[str, ...] = ("float64", "int64", "int32", "int16", "int8", "uint8", "bool")
"""Types of buffers that are stored in an array of their own."""

MAX_PARAMETERS = 2**40


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One row of the tensor or buffer table: a stretch of one array's vector.

    `name` comes from the model, without the prefixes of wrappers; `aliases` are other names of the
    same tensor (tied weights). `offset` is the index of its first element, in C order; `dtype` is
    its type in the model.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    dtype: str = "float32"
    aliases: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def stretch(self) -> slice:
        """Its elements in the vector."""
        return slice(self.offset, self.offset + self.size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor(Row):
    """One named parameter; `kind` is one of `KINDS`, `prunable` whether pruning may touch it."""

    kind: str = "other"
    trainable: bool = True
    prunable: bool = False

    @property
    def array(self) -> str:
        """Name of the array that holds it."""
        return "weights"

    @property
    def layer(self) -> str:
        """Name of the module that owns it; its own name at the root."""
        return split_name(self.name)[0] or self.name

    @property
    def part(self) -> str:
        """The part of the network it is a weight of, one of `PARTS`; empty where none is told."""
        return part_of(self.name) if self.kind in DEFAULT_KINDS else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Buffer(Row):
    """One persistent buffer.

    `array` is ``"buffers"`` (float32), or ``"buffers_<dtype>"`` where float32 is not exact.
    """

    array: str = "buffers"


_TENSOR = ("name", "shape", "offset", "dtype", "kind", "trainable", "prunable", "aliases")
_BUFFER = ("name", "shape", "offset", "dtype", "array", "aliases")


@dataclass(frozen=True)
class Layout:
    """All tensors and buffers of a model, in order.

    The tensors cover the parameter vector without gaps, and the buffers the vector of each buffer
    array; LayoutError if they do not, or if a name is repeated or not printable.
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

    def split(self, vectors: Mapping[str, Any]) -> dict[str, Any]:
        """Cut vectors into tensors and buffers, by name and of their own shapes.

        `vectors` holds NumPy or torch vectors by array name (``weights``, ``buffers`` …). Rows of
        arrays it lacks are left out. The parts are views where the library can make them.
        """
        return {
            row.name: vectors[row.array][row.stretch].reshape(row.shape)
            for row in self.rows
            if row.array in vectors
        }

    def difference(self, other: Layout, *, dtypes: bool = True) -> tuple[str, str, str] | None:
        """Return the first tensor or buffer that differs: its name, then what each layout has.

        Names, shapes, offsets and, unless `dtypes` is false, types count; None if all agree.
        """
        mine, theirs = ({row.name: row for row in one.rows} for one in (self, other))
        for name in {**mine, **theirs}:
            pair = mine.get(name), theirs.get(name)
            found = [_describe(row, dtypes) for row in pair]
            if found[0] != found[1]:
                return name, found[0], found[1]
            a, b = pair
            if a is not None and b is not None and (a.array, a.offset) != (b.array, b.offset):
                return name, f"{found[0]} at {a.offset}", f"{found[1]} at {b.offset}"
        return None

    def select(self, kinds: Sequence[str] = DEFAULT_KINDS) -> npt.NDArray[np.bool_]:
        """Return which tensors are of the given kinds or parts, shape (tensors,).

        UnknownNameError if a kind does not exist, LayoutError if no tensor is of these kinds.
        """
        for kind in kinds:
            if kind not in (*KINDS, *PARTS, "all"):
                raise unknown_name("kind", kind, (*KINDS, *PARTS, "all"))
        chosen = np.array(
            ["all" in kinds or t.kind in kinds or t.part in kinds for t in self.tensors], bool
        )
        if not chosen.any():
            found = {name for t in self.tensors for name in (t.kind, t.part) if name}
            present = ", ".join(sorted(found)) or "none"
            raise LayoutError(
                f"{spell('kinds', ','.join(kinds))} selects no tensor of this model; present: "
                f"{present}. Use one of these, or {spell('kinds', 'all')}."
            )
        return chosen

    def to_attributes(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables ``tensors`` and ``buffers`` as the root attributes hold them."""
        return {
            "tensors": [_to_json(tensor, _TENSOR) for tensor in self.tensors],
            "buffers": [_to_json(buffer, _BUFFER) for buffer in self.buffers],
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Layout:
        """Rebuild the layout from root attributes; StoreError if a row is malformed."""
        try:
            tensors = tuple(
                Tensor(
                    **_common(row, PARAMETER_DTYPES),
                    kind=_one_of(row["kind"], KINDS),
                    trainable=bool(row["trainable"]),
                    prunable=bool(row["prunable"]),
                )
                for row in attributes["tensors"]
            )
            buffers = tuple(
                Buffer(
                    **_common(row, {*PARAMETER_DTYPES, *BUFFER_DTYPES}),
                    array=_one_of(row["array"], [_buffer_array(row["dtype"])]),
                )
                for row in attributes["buffers"]
            )
            return cls(tensors, buffers)
        except (KeyError, TypeError, ValueError, LayoutError) as error:
            raise StoreError(f"the tensor table of the store is malformed: {error}") from error


def _describe(row: Row | None, dtypes: bool) -> str:
    if row is None:
        return "missing"
    return f"{row.shape} {row.dtype}" if dtypes else str(row.shape)


def _require_contiguous(what: str, rows: Iterable[Row]) -> None:
    end = 0
    seen: set[str] = set()
    for row in rows:
        if row.offset != end:
            raise LayoutError(f"{what} {row.name!r} starts at {row.offset}, expected {end}")
        if row.name in seen:
            raise LayoutError(f"{what} {row.name!r} comes twice")
        if not all(name.isprintable() for name in (row.name, *row.aliases)):
            # A terminal would obey some of these characters.
            raise LayoutError(f"{what} name {row.name!r:.80} holds unprintable characters")
        seen.add(row.name)
        end += row.size
        if end > MAX_PARAMETERS:
            raise LayoutError(f"{what} {row.name!r} ends at {end}, beyond {MAX_PARAMETERS}")


def _to_json(row: Row, columns: tuple[str, ...]) -> dict[str, Any]:
    values = {column: getattr(row, column) for column in columns}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def _common(row: Mapping[str, Any], dtypes: Collection[str]) -> dict[str, Any]:
    return {
        "name": _text(row["name"]),
        "shape": _shape(row["shape"]),
        "offset": _count(row["offset"]),
        "dtype": _one_of(row["dtype"], dtypes),
        "aliases": tuple(_text(alias) for alias in row["aliases"]),
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r:.80}")
    return value


def _one_of(value: object, accepted: Collection[str]) -> str:
    if value not in accepted:
        raise ValueError(f"expected one of {', '.join(sorted(accepted))}, got {value!r:.80}")
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
