"""Checkpoints of others: a folder of them becomes a run, a snapshot becomes one of them.

Imports record.{environment, staging}, store and cores. Pickled code is never run: what would need
it is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ckptlab.cores import count_cores
from ckptlab.errors import ConfigError, DataError, RunExistsError, StoreError, WriteError
from ckptlab.record.environment import describe_environment
from ckptlab.record.naming import layout_of
from ckptlab.record.staging import block_size, parse_memory
from ckptlab.store.block import Block
from ckptlab.store.codecs import require_public
from ckptlab.store.layout import Layout
from ckptlab.store.storage import Storage, open_storage
from ckptlab.store.writer import StoreWriter

SUFFIXES = (".safetensors", ".pt", ".pth")
"""Of the files that are read and written."""

STATES = ("state_dict", "model_state_dict", "model", "net", "module", "weights", "params")
"""Keys under which checkpoints keep the model's tensors beside the optimizer's and others."""

_PREFIXES = ("module.", "_orig_mod.")
_STEPS = [
    # Not the ends of other words: deep2_500.pt is of step 500.
    *(
        re.compile(rf"(?<![a-z])(?:{words})[-_=. ]?(\d+)", re.IGNORECASE)
        for words in ("(?:global|time)?steps?", "iter(?:ation)?", "ep(?:och)?")
    ),
    re.compile(r"(\d+)(?!.*\d)"),
]

_MAX_DIGITS = 15  # what a float64 axis holds
_DIGITS = re.compile(r"(\d+)")

State = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What was taken over.

    Parameters
    ----------
    path : str
        Of the run.
    steps : int
        How many checkpoints.
    first, last : int
        Their steps.
    parameters : int
        Of the model.
    """

    path: str
    steps: int
    first: int
    last: int
    parameters: int


def step_of(path: Path) -> int:
    """Read the step from a file's name: behind ``step``, ``iter`` or ``epoch``, or its last number.

    Parameters
    ----------
    path : Path
        Such as ``step_000500.pt``, ``net-epoch3-acc0.91.pth`` or ``500.safetensors``.

    Returns
    -------
    int
        The step, or the epoch where only that is there.

    Raises
    ------
    DataError
        If there is no number in it, or one that no training reaches.
    """
    for pattern in _STEPS:
        if found := pattern.search(path.stem):
            if len(found[1].lstrip("0")) > _MAX_DIGITS:
                raise DataError(
                    f"{path}: {found[1]:.40} is no step; at most {_MAX_DIGITS} digits are"
                )
            return int(found[1])
    raise DataError(f"{path} has no number in its name; call it by its step, like step_500.pt")


