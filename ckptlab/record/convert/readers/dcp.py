"""Read torch.distributed.checkpoint (DCP) folders: FSDP, torchtitan.

`.metadata` is a pickle, which torch's own reader unpickles unrestricted. Here every class in it
becomes a record of plain values, and tensors are read from the `.distcp` files by their place.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ckptlab.errors import DataError
from ckptlab.record.convert.readers.dcp_optimizer import (
    Value,
    place_in_optimizer,
    read_optimizers,
)
from ckptlab.record.convert.readers.model_folder import inside
from ckptlab.record.convert.step_numbers import INSIDE
from ckptlab.record.convert.tensors import (
    NUMPY,
    UNFINISHED,
    Content,
    LazyTensor,
    Part,
    file_tensor,
    parted_tensor,
)

_KNOWN = re.compile(
    r"torch\.distributed\.checkpoint\.(metadata|filesystem|_fsspec_filesystem|planner)\.\w+"
    r"|torch\.distributed\._shard\.\w+(\.\w+)*|pathlib\w*\.\w+"
)
_DTYPES = frozenset((*NUMPY, "float8_e4m3fn", "float8_e5m2"))


def is_dcp(path: Path) -> bool:
    """Return whether a folder is such a checkpoint."""
    return _home(path) is not None


def _home(path: Path) -> Path | None:
    """Return the folder with `.metadata`: Accelerate and Lightning put it one deeper."""
    places = (path, path / "pytorch_model_fsdp_0", path / "model", path / "checkpoint")
    return next((p for p in places if (p / ".metadata").is_file() or any(p.glob("*.distcp"))), None)


def read_dcp(path: Path) -> Content:
    """Read the checkpoint in a folder; DataError if it is damaged, unfinished or names code."""
    home = _home(path) or path
    if not (home / ".metadata").is_file():
        raise DataError(
            f"{home} lacks .metadata, which is written last; save it again", problem=UNFINISHED
        )
    metadata = _metadata(inside(home, ".metadata"))
    try:
        entries = _entries(home, metadata)
        tree: dict[str, Any] = {}
        for keys, value in entries:
            if not isinstance(value, LazyTensor):
                if keys[-1] not in INSIDE and keys[0] not in ("train_state", "state"):
                    continue
                value = _known(value)  # noqa: PLW2901
            node = tree
            for key in keys[:-1]:
                node = node.setdefault(key, {})
            node[keys[-1]] = value
    except DataError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes of it
        raise DataError(
            f"{home}/.metadata is damaged ({type(error).__name__}: {error!s:.80})"
        ) from error
    beside = path / "optimizer_0"  # where Accelerate puts it
    apart = home != path and (beside / ".metadata").is_file()
    known = apart or any(place_in_optimizer(keys) for keys, _ in entries)
    # Several ranks write the tensors in an order of theirs.
    alone = not any(file.name[2:4] != "0_" for file in home.glob("__*.distcp"))
    return Content(
        tree=tree,
        optimizers=partial(_optimizers, beside if apart else None, entries) if known else None,
        order=list if alone else lambda _: None,
    )


def _known(read: Callable[[], Any]) -> Any:
    """Read a value; None if that would need code of the checkpoint."""
    try:
        return read()
    except DataError:
        return None


def _optimizers(beside: Path | None, entries: list[tuple[list[str], Value]]) -> list[Any]:
    if beside is not None:
        entries = _entries(beside, _metadata(inside(beside, ".metadata")))
    return read_optimizers(entries)


def _entries(home: Path, metadata: Any) -> list[tuple[list[str], Value]]:
    """List what the checkpoint holds by its keys: tensors, and what reads another value."""
    blobs: dict[str, list[tuple[tuple[int, ...] | None, Any]]] = {}
    for index, info in metadata.storage_data.items():
        offset = getattr(index, "offset", None)
        start = None if offset is None else tuple(int(n) for n in offset)
        blobs.setdefault(index.fqn, []).append((start, info))
    places = metadata.planner_data if isinstance(metadata.planner_data, Mapping) else {}
    found: list[tuple[list[str], Value]] = []
    for name, entry in metadata.state_dict_metadata.items():
        keys = [str(key) for key in places.get(name, (name,))] or [name]
        held = blobs.get(name, [])
        is_tensor = hasattr(entry, "properties")
        found.append(
            (keys, _tensor(home, name, entry, held) if is_tensor else partial(_plain, home, held))
        )
    return found


class _Record:
    """Holds what an object held, in place of its class."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.values = state


