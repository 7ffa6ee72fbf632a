"""A run under another codec: copied block by block, everything else as it was.

What is read is compared with the digests of its snapshots, so that
damage is not carried on under checksums that are right.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ckptlab.cores import count_cores
from ckptlab.errors import ConfigError, CorruptError, RunExistsError
from ckptlab.store.backends.local import sync_folder
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format import schema
from ckptlab.store.format.block import Block, Evaluation, Observations
from ckptlab.store.format.codecs import require_public
from ckptlab.store.format.digest import snapshot_digests
from ckptlab.store.format.shards import EncodeMap, is_sharded
from ckptlab.store.format.zarr_metadata import OBSERVED
from ckptlab.store.read.reader import StoredRun, open_store
from ckptlab.store.write.metadata import RESERVED
from ckptlab.store.write.writer import StoreWriter

ASIDE = ".repacked"
"""Suffix of the copy, beside the run, that takes its place."""

REPLACED = ".replaced"
"""Suffix of the run while its copy takes its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Repacked:
    """What was done.

    Parameters
    ----------
    path : str
        Where the run lies under the new codec.
    codec : str
        Its name.
    steps : int
        Recorded steps.
    before, after : int
        Bytes of all files of the weights.
    """

    path: str
    codec: str
    steps: int
    before: int
    after: int


def repack(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    codec: str = "dense",
    overwrite: bool = False,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Repacked:
    """Store a run under another codec.

    Parameters
    ----------
    path : str or path-like
        Local path or URL.
    output : str or path-like, optional
        Where the copy is written; by default it takes the place of the run, which must be local and
        not being written.
    codec : str
        Public codec name.
    overwrite : bool
        Whether a run at `output` may be replaced.
    threads : int, optional
        Cores that compress; all by default.
    progress : callable, optional
        Called with the steps done and all steps.

    Returns
    -------
    Repacked
        Sizes before and after.

    Raises
    ------
    ConfigError
        If the codec is unknown, or a run in an object store is to be replaced.
    LockedError
        If the run, which is to be replaced, is being written.
    StoreError
        If there is no run, or it is damaged; the run is left as it was.
    """
    require_public(codec)
    if output is not None:
        source = open_store(path)
        if Path(os.fspath(output)).absolute() == Path(source.path).absolute():
            raise ConfigError(f"{output} is the run itself; leave -o out to replace it")
        return _copy(source, os.fspath(output), codec, overwrite, threads, progress)
    if "://" in os.fspath(path):
        raise ConfigError(f"{path} is not a local folder, so it is not replaced; name a copy (-o)")
    return _replace(Path(path), codec, threads, progress)


def _replace(
    path: Path, codec: str, threads: int | None, progress: Callable[[int, int], None] | None
) -> Repacked:
    aside, replaced = (path.with_name(path.name + suffix) for suffix in (ASIDE, REPLACED))
    _settle(path, aside, replaced)
    open_store(path)  # before a lock is put into a folder that is no run
    lock = open_storage(path).lock()
    try:
        done = _copy(open_store(path), str(aside), codec, True, threads, progress)
        lock.check()
        path.rename(replaced)
        aside.rename(path)
        sync_folder(path.parent)  # or a power loss might find the old one half deleted
    finally:
        lock.release()
    shutil.rmtree(replaced)
    return Repacked(**{**asdict(done), "path": str(path)})


def _settle(path: Path, aside: Path, replaced: Path) -> None:
    """Bring an exchange to its end that was stopped within it; what it left says how far it was."""
    if not replaced.exists():
        return
    open_store(replaced)  # anything else of that name is not ours
    if path.exists() and not aside.exists():
        shutil.rmtree(replaced)
    elif not path.exists():
        replaced.rename(path)
    else:
        raise RunExistsError(f"{replaced} is in the way; move it elsewhere, then repack again")


def _copy(
    source: StoredRun,
    output: str,
    codec: str,
    overwrite: bool,
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> Repacked:
    layout, block = source.layout, int(source.attributes["block"])
    attributes = {k: v for k, v in source.attributes.items() if k not in RESERVED}
    optional = [name for name in ("gradients",) if name in source.arrays]
    writer = StoreWriter.create(
        open_storage(output),
        layout,
        block=block,
        codec=codec,
        attributes=attributes,
        optional=optional,
        mask=source.mask(),
        observed=source.observed is not None,
        capacity=max(len(source.steps), 1),
        overwrite=overwrite,
    )
    try:
        with ThreadPoolExecutor(threads or count_cores(), "ckptlab-encode") as pool:
            small = {n: source.small(n) for n, m in source.metadata.items() if schema.is_small(m)}
            for start in range(0, len(source.steps), block):
                _copy_block(source, small, writer, start, pool.map)
                if progress is not None:
                    progress(len(writer.steps), len(source.steps))
        if source.observed is not None and len(source.observed):
            arrays = {n: v for n, v in small.items() if n.startswith(schema.OBSERVED_SERIES)}
            steps = arrays.pop(OBSERVED).tolist()
            writer.write_evaluations([], Observations(steps=steps, arrays=arrays))
        writer.finish("interrupted" if source.state == "recording" else source.state)
    except BaseException:
        writer.abandon()
        raise
    after = writer.weight_bytes
    sizes = source.file_sizes().items()
    before = sum(size for key, size in sizes if key.startswith("weights/c/"))
    steps = len(source.steps)
    return Repacked(path=output, codec=codec, steps=steps, before=before, after=after)


def _copy_block(
    source: StoredRun,
    small: dict[str, np.ndarray],
    writer: StoreWriter,
    start: int,
    map_chunks: EncodeMap,
) -> None:
    """Write a block as it was, with every anchor that lies in it."""
    block = writer.block
    stop = min(start + block, len(source.steps))
    steps = source.steps[start:stop]
    rows = {
        name: source.array(name).read_block(start // block)
        for name, document in source.metadata.items()
        if is_sharded(document) and not name.startswith(schema.OPTIMIZER)
    }
    series = {
        name: values[..., start:stop]
        for name, values in small.items()
        if schema.axis(source.metadata[name]) == "step"
    }
    _require_digests(source, steps, rows["weights"], series["digest"])
    within = [int(a) for a in source.anchors if steps[0] <= a <= steps[-1]]
    ends = {int(np.searchsorted(steps, a)) + 1: a for a in within}
    for end in sorted({*ends, len(steps)}):
        writer.write_block(
            Block(
                start=start,
                rows={name: values[:end] for name, values in rows.items()},
                series={name: values[..., :end] for name, values in series.items()},
                anchor=source.anchor(ends[end]) if end in ends else None,
                evaluations=_evaluations(small, len(writer.evaluations), int(steps[end - 1])),
            ),
            map_chunks=map_chunks,
        )


def _require_digests(
    source: StoredRun, steps: np.ndarray, weights: np.ndarray, digests: np.ndarray
) -> None:
    size = source.weights.shard[0]
    for step, row, expected in zip(steps, weights, digests.T, strict=True):
        if not np.array_equal(snapshot_digests(row, size), expected):
            raise CorruptError(
                f"{source.path}: the weights of step {step} have another digest than was recorded; "
                "run ckptlab verify --deep"
            )


def _evaluations(small: dict[str, np.ndarray], known: int, last: int) -> list[Evaluation]:
    steps, losses, accuracies = (
        small[name][known:] for name in ("eval_step", "eval_loss", "eval_accuracy")
    )
    return [
        Evaluation(step=int(step), loss=float(loss), accuracy=float(accuracy))
        for step, loss, accuracy in zip(steps, losses, accuracies, strict=True)
        if step <= last
    ]
