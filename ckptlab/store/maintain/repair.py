"""Mending a run, after saving what is changed aside: a broken tail is cut off.

Damage before the tail is refused: what was recorded behind it is worth more.
What follows from other files is rebuilt; observations, which a run can do without, are emptied.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import numpy as np

from ckptlab.errors import CorruptError
from ckptlab.store.backends.base import ROOT, MissingObjectError, Storage
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.checksum import checksummed
from ckptlab.store.format.constants import CONSTANTS, write_constants
from ckptlab.store.format.digest import snapshot_digests
from ckptlab.store.format.schema import is_small
from ckptlab.store.format.small_arrays import blank, chunk_length
from ckptlab.store.format.zarr_metadata import ArrayMetadata, with_length
from ckptlab.store.maintain.budget import DEFAULT_MEMORY
from ckptlab.store.maintain.findings import Finding, Repair, Report
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.array_reader import StoredArray
from ckptlab.store.read.commits import committed_keys
from ckptlab.store.read.root import read_root
from ckptlab.store.write.writer import StoreWriter


def repair(
    path: str | os.PathLike[str] | Storage, *, deep: bool = False, memory: int = DEFAULT_MEMORY
) -> Repair:
    """Drop the damaged blocks at the end of a run, rebuild what can be, empty observations.

    Parameters
    ----------
    path : str, path-like or Storage
        Local path or URL.
    deep : bool
        Whether to find damage by the digests, too.
    memory : int
        Bytes that looking for it may take.

    Returns
    -------
    Repair
        What was lost, and where it was saved before.

    Raises
    ------
    CorruptError
        If there is damage that is not in the tail.
    LockedError
        If the run is being written.
    """
    storage = open_storage(path)
    report = verify(storage, deep=deep, memory=memory)
    if report.ok:
        return Repair(path=storage.path, left=report.steps)
    _require_readable_root(report)
    writer = StoreWriter.resume(storage)
    try:
        kept = _kept_steps(report, np.array(writer.steps), writer.block)
        return _cut(storage, writer, kept, report)
    except BaseException:
        writer.abandon()
        raise


def _require_readable_root(report: Report) -> None:
    for finding in report.findings:
        if not finding.array:
            raise CorruptError(
                f"{report.path} cannot be repaired: {finding}. The root metadata stands nowhere "
                "else; restore it from a copy"
            )


def _kept_steps(report: Report, steps: np.ndarray, block: int) -> int:
    """Return how many steps stay if every block from the first damaged one on is dropped."""
    blocks: set[int] = set()
    for finding in report.findings:
        if finding.rebuildable or finding.observation:
            continue
        if finding.first_step is None or finding.last_step is None:
            raise _not_in_tail(report.path, finding)
        first, last = np.searchsorted(steps, [finding.first_step, finding.last_step]) // block
        if first != last:
            # A small array's chunk: dropping it would take intact blocks along.
            raise _not_in_tail(report.path, finding)
        blocks.add(int(first))
    if not blocks:
        return len(steps)
    first, end = min(blocks), (report.steps - 1) // block
    intact = set(range(first, end + 1)) - blocks
    if intact:
        broken = [f for f in report.findings if not f.rebuildable and not f.observation]
        raise _not_in_tail(report.path, min(broken, key=lambda f: f.first_step or 0))
    return first * block


def _not_in_tail(path: str, finding: Finding) -> CorruptError:
    return CorruptError(
        f"{path} cannot be repaired by dropping its tail, since intact steps would go with it: "
        f"{finding}. Restore that file from a copy, or use the run as far as it can be read"
    )


def _cut(storage: Storage, writer: StoreWriter, kept: int, report: Report) -> Repair:
    dropped = writer.steps[kept:]
    anchors, evaluations = len(writer.anchors), len(writer.evaluations)
    saved = _save(storage, [*_changed(storage, writer, kept), *(f.file for f in report.findings)])
    if any(f.array in CONSTANTS for f in report.findings):
        write_constants(storage, writer.layout)
    _, metadata = read_root(storage)
    for finding in report.findings:
        if finding.file.startswith("digest/c/"):
            _rebuild_digests(storage, metadata, finding.file, kept)
        elif finding.observation:
            document = metadata[finding.array]
            values = blank(document, chunk_length(document))
            storage.put(finding.file, [checksummed(values.tobytes())])
    writer.cut(kept)
    writer.finish("interrupted" if dropped else report.state)
    return Repair(
        path=storage.path,
        saved=saved,
        steps=len(dropped),
        first_step=dropped[0] if dropped else None,
        last_step=dropped[-1] if dropped else None,
        anchors=anchors - len(writer.anchors),
        evaluations=evaluations - len(writer.evaluations),
        left=kept,
        rebuilt=tuple(f.file for f in report.findings if f.rebuildable),
        emptied=tuple(f.where for f in report.findings if f.observation),
    )


def _rebuild_digests(
    storage: Storage, metadata: Mapping[str, ArrayMetadata], key: str, kept: int
) -> None:
    """Compute a chunk of digests from the weights, as far as they stay."""
    document = metadata["digest"]
    length = chunk_length(document)
    values = blank(document, length)
    stay = with_length(metadata["weights"], {"step": kept})
    weights = StoredArray(storage.path, "weights", stay, storage)
    first, (size, block) = int(key.rpartition("/")[2]) * length, weights.shard
    for start in range(first, min(first + length, kept), block):
        for column, weight in enumerate(weights.read_block(start // block), start - first):
            values[:, column] = snapshot_digests(weight, size)
    storage.put(key, [checksummed(values.tobytes())])


def _changed(storage: Storage, writer: StoreWriter, kept: int) -> Iterable[str]:
    """List the files that cutting deletes or writes anew."""
    _, metadata = read_root(storage)
    last = writer.steps[kept - 1] if kept else -1
    lengths = {
        "step": kept,
        "anchor": sum(step <= last for step in writer.anchors),
        "eval_step": sum(step <= last for step in writer.evaluations),
    }
    yield ROOT
    for name, document in metadata.items():
        stays = list(committed_keys(name, with_length(document, lengths)))
        if is_small(document):
            del stays[-1]  # its entries past the cut go when it is next written
        yield f"{name}/{ROOT}"
        yield from (key for key in committed_keys(name, document) if key not in stays)


def _save(storage: Storage, keys: Iterable[str]) -> str:
    base = storage.path.rstrip("/")
    number = 1
    while (aside := open_storage(f"{base}.damaged-{number}")).exists():
        number += 1
    for key in dict.fromkeys(keys):
        try:
            data = storage.get(key)
        except MissingObjectError:
            continue
        aside.put(key, [data])
    aside.sync()
    return aside.path