def find_checkpoints(folder: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    """List the checkpoints in a folder, by step.

    Parameters
    ----------
    folder : str or path-like
        Its files that end in `SUFFIXES`; folders within it are passed over.

    Returns
    -------
    list of (int, Path)
        Step and file, in the order of the steps.

    Raises
    ------
    DataError
        If there are none, one has no step, two have the same, or the folder cannot be read.
    """
    try:
        if not Path(folder).is_dir():
            raise DataError(f"{os.fspath(folder)} is no folder; give one that holds checkpoints")
        named = [path for path in Path(folder).iterdir() if path.suffix in SUFFIXES]
        files = [path for path in named if not path.is_dir()]
        for path in files:
            if not path.is_file():  # a pipe would be waited for
                raise DataError(f"{path} is no file that can be read; move it elsewhere")
    except OSError as error:
        raise DataError(f"{os.fspath(folder)} cannot be read: {error.strerror}") from error
    if not files:
        raise DataError(f"{os.fspath(folder)} holds no file that ends in {', '.join(SUFFIXES)}")
    found = sorted((step_of(path), path) for path in files)
    for (step, path), (following, other) in itertools.pairwise(found):
        if step == following:
            raise DataError(
                f"{path.name} and {other.name} both count as step {step}; rename one, or move it"
            )
    return found


def read_checkpoint(path: Path) -> State:
    """Read a model's tensors, on the CPU; code in the file is not run.

    Parameters
    ----------
    path : Path
        A state dict, or a dict that holds one under one of `STATES`.

    Returns
    -------
    dict of str to Tensor
        By name, without the prefixes of wrappers.

    Raises
    ------
    DataError
        If it cannot be read, needs code to be run, or holds no tensors.
    """
    try:
        path.open("rb").close()  # its errors say more than those of what reads it
        if path.suffix == ".safetensors":
            # Those files keep no order: layer10 comes after layer2.
            loaded = load_file(path)
            found: Any = {name: loaded[name] for name in sorted(loaded, key=_natural)}
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of files of another pickle protocol
                found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError:
        raise
    except SafetensorError as error:
        raise DataError(f"{path} is no safetensors file, or not a whole one: {error}") from error
    except Exception as error:  # whatever a damaged or hostile file makes of it
        raise DataError(
            f"{path} is damaged, or holds objects whose code would have to be run "
            f"({type(error).__name__}); save model.state_dict() instead of the model"
        ) from error
    state = _state(found)
    if not state:
        raise DataError(
            f"{path} holds no tensors by name, neither itself nor under {', '.join(STATES)}"
        )
    for name, tensor in state.items():
        if tensor.is_meta:
            raise DataError(f"{path}: tensor {name!r} holds no values (device meta); save it again")
    for prefix in _PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def import_checkpoints(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    codec: str = "dense",
    memory: int | str = "1GiB",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Make a run of a folder of checkpoints.

    Parameters
    ----------
    folder : str or path-like
        See `find_checkpoints`.
    output : str or path-like
        Local path or URL of the run.
    codec : str
        Public codec name.
    memory : int or str
        Upper bound for what is held, beside one checkpoint; sets the steps of a block.
    overwrite : bool
        Whether a run at `output` may be replaced.
    progress : callable, optional
        Called with the checkpoints done and all of them.

    Returns
    -------
    Imported
        What was taken over. Losses, gradients and optimizers are not: NaN, or left out.

    Raises
    ------
    DataError
        If a file cannot be read, or differs from the first in its tensors; the run then holds
        those before it.
    UnsupportedTensorError
        If a tensor cannot be stored exactly.
    StoreError
        If the path is taken, or cannot be written.
    """
    require_public(codec)
    files = find_checkpoints(folder)
    layout = layout_of(read_checkpoint(files[0][1]))
    sizes = {"weights": layout.parameters, **layout.buffer_sizes}
    types = {name: np.dtype(name.partition("_")[2] or "float32") for name in sizes}
    step_bytes = sum(sizes[name] * types[name].itemsize for name in sizes)
    storage = open_storage(output)
    whole = 1 << (len(files) - 1).bit_length()  # a block of more steps would be padded
    writer = StoreWriter.create(
        storage,
        layout,
        block=min(block_size(step_bytes, parse_memory(memory)), whole),
        codec=codec,
        attributes={
            "imported": {"folder": Path(folder).absolute().name, "files": len(files)},
            "start_step": files[0][0],
            **describe_environment(torch.device("cpu")),
        },
        capacity=len(files),
        overwrite=overwrite,
    )
    try:
        with ThreadPoolExecutor(count_cores(), "ckptlab-encode") as pool:
            writer.shards.map_chunks = pool.map
            for start in range(0, len(files), writer.block):
                part = files[start : start + writer.block]
                rows = {
                    name: np.empty((len(part), size), types[name])
                    for name, size in sizes.items()
                    if size
                }
                filled = 0
                try:
                    for slot, (_, path) in enumerate(part):
                        _fill(rows, slot, layout, path)
                        filled += 1
                        if progress is not None:
                            progress(start + filled, len(files))
                finally:
                    _write(writer, start, rows, [step for step, _ in part[:filled]])
        writer.finish("complete")
    except BaseException:
        writer.abandon()
        with contextlib.suppress(StoreError):
            _close(storage)
        raise
    return Imported(
        path=os.fspath(output),
        steps=len(files),
        first=files[0][0],
        last=files[-1][0],
        parameters=layout.parameters,
    )


def write_checkpoint(
    state: Mapping[str, torch.Tensor], path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a state dict that ``model.load_state_dict`` takes.

    Parameters
    ----------
    state : mapping of str to Tensor
        As `Run.state_dict` gives it.
    path : str or path-like
        Ends in one of `SUFFIXES`, which says the format. It is there as a whole or not at all.
    overwrite : bool
        Whether a file there may be replaced.

    Raises
    ------
    ConfigError
        If the name ends otherwise.
    RunExistsError
        If something lies there and `overwrite` is not set.
    WriteError
        If it cannot be written.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise ConfigError(
            f"{target} does not end in {', '.join(SUFFIXES)}; the suffix is the format"
        )
    if target.is_dir() or (os.path.lexists(target) and not overwrite):
        raise RunExistsError(f"{target} exists; name another file, or replace it with --overwrite")
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # its errors say more than those of what writes it
        mode = partial.stat().st_mode
        if target.suffix == ".safetensors":
            # Tied tensors are one in memory, which that format does not know.
            save_file({name: value.clone() for name, value in state.items()}, partial, _METADATA)
        else:
            torch.save(dict(state), partial)
        partial.chmod(mode)  # safetensors lets nobody else read it
        partial.replace(target)
    except OSError as error:
        raise WriteError(f"{target} cannot be written: {error.strerror or error}") from error
    except (RuntimeError, SafetensorError) as error:
        why = str(error).partition("\n")[0]
        raise WriteError(f"{target} cannot be written: {why}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


_METADATA = {"format": "pt"}  # what other readers of safetensors look for


def _identity_bits(tensor: torch.Tensor) -> tuple[object, ...]:
    values = tensor.detach().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return tuple(tensor.shape), tensor.dtype, values.numpy().tobytes()


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in _DIGITS.split(name)]


def _state(found: Any, depth: int = 8) -> State:
    """Find the model's tensors by name; empty if there are none."""
    if not isinstance(found, Mapping) or not depth:
        return {}
    for key in STATES:
        if inner := _state(found.get(key), depth - 1):
            return inner
    return {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}


def _close(storage: Storage) -> None:
    """Keep what was imported before an error or an interrupt, wherever that came."""
    writer = StoreWriter.resume(storage)  # it goes by what is marked on disk
    if writer.steps:
        writer.finish("interrupted")
    else:
        storage.clear()
        writer.abandon()


def _write(
    writer: StoreWriter, start: int, rows: dict[str, npt.NDArray[Any]], steps: list[int]
) -> None:
    if steps:
        cut = {name: values[: len(steps)] for name, values in rows.items()}
        series = {"step": np.array(steps, np.int64)}
        writer.write_block(Block(start=start, rows=cut, series=series))


def _fill(rows: dict[str, npt.NDArray[Any]], slot: int, layout: Layout, path: Path) -> None:
    state = read_checkpoint(path)
    known = {name for row in layout.rows for name in (row.name, *row.aliases)}
    if state.keys() != known:
        odd = min(state.keys() ^ known)
        which = "has a tensor {!r} that the first has not" if odd in state else "lacks tensor {!r}"
        raise DataError(f"{path} {which.format(odd)}; all must be of one model")
    for row in layout.rows:
        tensor = state[row.name]
        form = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if form != (row.shape, row.dtype):
            raise DataError(
                f"{path}: tensor {row.name!r} is {form[1]} of shape {form[0]}, in the first it is "
                f"{row.dtype} of shape {row.shape}; all must be of one model"
            )
        for alias in row.aliases:
            if _identity_bits(state[alias]) != _identity_bits(tensor):
                raise DataError(
                    f"{path}: tensors {row.name!r} and {alias!r} differ and are one in the first; "
                    "all must be of one model"
                )
        if row.size:
            array = getattr(row, "array", "weights")
            values = tensor.detach().resolve_neg().reshape(-1)
            # numpy knows no bfloat16; of a float16 that is no number, torch would change the bits.
            exact = values.float() if values.dtype == torch.bfloat16 else values
            rows[array][slot, row.offset : row.offset + row.size] = exact.numpy()
