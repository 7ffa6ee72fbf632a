"""Read what ``torch.save`` wrote, without running any code that the file names.

Torch's own restricted unpickler does it. Classes that checkpoints often hold beside the tensors
(namespaces, settings) become stand-ins that hold nothing.
"""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from ckptlab.errors import DataError
from ckptlab.record.convert.tensors import (
    NUMPY,
    UNFINISHED,
    Array,
    Content,
    LazyTensor,
    array_tensor,
)

HARMLESS = re.compile(
    r"argparse\.Namespace|types\.SimpleNamespace|pathlib\.\w+"
    r"|(omegaconf|lightning|lightning_fabric|pytorch_lightning|torchmetrics|timm|composer|deepspeed"
    r"|megatron|transformers|accelerate|datasets|peft|trl|ml_collections|easydict)\.[\w.]+"
)
"""Classes that say how a training was set up: a stand-in takes the place of each."""

OPTIMIZERS = ("optimizer_states", "optimizer", "optimizer_state_dict", "optim")
"""Keys under which checkpoints keep the states of optimizers, Lightning's first."""

TOUCHED = 2**24
"""Bytes of a mapped file that are read before it is mapped anew, so that they leave memory."""


class StandIn:
    """Takes the place of an object of a class that is not imported; it holds nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_torch_file(path: Path) -> Content:
    """Read a file that ``torch.save`` wrote; DataError if it is damaged or needs code to be run."""
    file = TorchFile(path)
    return Content(
        tree=file.tree(),
        ranged=file.mapped,
        optimizers=file.optimizers if file.has_optimizer else None,
        order=list,
    )


class TorchFile:
    """A file of ``torch.save``: mapped, so that only what is read is in memory.

    Files of the format before torch 1.6 cannot be mapped, and are held whole.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        records = _records(path)
        self.mapped = records is not None
        self._values = load(path, mapped=self.mapped)
        self._touched = 0
        self._storages: dict[int, int] = {}
        self._tree = _lazy(self._values, (), self._tensor)
        # Mapped, a tensor that is longer than its record would go on with other bytes of the file.
        if records is not None and Counter(self._storages.values()) - Counter(records):
            raise DataError(f"{path} is damaged: a tensor is longer than what is stored of it")

    def tree(self) -> Mapping[str, Any]:
        """Return what it holds, with lazy tensors."""
        return self._tree if isinstance(self._tree, Mapping) else {}

    @property
    def has_optimizer(self) -> bool:
        """Whether it holds the state of an optimizer."""
        return isinstance(self._values, dict) and any(key in self._values for key in OPTIMIZERS)

    def optimizers(self) -> list[Mapping[str, Any]]:
        """Return the states of its optimizers."""
        values = load(self._path, mapped=self.mapped)
        found = next(values[key] for key in OPTIMIZERS if key in values)
        listed = found if isinstance(found, list) else [found]
        return [one for one in listed if isinstance(one, dict) and "param_groups" in one]

    def _tensor(self, tensor: torch.Tensor, place: tuple[Any, ...]) -> LazyTensor:
        def elements(start: int, stop: int) -> Array:
            if self._touched > TOUCHED and self.mapped:
                self._values = load(self._path, mapped=True)
                self._touched = 0
            found = self._values
            for key in place:
                found = found[key]
            self._touched += (stop - start) * found.element_size()
            return _elements(found, start, stop)

        if tensor.layout == torch.strided and not tensor.is_meta and tensor.numel():
            storage = tensor.untyped_storage()
            self._storages[storage.data_ptr()] = storage.nbytes()
        return lazy_tensor(tensor, elements)


def lazy_tensor(
    tensor: torch.Tensor, elements: Callable[[int, int], Array] | None = None
) -> LazyTensor:
    """Describe a tensor in memory, or one that `elements` reads."""
    dense = tensor.layout == torch.strided and not tensor.is_quantized
    flaw = "" if dense and type(tensor).__name__ != "DTensor" else "not dense"
    if tensor.is_meta:
        flaw = "without values, of device meta"
    identity = None
    if not flaw and tensor.numel():
        identity = tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype
    return LazyTensor(
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        elements=elements or (lambda start, stop: _elements(tensor, start, stop)),
        identity=identity,
        flaw=flaw,
    )


