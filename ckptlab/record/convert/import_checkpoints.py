"""A folder of checkpoints made into a run."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.cores import count_cores
from ckptlab.errors import DataError, StoreError
from ckptlab.record.convert.checkpoint_files import SUFFIXES, read_checkpoint
from ckptlab.record.convert.infer_layout import layout_of
from ckptlab.record.environment import describe_environment
from ckptlab.record.memory import parse_memory
from ckptlab.record.pipeline.buffers import block_size
from ckptlab.record.state.model_tensors import dtype_name
from ckptlab.store.backends.base import Storage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Block
from ckptlab.store.format.codecs import require_public
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.shards import EncodeMap
from ckptlab.store.write.writer import StoreWriter

_STEPS = [
    # Not the ends of other words: deep2_500.pt is of step 500.
    *(
        re.compile(rf"(?<![a-z])(?:{words})[-_=. ]?(\d+)", re.IGNORECASE)
        for words in ("(?:global|time)?steps?", "iter(?:ation)?", "ep(?:och)?")
    ),
    re.compile(r"(\d+)(?!.*\d)"),
]
_MAX_DIGITS = 15  # what a float64 axis holds


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
                    _write(writer, start, rows, [step for step, _ in part[:filled]], pool.map)
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


def _close(storage: Storage) -> None:
    """Keep what was imported before an error or an interrupt, wherever that came."""
    writer = StoreWriter.resume(storage)  # it goes by what is marked on disk
    if writer.steps:
        writer.finish("interrupted")
    else:
        storage.clear()
        writer.abandon()


def _write(
    writer: StoreWriter,
    start: int,
    rows: dict[str, npt.NDArray[Any]],
    steps: list[int],
    map_chunks: EncodeMap,
) -> None:
    if steps:
        cut = {name: values[: len(steps)] for name, values in rows.items()}
        series = {"step": np.array(steps, np.int64)}
        block = Block(start=start, rows=cut, series=series)
        writer.write_block(block, map_chunks=map_chunks)


def _fill(rows: dict[str, npt.NDArray[Any]], slot: int, layout: Layout, path: Path) -> None:
    state = read_checkpoint(path)
    known = {name for row in layout.rows for name in (row.name, *row.aliases)}
    if state.keys() != known:
        odd = min(state.keys() ^ known)
        which = "has a tensor {!r} that the first has not" if odd in state else "lacks tensor {!r}"
        raise DataError(f"{path} {which.format(odd)}; all must be of one model")
    for row in layout.rows:
        tensor = state[row.name]
        form = tuple(tensor.shape), dtype_name(tensor)
        if form != (row.shape, row.dtype):
            raise DataError(
                f"{path}: tensor {row.name!r} is {form[1]} of shape {form[0]}, in the first it is "
                f"{row.dtype} of shape {row.shape}; all must be of one model"
            )
        for alias in row.aliases:
            if _bits(state[alias]) != _bits(tensor):
                raise DataError(
                    f"{path}: tensors {row.name!r} and {alias!r} differ and are one in the first; "
                    "all must be of one model"
                )
        if row.size:
            array = getattr(row, "array", "weights")
            values = tensor.detach().resolve_neg().reshape(-1)
            # numpy knows no bfloat16; of a float16 that is no number, torch would change the bits.
            exact = values.float() if values.dtype == torch.bfloat16 else values
            rows[array][slot, row.stretch] = exact.numpy()


def _bits(tensor: torch.Tensor) -> tuple[object, ...]:
    values = tensor.detach().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return tuple(tensor.shape), tensor.dtype, values.numpy().tobytes()
