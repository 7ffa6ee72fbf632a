"""Read safetensors: the header tells where each tensor lies, and stretches are read from there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from ckptlab.errors import DataError
from ckptlab.extras import require
from ckptlab.record.convert.tensors import UNFINISHED, Content, LazyTensor, file_tensor

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "BOOL": "bool",
    "U8": "uint8",
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (16, 32, 64)},
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}

_DIGITS = re.compile(r"(\d+)")


def read_safetensors(path: Path) -> Content:
    """Read the header of a file; DataError if it is no whole safetensors file."""
    safetensors = require("safetensors", "reading safetensors")
    try:
        # The library checks what a hostile header could claim: sizes, overlaps, what lies outside.
        with safetensors.safe_open(path, "numpy"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise DataError(
            f"{path} is no safetensors file, or not a whole one: {error}", problem=UNFINISHED
        ) from error
    extra: Mapping[str, str] = header.pop("__metadata__", {})
    tensors: dict[str, LazyTensor] = {}
    # Those files keep no order: layer10 comes after layer2.
    for name in sorted(header, key=natural):
        row = header[name]
        dtype = DTYPES.get(row["dtype"], row["dtype"].lower())
        start = 8 + length + row["data_offsets"][0]
        tensors[name] = file_tensor(path, dtype, tuple(row["shape"]), start)
    # `save_model` writes tied tensors once, and the other names here.
    ties = {alias: name for alias, name in extra.items() if name in tensors}
    return Content(tree=tensors, ties={a: n for a, n in ties.items() if a not in tensors})


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key by which layer10 comes after layer2."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(name)]
