"""Register readers: which of them takes a file or folder, and what makes its content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from ckptlab.errors import DataError
from ckptlab.record.convert.readers.dcp import is_dcp
from ckptlab.record.convert.readers.model_folder import weights_file
from ckptlab.record.convert.readers.model_parallel import is_deepspeed, is_megatron
from ckptlab.record.convert.tensors import Content, array_tensor
from ckptlab.registry import Registry, name_of, resolve

Read = Callable[[Path], Any]
Function = TypeVar("Function", bound=Callable[..., Any])

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".tar")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """A family of layouts.

    `matches` says cheaply, without reading tensors, whether a path is one checkpoint of the family;
    `read` makes its `Content`, or nested dicts of arrays or tensors by name. `folder` says whether
    it takes folders or files.
    """

    name: str
    summary: str
    matches: Callable[[Path], bool]
    read: str | Read
    folder: bool = False

    def takes(self, path: Path) -> bool:
        """Return whether it reads this file or folder."""
        return path.is_dir() == self.folder and self.matches(path)

    def open(self, path: Path) -> Content:
        """Read what a checkpoint holds; DataError if it is damaged."""
        read = resolve(self.read) if isinstance(self.read, str) else self.read
        try:
            found = read(path)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if isinstance(found, Content):
            return found
        if not isinstance(found, Mapping):
            raise DataError(
                f"{path}: reader {self.name!r} returned {type(found).__name__}; accepted: a dict "
                "of arrays or tensors by name"
            )
        return Content(tree=_lazy(found), ranged=False)


def _lazy(value: Any) -> Any:
    """Describe the arrays and tensors that a user's reader returns."""
    if isinstance(value, Mapping):
        return {str(key): _lazy(item) for key, item in value.items()}
    if hasattr(value, "__array_interface__"):
        return array_tensor(value)
    if hasattr(value, "data_ptr"):
        from ckptlab.record.convert.readers.pickles import lazy_tensor

        return lazy_tensor(value)
    return value


def _suffix(*suffixes: str) -> Callable[[Path], bool]:
    return lambda path: path.name.lower().endswith(suffixes)


_HERE = "ckptlab.record.convert.readers"

_OWN = (
    Reader(
        name="dcp",
        summary="torch.distributed.checkpoint: FSDP, torchtitan",
        matches=is_dcp,
        read=f"{_HERE}.dcp:read_dcp",
        folder=True,
    ),
    Reader(
        name="deepspeed",
        summary="DeepSpeed, ZeRO 1 and 2: module states",
        matches=is_deepspeed,
        read=f"{_HERE}.model_parallel:read_deepspeed",
        folder=True,
    ),
    Reader(
        name="megatron",
        summary="Megatron, one rank: nested dicts under `model`",
        matches=is_megatron,
        read=f"{_HERE}.model_parallel:read_megatron",
        folder=True,
    ),
    Reader(
        name="model-folder",
        summary="HF Trainer, Accelerate, PEFT, OLMo, Pythia: one file, or shards with an index",
        matches=lambda path: weights_file(path) is not None,
        read=f"{_HERE}.model_folder:read_folder",
        folder=True,
    ),
    Reader(
        name="safetensors",
        summary="files ending in .safetensors",
        matches=_suffix(".safetensors"),
        read=f"{_HERE}.safetensors_file:read_safetensors",
    ),
    Reader(
        name="torch",
        summary=f"files of torch.save: {', '.join(PICKLES)}; Lightning, timm, open_lth, Composer",
        matches=_suffix(*PICKLES),
        read=f"{_HERE}.pickles:read_torch_file",
    ),
)


def _adapt(name: str, found: Any) -> Reader:
    """Take what an entry point or ``module:object`` names: a `Reader` or a function of a path."""
    entry = found if isinstance(found, Reader) else READERS.entry_of(found)
    if entry is not None:
        return replace(entry, name=name)
    if not callable(found):
        raise TypeError(f"{found!r:.80} is not a function of a path")
    return _entry(name, found, "", False)


def _entry(name: str, function: Read, pattern: str, folder: bool) -> Reader:
    return Reader(
        name=name,
        summary=(function.__doc__ or name).strip().splitlines()[0],
        matches=lambda path: bool(pattern) and fnmatch(path.name.lower(), pattern.lower()),
        read=function,
        folder=folder,
    )


READERS: Registry[Reader] = Registry("reader", _OWN, adapt=_adapt, group="ckptlab.readers")


def reader(
    pattern: str, *, name: str | None = None, folder: bool = False
) -> Callable[[Function], Function]:
    """Register a function that reads checkpoints of a layout of your own.

    Parameters
    ----------
    pattern : str
        The names it takes, such as ``"*.npz"``.
    name : str, optional
        What ``import --reader`` takes; by default the function's name with dashes.
    folder : bool
        Whether one checkpoint is a folder; otherwise it is a file.

    Returns
    -------
    decorator
        Returns the function unchanged. It takes a `pathlib.Path` and returns a dict of NumPy arrays
        or torch tensors by name; nested dicts are joined with dots.

    Raises
    ------
    PluginError
        If the name is taken.
    """

    def register(function: Function) -> Function:
        entry = _entry(name or name_of(function), function, pattern, folder)
        return READERS.decorate(function, entry)

    return register


def reader_of(path: Path) -> Reader | None:
    """Find the reader of a file or folder: those that users registered come first."""
    entries = [*READERS.values()]
    own = {entry.name for entry in _OWN}
    ordered = [e for e in entries if e.name not in own] + [e for e in entries if e.name in own]
    return next((entry for entry in ordered if entry.takes(path)), None)
