"""Read masks over the parameter vector, from memory, from files, or from the run itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ckptlab.errors import DataError, LayoutError

if TYPE_CHECKING:
    from ckptlab.analyze.engine.source import Source


@dataclass(frozen=True)
class Mask:
    """A mask, True where a weight is kept, and what results call it.

    `own` says that it is the one the run was trained with, and nothing else.
    """

    values: npt.NDArray[np.bool_]
    label: str
    own: bool = False


def surviving(source: Source, mask: Any = None) -> Mask | None:
    """Combine a mask with the one that the run itself was trained with; None if there is neither.

    A pruned weight is not a parameter of the sub-network: no metric counts it.
    """
    given = load_mask(mask, source)
    if isinstance(mask, Mask):
        return mask
    own = source.mask()
    if own is None:
        return given
    if given is None:
        return Mask(own, "of the run", own=True)
    return Mask(given.values & own, f"{given.label}, and that of the run")


def load_mask(mask: Any, source: Source) -> Mask | None:
    """Take a mask from memory or read it, and check that it fits the run; None for None.

    It is a `Mask`, an array of bool over `param`, ``FILE.npy``, or ``FILE.zarr[@LEVEL]`` with an
    array ``mask`` (param, level), whose last level is taken unless one is named, or (param,), as
    the run of a sparse training has it. LayoutError if it is of another model, DataError if the
    file is missing, holds no mask, or not that level.
    """
    if mask is None or isinstance(mask, Mask):
        return mask
    if isinstance(mask, str | os.PathLike):
        label = os.fspath(mask)
        values, table = _read(label)
    else:
        label, values, table = "array", np.asarray(mask), None
    _require_same_model(label, values, table, source)
    if values.dtype != np.bool_:
        if not np.isin(values, (0, 1)).all():
            raise LayoutError(f"mask {label!r} holds values other than 0 and 1; it must be boolean")
        values = values.astype(bool)
    return Mask(values, label)


def _require_same_model(label: str, values: npt.NDArray[Any], table: Any, source: Source) -> None:
    expected = source.parameters
    if values.shape != (expected,):
        shape = " x ".join(str(n) for n in values.shape)
        raise LayoutError(
            f"mask {label!r} has shape ({shape}), {source.path} has {expected} parameters: "
            f"it is of another model. Give one bool for each parameter, shape ({expected},)."
        )
    own = source.layout.to_attributes()["tensors"]
    if table is not None and _shapes(table) != _shapes(own):
        raise LayoutError(
            f"mask {label!r} was made for another model: its tensor table differs from that of "
            f"{source.path}. Use a mask made from this run or one of the same model."
        )


def _shapes(table: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(str(row["name"]), tuple(row["shape"])) for row in table]


def _read(text: str) -> tuple[npt.NDArray[Any], Any]:
    name, _, level = text.partition(".zarr@")
    if level or text.rstrip("/").endswith(".zarr"):
        return _read_zarr(f"{name}.zarr" if level else text, level)
    if not text.endswith(".npy"):
        raise DataError(f"mask {text!r} is neither FILE.npy nor FILE.zarr[@LEVEL]")
    if not Path(text).is_file():
        raise DataError(f"mask {text!r} does not exist; accepted: FILE.npy, FILE.zarr[@LEVEL]")
    try:
        values: npt.NDArray[Any] = np.load(text, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"mask {text!r} is not a NumPy array file: {error}") from error
    return values, None


def _read_zarr(path: str, level: str) -> tuple[npt.NDArray[Any], Any]:
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        array = group["mask"]
    except (KeyError, FileNotFoundError, ValueError) as error:
        raise DataError(f"{path} holds no array `mask` (param, level)") from error
    if not isinstance(array, zarr.Array) or array.ndim not in (1, 2):
        raise DataError(f"`mask` in {path} is not an array (param, level)")
    if array.ndim == 1:
        if level:
            raise DataError(f"{path} has one mask and no levels; leave @{level} out")
        return np.asarray(array[:]), group.attrs.get("tensors")
    levels = group["level"][:] if "level" in group else np.arange(array.shape[1])  # type: ignore[index]
    names = [str(int(n)) for n in np.asarray(levels)]
    if level and level not in names:
        raise DataError(f"{path} has no mask of level {level!r}; it has: {', '.join(names)}")
    column = names.index(level) if level else array.shape[1] - 1
    return np.asarray(array[:, column]), group.attrs.get("tensors")
