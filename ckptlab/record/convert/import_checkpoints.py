"""A series of checkpoints made into a run, or added to one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ckptlab.cores import count_cores
from ckptlab.errors import DataError, StoreError
from ckptlab.record.convert.assemble_rows import array_types, lazy_rows
from ckptlab.record.convert.find_checkpoints import Checkpoint, Choice, Series, find_checkpoints
from ckptlab.record.convert.import_optimizer import read_anchor
from ckptlab.record.convert.infer_layout import layout_of
from ckptlab.record.convert.tensors import LazyTensor
from ckptlab.record.environment import describe_environment
from ckptlab.record.memory import parse_memory
from ckptlab.record.pipeline.buffers import MAX_BLOCK, block_size
from ckptlab.store.backends.base import Storage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Block
from ckptlab.store.format.codecs import require_public
from ckptlab.store.format.layout import Layout
from ckptlab.store.write.target import is_free
from ckptlab.store.write.writer import StoreWriter

STRETCH = 2**21
"""Parameters of a shard: as many of each step of a block are in memory."""

MAX_NOTES = 100
"""Lines about what was chosen and left out that the run keeps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Imported:
    """What was taken over.

    Parameters
    ----------
    path : str
        Of the run.
    steps, new : int
        How many checkpoints the run holds, and how many of them came now.
    first, last : int, optional
        The first and last step of the run.
    parameters : int
        Of the model.
    notes : list of str
        What was chosen, skipped and left out, a line each.
    """

    path: str
    steps: int
    new: int
    first: int | None
    last: int | None
    parameters: int
    notes: list[str] = field(default_factory=list)