class _Unpickler(pickle.Unpickler):
    """Unpickles plain values and records; nothing is imported, and no other function is called."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if module == "torch" and name in _DTYPES:
            return name
        if full == "torch.Size":
            return tuple
        if full == "collections.OrderedDict":
            return dict
        if full == "torch.serialization._get_layout":
            return lambda layout: layout
        if full == "torch._utils._rebuild_tensor_v2":
            return lambda *values: values
        if re.fullmatch(r"torch\.\w+Storage|torch\.storage\.\w+", full):
            return name
        if _KNOWN.fullmatch(full):
            return type(name, (_Record,), {})
        raise pickle.UnpicklingError(f"it names {full}, whose code would have to be run")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _metadata(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            found = _Unpickler(file).load()
        found.state_dict_metadata, found.storage_data, found.planner_data  # noqa: B018
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes of it
        raise DataError(f"{path} is damaged or hostile: {error!s:.120}", file=str(path)) from error
    return found


def _tensor(
    home: Path, name: str, entry: Any, blobs: list[tuple[tuple[int, ...] | None, Any]]
) -> LazyTensor:
    dtype = str(entry.properties.values[0])
    shape = tuple(int(n) for n in entry.size)
    parts = []
    for chunk in entry.chunks:
        start = tuple(int(n) for n in chunk.offsets)
        info = next((i for at, i in blobs if at in (start, None)), None)
        if info is None:
            raise DataError(f"{home}: .metadata tells no place of a part of {name!r}")
        sizes = tuple(int(n) for n in chunk.sizes)
        parts.append(Part(start, _blob(home, name, info, sizes, dtype)))
    try:
        return parted_tensor(shape, dtype, parts)
    except ValueError as error:
        raise DataError(f"{home}: {name!r}: {error}") from error


def _blob(home: Path, name: str, info: Any, shape: tuple[int, ...], dtype: str) -> LazyTensor:
    """Find the elements of a part: each is a file of ``torch.save`` within a `.distcp` file."""
    piece = _Piece(home, info)
    if getattr(info, "transform_descriptors", None):
        raise DataError(f"{home}: {name!r} is compressed or encrypted; save it without transforms")
    try:
        with zipfile.ZipFile(piece) as archive:
            record = next(e for e in archive.infolist() if e.filename.endswith("/data.pkl"))
            with archive.open(record) as described:
                pickled = io.BytesIO(described.read(2**16))  # a tensor's takes some hundred bytes
            storage, first, sizes, strides = _Unpickler(pickled).load()[:4]
            key = f"/data/{storage[2]}"
            data = next(e for e in archive.infolist() if e.filename.endswith(key))
    except DataError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes of it
        raise DataError(f"{piece.path} is damaged at {name!r} ({error})") from error
    step = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size > 1 and stride != step:
            raise DataError(f"{home}: {name!r} is not contiguous; save it as .contiguous()")
        step *= size
    piece.seek(data.header_offset + 26)
    lengths = piece.read(4)
    start = (
        data.header_offset + 30 + sum(int.from_bytes(lengths[i : i + 2], "little") for i in (0, 2))
    )
    tensor = file_tensor(piece.path, dtype, shape, 0)
    item = tensor.nbytes // max(tensor.size, 1)
    end = start + (first + tensor.size) * item
    if (
        tuple(sizes) != shape
        or data.compress_type
        or end > min(start + data.file_size, piece.length)
    ):
        raise DataError(f"{piece.path} is damaged at {name!r}: another tensor than .metadata says")
    return file_tensor(piece.path, dtype, shape, piece.offset + start + first * item)


class _Piece(io.RawIOBase):
    """A stretch of a file, as a file."""

    def __init__(self, home: Path, info: Any) -> None:
        self.path = inside(home, str(info.relative_path))
        self.offset, self.length = int(info.offset), int(info.length)
        self._at = 0
        try:
            size = self.path.stat().st_size
        except OSError as error:
            raise DataError(
                f"{home} lacks {self.path.name}, which .metadata lists", problem=UNFINISHED
            ) from error
        if not 0 <= self.offset <= self.offset + self.length <= size:
            raise DataError(
                f"{self.path} is shorter than .metadata says: not written to its end",
                problem=UNFINISHED,
            )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(offset + (0, self._at, self.length)[whence], 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(min(len(buffer), self.length - self._at), 0)
        with self.path.open("rb") as file:
            file.seek(self.offset + self._at)
            data = file.read(count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _plain(home: Path, blobs: list[tuple[tuple[int, ...] | None, Any]]) -> Any:
    """Read a small value that is no tensor, such as the step; None if it is not small."""
    from ckptlab.record.convert.readers.pickles import load

    if not blobs or int(blobs[0][1].length) > 2**20:
        return None
    piece = _Piece(home, blobs[0][1])
    return load(io.BytesIO(piece.read(piece.length)))