def _elements(tensor: torch.Tensor, start: int, stop: int) -> Array:
    flat = tensor.detach().resolve_neg().reshape(-1)[start:stop]
    if flat.dtype == torch.bfloat16:  # which NumPy does not know
        flat = flat.view(torch.int16)
    found: Array = flat.numpy().copy()  # a view would keep the mapping alive
    return found.view(np.uint16) if tensor.dtype == torch.bfloat16 else found


def _lazy(
    value: Any, place: tuple[Any, ...], tensor: Callable[[torch.Tensor, tuple[Any, ...]], Any]
) -> Any:
    """Replace tensors in nested dicts and lists; a loop of dicts ends at a depth."""
    if isinstance(value, torch.Tensor):
        return tensor(value, place)
    if isinstance(value, np.ndarray):
        return array_tensor(value)
    if len(place) > 12:
        return None
    if isinstance(value, Mapping):
        return {str(key): _lazy(item, (*place, key), tensor) for key, item in value.items()}
    if isinstance(value, list | tuple) and len(value) < 10000:
        return [_lazy(item, (*place, index), tensor) for index, item in enumerate(value)]
    return value


def load(file: Path | IO[bytes], *, mapped: bool = False, device: str = "cpu") -> Any:
    """Unpickle by torch's restricted unpickler; DataError if it is damaged or refused."""
    name = file if isinstance(file, Path) else getattr(file, "name", "the file")
    try:
        try:
            return _load(file, mapped, device)
        except Exception:
            unknown = _unknown(file)
            if not unknown or not all(HARMLESS.fullmatch(found) for found in unknown):
                raise
            return _load(file, mapped, device, unknown)
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes of it
        odd = [name for name in _unknown(file) if not HARMLESS.fullmatch(name)]
        why = f"it names {', '.join(sorted(odd)[:3])}"[:200] if odd else type(error).__name__
        raise DataError(
            f"{name} is damaged, or holds objects whose code would have to be run ({why}); save "
            "model.state_dict() instead of the model",
            file=str(name),
        ) from error


def _load(file: Path | IO[bytes], mapped: bool, device: str, unknown: Iterable[str] = ()) -> Any:
    with warnings.catch_warnings(), safe_globals([*_plain(), *_stand_ins(unknown)]):
        warnings.simplefilter("ignore")  # of files of another pickle protocol
        if not isinstance(file, Path):
            file.seek(0)
        source = str(file) if isinstance(file, Path) else file
        return torch.load(source, map_location=device, weights_only=True, mmap=mapped or None)


def _unknown(file: Path | IO[bytes]) -> list[str]:
    """List the classes and functions that a file asks for and torch does not allow."""
    try:
        return get_unsafe_globals_in_checkpoint(file)
    except Exception:  # damaged, or of the format before torch 1.6
        return []


@cache
def _plain() -> tuple[Any, ...]:
    """NumPy's arrays and numbers, which hold no code."""
    from numpy._core import multiarray

    functions = [
        (getattr(multiarray, name), f"numpy.{core}.multiarray.{name}")
        for name in ("_reconstruct", "scalar")
        for core in ("core", "_core")
    ]
    types = {type(np.dtype(name)) for name in (*NUMPY.values(), "S1", "U1")}
    return (*functions, np.ndarray, np.dtype, *types, defaultdict, list, dict, int)


def _stand_ins(names: Iterable[str]) -> Iterator[tuple[type, str]]:
    for name in names:
        yield type(name.rpartition(".")[2], (StandIn,), {}), name
    yield type("Namespace", (StandIn,), {}), f"{argparse.__name__}.Namespace"


def _records(path: Path) -> list[int] | None:
    """Return the sizes of the records in a zip as torch writes it; None if it is no zip.

    DataError if it is another kind of zip.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        size = path.stat().st_size
        if not size:
            raise DataError(f"{path} is empty", problem=UNFINISHED)
        if start != b"PK\x03\x04":
            return None
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(
            f"{path} is damaged, or not written to its end ({error})", problem=UNFINISHED
        ) from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise DataError(
            f"{path} is a TorchScript program, not a checkpoint; load it with torch.jit.load and "
            "save its state_dict()"
        )
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > size:
        raise DataError(f"{path} is a compressed zip, which torch.save does not write")
    return [entry.file_size for entry in entries]