def import_checkpoints(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    choice: Choice | None = None,
    follow: bool = False,
    codec: str = "dense",
    memory: int | str = "1GiB",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Make a run of a folder of checkpoints, or add what is new to it.

    Parameters
    ----------
    folder : str or path-like
        See `find_checkpoints`.
    output : str or path-like
        Local path or URL of the run.
    choice : Choice, optional
        Which checkpoints and which of their tensors, and how steps are read.
    follow : bool
        Add the checkpoints of later steps to the run at `output`, if there is one.
    codec : str
        Public codec name.
    memory : int or str
        Upper bound for what is held; sets the steps of a block.
    overwrite : bool
        Whether a run at `output` may be replaced.
    progress : callable, optional
        Called with the checkpoints done and all of them.

    Returns
    -------
    Imported
        What was taken over. Losses and gradients are not: NaN, or left out.

    Raises
    ------
    DataError
        If there are no checkpoints, one cannot be read, or they are not of one model.
    UnsupportedTensorError
        If a tensor cannot be stored exactly.
    StoreError
        If the path is taken, or cannot be written.
    """
    require_public(codec)
    series = find_checkpoints(folder, choice)
    return import_series(
        series,
        output,
        source=Path(folder).absolute().name,
        follow=follow,
        codec=codec,
        memory=memory,
        overwrite=overwrite,
        progress=progress,
    )


def import_series(
    series: Series,
    output: str | os.PathLike[str] | Storage,
    *,
    source: str,
    follow: bool = False,
    codec: str = "dense",
    memory: int | str = "1GiB",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Imported:
    """Write checkpoints that were found to a run; see `import_checkpoints`.

    `source` is what the run says it was made of. A block that is not full is written again with
    what is added to it, so that checkpoints may come one by one.
    """
    storage = open_storage(output)
    notes = list(series.notes)
    if follow and not overwrite and not is_free(storage):
        writer, checkpoints = _continue(storage, series.checkpoints, notes)
    else:
        checkpoints = series.checkpoints
        writer = _create(storage, series, source, codec, parse_memory(memory), overwrite, follow)
    if not checkpoints:
        writer.abandon()
        return _imported(writer, storage.path, notes, 0)
    _note(writer, source, notes, len(writer.steps) + len(checkpoints))
    try:
        with ThreadPoolExecutor(count_cores(), "ckptlab-encode") as pool:
            _write(writer, checkpoints, pool, parse_memory(memory), notes, progress)
        _note(writer, source, notes, len(writer.steps))
        writer.finish("complete")
    except BaseException:
        writer.abandon()
        with contextlib.suppress(StoreError):
            _close(storage)
        raise
    return _imported(writer, storage.path, notes, len(checkpoints))


def _imported(writer: StoreWriter, path: str, notes: list[str], new: int) -> Imported:
    steps = writer.steps
    return Imported(
        path=path,
        steps=len(steps),
        new=new,
        first=steps[0] if steps else None,
        last=steps[-1] if steps else None,
        parameters=writer.layout.parameters,
        notes=notes,
    )


def choose_block(layout: Layout, steps: int, memory: int, *, ranged: bool) -> int:
    """Return how many steps a block holds.

    Of files that are read by ranges, a stretch of each step is in memory at once, else all of it.
    """
    arrays = array_types(layout).values()
    stored = sum(size * dtype.itemsize for size, dtype in arrays)
    held = sum(min(size, STRETCH if ranged else size) * dtype.itemsize for size, dtype in arrays)
    whole = 1 << (steps - 1).bit_length()  # a block of more steps would be padded
    return min(block_size(stored, memory, held=held), whole)


def _create(
    storage: Storage,
    series: Series,
    source: str,
    codec: str,
    memory: int,
    overwrite: bool,
    follow: bool,
) -> StoreWriter:
    first = series.checkpoints[0]
    content, weights = first.open()
    layout = layout_of(weights.tensors)
    steps = len(series.checkpoints)
    # A series that grows will fill its blocks.
    block = choose_block(layout, MAX_BLOCK if follow else steps, memory, ranged=content.ranged)
    attributes = {
        "imported": {"folder": source, "files": steps},
        "start_step": first.step,
        **describe_environment(torch.device("cpu")),
    }
    return StoreWriter.create(
        storage,
        layout,
        block=block,
        codec=codec,
        attributes=attributes,
        capacity=steps,
        overwrite=overwrite,
    )


def _continue(
    storage: Storage, checkpoints: Sequence[Checkpoint], notes: list[str]
) -> tuple[StoreWriter, list[Checkpoint]]:
    """Resume the run that a series was imported to; return what is new."""
    writer = StoreWriter.resume(storage)
    try:
        _require_imported(writer, storage.path)
        last = writer.steps[-1] if writer.steps else -1
        known = set(writer.steps)
        notes += [
            f"left out step {c.step} ({c.path.name}): it came after step {last} was imported; "
            "import anew with --overwrite"
            for c in checkpoints
            if c.step < last and c.step not in known
        ]
        new = [checkpoint for checkpoint in checkpoints if checkpoint.step > last]
        if new:
            _require_layout(writer.layout, new[0].open()[1].tensors, str(new[0].path))
            writer.cut(len(writer.steps))
    except BaseException:
        writer.abandon()
        raise
    return writer, new


def _require_imported(writer: StoreWriter, path: str) -> None:
    if "imported" not in writer.attributes:
        raise DataError(
            f"{path} was recorded, not imported; --follow adds to a run that import made. Give "
            "another --output"
        )


def _require_layout(layout: Layout, tensors: dict[str, LazyTensor], label: str) -> None:
    found = layout_of({name: tensors[name] for name in _in_order(layout, tensors)})
    if different := layout.difference(found):
        name, ours, theirs = different
        raise DataError(
            f"{label}: tensor {name!r} is {theirs}, in the run {ours}; all must be of one model. "
            "Import it to another --output"
        )


def _in_order(layout: Layout, tensors: dict[str, LazyTensor]) -> list[str]:
    known = [name for row in layout.rows for name in (row.name, *row.aliases) if name in tensors]
    return [*dict.fromkeys(known), *(name for name in tensors if name not in known)]


def _note(writer: StoreWriter, source: str, notes: list[str], files: int) -> None:
    earlier = writer.attributes["imported"]
    kept = list(dict.fromkeys([*earlier.get("notes", []), *notes]))[:MAX_NOTES]
    writer.set_attributes(
        imported={"folder": source, "files": files, **({"notes": kept} if kept else {})}
    )


def _write(
    writer: StoreWriter,
    checkpoints: Sequence[Checkpoint],
    pool: ThreadPoolExecutor,
    memory: int,
    notes: list[str],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write checkpoints block by block; of a block with a bad one, those before it."""
    done, total = 0, len(checkpoints)
    while done < total:
        room = writer.block - len(writer.steps) % writer.block
        part = checkpoints[done : done + room]

        def show(share: float, done: int = done, count: int = len(part)) -> None:
            if progress is not None:
                progress(done + int(share * count), total)

        try:
            note = _write_block(writer, part, pool, memory, show)
        except DataError as error:
            names = [str(checkpoint.path) for checkpoint in part]
            if error.file in names[1:]:
                _write_block(writer, part[: names.index(error.file)], pool, memory, show)
            raise
        if note and note not in notes:
            notes.append(note)
        done += len(part)


def _write_block(
    writer: StoreWriter,
    part: Sequence[Checkpoint],
    pool: ThreadPoolExecutor,
    memory: int,
    show: Callable[[float], None],
) -> str:
    """Write a block again with checkpoints added to it, or a new one.

    The optimizer's state comes with the last. Returns why it was left out, if it was.
    """
    start = len(writer.steps) - len(writer.steps) % writer.block
    earlier = writer.stored() if len(writer.steps) > start else None
    known = {name for row in writer.layout.rows for name in (row.name, *row.aliases)}
    opened = [checkpoint.open() for checkpoint in part]
    states = [(str(c.path), w.tensors) for c, (_, w) in zip(part, opened, strict=True)]
    for label, state in states:
        if odd := min(state.keys() ^ known, default=None):
            raise DataError(
                f"{label} and the run differ in tensor {odd!r}; all must be of one model",
                file=label,
            )
    rows = lazy_rows(writer.layout, states, earlier, start, show)
    steps = np.array([*writer.steps[start:], *(c.step for c in part)], np.int64)
    anchor, note = None, ""
    if part[-1].choice.weights in (None, "model"):
        anchor, note = read_anchor(*opened[-1], writer.layout, part[-1].step, memory)
    block = Block(start=start, rows={}, lazy=rows, series={"step": steps}, anchor=anchor)
    writer.write_block(block, map_chunks=pool.map)
    return note


def _close(storage: Storage) -> None:
    """Keep what was imported before an error or an interrupt, wherever that came."""
    writer = StoreWriter.resume(storage)  # it goes by what is marked on disk
    if writer.steps:
        writer.finish("interrupted")
    else:
        storage.clear()
        writer.abandon()
