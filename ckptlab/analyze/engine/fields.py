"""Name the sums that one pass over the weights makes, and say how two of them combine.

A sum is one entry here and one loop in the kernel: everything between goes by these names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Key = tuple[str, str | int | None]
"""Name of a sum, and what it is against: None, ``previous``, or the position of a reference."""

PREVIOUS = "previous"
"""The previous recorded step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One sum over the weights of a group at a step.

    Parameters
    ----------
    name : str
        What it is called.
    array : str
        The array of `kernel.accumulate` that it is a row of.
    against : bool
        Whether it compares with the previous step and, in further rows, with each reference.
    combine : ufunc
        Puts the sums of two stretches of parameters, or of two groups, together.
    start : number
        Its value where no weight was visited.
    """

    name: str
    array: str
    against: bool = False
    combine: Any = np.add
    start: float = 0


FIELDS: tuple[Field, ...] = (
    Field(name="magnitude", array="sums"),  # Σ|w|
    Field(name="square", array="sums"),  # Σw²
    Field(name="distance", array="sums", against=True),  # Σ(w−r)²
    Field(name="total", array="products"),  # Σw
    Field(name="product", array="products", against=True),  # Σw·r
    Field(name="signs", array="counts"),  # weights with a sign
    Field(name="flips", array="counts", against=True),  # weights of opposite sign
    Field(name="low", array="extremes", combine=np.minimum, start=np.inf),
    Field(name="high", array="extremes", combine=np.maximum, start=-np.inf),
)
"""In the order of the kernel's rows; those against something come last in their array."""

TYPES: dict[str, Any] = {
    "sums": np.float64,
    "products": np.float64,
    "counts": np.int64,
    "extremes": np.float32,
}
"""The arrays of the kernel, in the order of its arguments. ``products`` may be left out."""

COMBINE: dict[str, Any] = {field.name: field.combine for field in FIELDS}


def keys(array: str, references: int) -> Iterator[Key]:
    """Name the rows of one of the kernel's arrays."""
    for field in FIELDS:
        if field.array == array:
            yield field.name, PREVIOUS if field.against else None
    for field in FIELDS:
        if field.array == array and field.against:
            yield from ((field.name, k) for k in range(references))


def empty_arrays(groups: int, columns: int, references: int, products: bool) -> dict[str, Any]:
    """Make the kernel's arrays, shape (rows, groups, columns), before anything is visited."""
    start = {field.name: field.start for field in FIELDS}
    arrays = {}
    for array, dtype in TYPES.items():
        rows = list(keys(array, references)) if products or array != "products" else []
        arrays[array] = np.empty((len(rows), groups, columns), dtype)
        for row, (name, _) in enumerate(rows):
            arrays[array][row] = start[name]
    return arrays


def combine(name: str, one: Any, other: Any) -> Any:
    """Put the sums of two stretches of parameters together; what is not a field is added."""
    return COMBINE.get(name, np.add)(one, other)
