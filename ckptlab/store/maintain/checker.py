"""Compare every file that one view of a run names with what it should hold.

Large arrays are read in stretches, so that memory does not grow with the parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from ckptlab.errors import CorruptError, StoreError
from ckptlab.store.backends.base import LOCK, ROOT, Storage
from ckptlab.store.format import schema
from ckptlab.store.format.constants import CONSTANTS, KEPT, check_constants, check_mask
from ckptlab.store.format.layout import Layout
from ckptlab.store.format.shards import Grid, Shard, is_sharded, shard_key
from ckptlab.store.format.small_arrays import chunk_key, chunk_length, read_all, read_chunk
from ckptlab.store.format.zarr_metadata import STEP_AXES, ArrayMetadata, with_length
from ckptlab.store.maintain.budget import Budget
from ckptlab.store.maintain.findings import Finding, Report
from ckptlab.store.read.array_reader import StoredArray
from ckptlab.store.read.commits import committed_keys, read_markers
from ckptlab.store.read.optimizer_state import present_states, read_row_header
from ckptlab.store.read.power_loss import surviving_lengths
from ckptlab.store.write.recovery import MAX_METADATA_BYTES


class Checker:
    """One pass over what one view of a run names, or its markers, if they are ahead."""

    def __init__(
        self,
        storage: Storage,
        attributes: dict[str, Any],
        metadata: dict[str, ArrayMetadata],
        budget: Budget,
    ) -> None:
        self._viewed = schema.committed_lengths(metadata)
        self._survived = surviving_lengths(attributes)
        self._deep = False
        self._budget = budget
        self._storage = storage
        self._attributes = attributes
        self._lengths = self._committed(metadata)
        self._metadata = {n: with_length(d, self._lengths) for n, d in metadata.items()}
        self._findings: list[Finding] = []
        self._notes: list[str] = []
        self._checked: set[str] = {ROOT}
        self._ignored: set[str] = {LOCK}
        self._shards = 0
        self._listed = storage.list()
        self._axes: dict[str, npt.NDArray[np.int64] | None] = {}

    def _committed(self, metadata: dict[str, ArrayMetadata]) -> dict[str, int]:
        """As far as the markers go, or a power loss left it: where it would be taken up again."""
        if self._survived is not None:
            return self._survived
        try:
            return read_markers(self._storage, metadata).lengths()
        except StoreError:
            return self._viewed

    def run(self, *, deep: bool) -> Report:
        """Check everything; `deep` decodes the snapshots, too."""
        self._deep = deep
        self._check_axes()
        self._check_documents()
        layout = Layout.from_attributes(self._attributes)
        for name in CONSTANTS:
            self._try(
                name,
                f"{name}/c/0",
                partial(check_constants, self._storage, layout, f"{name}/c/0"),
                rebuildable=True,
            )
        if schema.MASK in self._metadata:
            self._try(
                schema.MASK, KEPT, partial(check_mask, self._storage, layout, self._attributes)
            )
        for name, document in self._metadata.items():
            if schema.is_small(document) and name not in STEP_AXES:
                self._check_small(name, document)
            elif is_sharded(document) and not name.startswith(schema.OPTIMIZER):
                self._check_large(name)
        self._check_optimizer()
        self._note_others()
        steps = self._axes["step"]
        known = steps is not None and len(steps) > 0
        return Report(
            path=self._storage.path,
            state=self._attributes["state"],
            deep=deep,
            threads=self._budget.threads,
            memory=self._budget.bytes,
            steps=self._lengths["step"],
            first_step=int(steps[0]) if steps is not None and known else None,
            last_step=int(steps[-1]) if steps is not None and known else None,
            arrays=len(self._metadata),
            files=len(self._checked),
            shards=self._shards,
            bytes=sum(self._listed.get(key, 0) for key in self._checked),
            findings=tuple(self._findings),
            notes=tuple(self._notes),
        )

    def add(
        self,
        array: str,
        file: str,
        problem: str,
        span: tuple[int, int] | None = None,
        **kind: bool,
    ) -> None:
        """Note a finding."""
        first, last = span or (None, None)
        self._findings.append(
            Finding(
                array=array, file=file, problem=problem, first_step=first, last_step=last, **kind
            )
        )

    # The parts.

    def _check_axes(self) -> None:
        for name in schema.step_axes(self._metadata):
            document, length = self._metadata[name], self._lengths[name]
            before = len(self._findings)
            for key in committed_keys(name, document):
                self._check_chunk(name, key)
            intact = len(self._findings) == before
            values = read_all(self._storage, name, document, length) if intact else None
            self._axes[name] = values
            key = chunk_key(name, document, max(length - 1, 0) // chunk_length(document))
            if values is not None and (values < 0).any():
                self.add(name, key, "lacks markers of committed entries")
                self._axes[name] = None
            elif values is not None and (np.diff(values) <= 0).any():
                self.add(name, key, "does not increase")
                self._axes[name] = None
        self._compare_axes()

    def _compare_axes(self) -> None:
        steps = self._axes["step"]
        if steps is None:
            return
        last = int(steps[-1]) if len(steps) else -1
        anchors, evaluations = self._axes["anchor"], self._axes["eval_step"]
        if anchors is not None and not np.isin(anchors, steps).all():
            self.add("anchor", "anchor/c/0", "names a step that was not recorded")
        if evaluations is not None and len(evaluations) and int(evaluations[-1]) > last:
            self.add("eval_step", "eval_step/c/0", "names a step past the last one recorded")
        if self._survived is not None:
            lost = self._viewed["step"] - self._survived["step"]
            if lost:
                self._notes.append(
                    f"{lost} steps were not synced before the machine booted, or this is another "
                    "machine; they do not count"
                )
            return
        viewed = steps[: self._viewed["step"]]
        span = {"start": int(viewed[0]), "end": int(viewed[-1])} if len(viewed) else {}
        found = {k: self._attributes[k] for k in ("start", "end") if k in self._attributes}
        if found != span:
            self.add("", ROOT, f"says steps {found or 'none'} where `step` says {span or 'none'}")
        ahead = len(steps) - self._viewed["step"]
        if ahead:
            self._notes.append(f"{ahead} steps were committed after the view; resuming shows them")

    def _check_documents(self) -> None:
        """Compare the arrays' own metadata with the consolidated one, up to their lengths."""
        for name in self._metadata:
            self._try(name, f"{name}/{ROOT}", partial(self._document, name), rebuildable=True)

    def _check_small(self, name: str, document: ArrayMetadata) -> None:
        length, axis = chunk_length(document), schema.axis(document)
        for position, key in enumerate(committed_keys(name, document)):
            span = self._span(axis, position * length, (position + 1) * length)
            digest = name == "digest"  # which follows from the weights
            self._check_chunk(name, key, span, rebuildable=digest, observation=not digest)

    def _check_chunk(
        self, name: str, key: str, span: tuple[int, int] | None = None, **kind: bool
    ) -> None:
        if self._lengths[schema.axis(self._metadata[name])]:
            position = int(key.rpartition("/")[2])
            self._try(name, key, partial(self._chunk, name, position), span, **kind)
        else:
            self._ignored.add(key)  # the first chunk may be there, and nothing in it counts yet

    def _check_large(self, name: str) -> None:
        grid = Grid.of(self._metadata[name])
        deep = self._deep and name == "weights"
        digests = self._digests() if deep else None
        for j in range(grid.shard_grid[1]):
            start, stop = j * grid.shard[1], min((j + 1) * grid.shard[1], grid.shape[1])
            span = self._span("step", start, stop)
            for i in range(grid.shard_grid[0]):
                hashes = [xxhash.xxh3_64() for _ in range(start, stop)] if deep else []
                before = len(self._findings)
                self._check_shard(name, i, j, span, hashes)
                if digests is None or len(self._findings) > before:
                    continue
                for column, found in enumerate(hashes, start):
                    if found.intdigest() != int(digests[i, column]):
                        key, where = shard_key(name, i, j), self._span("step", column, column + 1)
                        self.add(name, key, "decodes to values that have another digest", where)

    def _check_shard(
        self, name: str, i: int, j: int, span: tuple[int, int] | None, hashes: list[Any]
    ) -> None:
        def check() -> None:
            shard = self._array(name).open_shard(i, j)
            shard.check_whole()
            for rows in _rows(shard, self._budget) if self._deep else ():
                for values, digest in zip(rows, hashes, strict=False):
                    digest.update(values)

        self._shards += 1
        self._try(name, shard_key(name, i, j), check, span)

    def _check_optimizer(self) -> None:
        document = self._metadata.get(schema.OPTIMIZER_ROW)
        if document is None:
            return
        grid = Grid.of(document)
        for column in range(self._lengths["anchor"]):
            span = self._span("anchor", column, column + 1)
            states: list[str] = []
            key = shard_key(schema.OPTIMIZER_ROW, 0, column)
            self._try(schema.OPTIMIZER_ROW, key, partial(self._states, column, states), span)
            for i in range(grid.shard_grid[0]):
                if shard_key(schema.OPTIMIZER_ROW, i, column) in self._listed:
                    self._check_shard(schema.OPTIMIZER_ROW, i, column, span, [])
            for name in states:
                if name not in self._metadata:
                    self.add(name, f"{name}/{ROOT}", "is missing", span)
                    continue
                for i in range(Grid.of(self._metadata[name]).shard_grid[0]):
                    self._check_shard(name, i, column, span, [])

    def _states(self, column: int, found: list[str]) -> None:
        """Add the names of the states an anchor has."""
        row = read_row_header(self._storage, self._metadata[schema.OPTIMIZER_ROW], column)
        present = present_states(row) if row else ()
        if present is None:
            raise CorruptError("holds no safetensors header")
        found += [schema.OPTIMIZER + key for key in present]

    def _note_others(self) -> None:
        for key in self._storage.unfinished():
            self._notes.append(f"{key}: a file that was not completed; it holds nothing")
        if self._listed.get(LOCK):
            self._notes.append(f"{LOCK}: a writer is at work, or was killed")
        for key in sorted(self._listed.keys() - self._checked - self._ignored):
            name, _, rest = key.partition("/")
            known = name in self._metadata or name.startswith(schema.OPTIMIZER)
            what = "not committed" if known and rest else "not of the run"
            self._notes.append(f"{key}: {what}; it is not read")

    # What they share.

    def _try(
        self,
        array: str,
        key: str,
        check: Callable[[], object],
        span: tuple[int, int] | None = None,
        **kind: bool,
    ) -> None:
        self._checked.add(key)
        try:
            check()
        except StoreError as error:
            self.add(array, key, error.problem or str(error), span, **kind)

    def _document(self, name: str) -> None:
        try:
            own = json.loads(self._storage.get(f"{name}/{ROOT}", limit=MAX_METADATA_BYTES))
        except (ValueError, RecursionError) as error:
            raise CorruptError(f"is damaged ({error})") from error
        if not _same_but_longer(name, own, self._metadata[name]):
            raise CorruptError("differs from the consolidated metadata")

    def _chunk(self, name: str, position: int) -> object:
        return read_chunk(self._storage, name, self._metadata[name], position)

    def _array(self, name: str) -> StoredArray:
        return StoredArray(self._storage.path, name, self._metadata[name], self._storage)

    def _digests(self) -> npt.NDArray[Any] | None:
        try:
            document, length = self._metadata["digest"], self._lengths["step"]
            return read_all(self._storage, "digest", document, length)
        except StoreError:
            return None  # found by its own check

    def _span(self, axis: str, start: int, stop: int) -> tuple[int, int] | None:
        """Return the first and last step number of a stretch of an axis."""
        values = self._axes[axis]
        if values is None or not len(values[start:stop]):
            return None
        return int(values[start]), int(values[start:stop][-1])


def _rows(shard: Shard, budget: Budget) -> Iterator[npt.NDArray[Any]]:
    """Decode a shard in order, shape (steps, param) at a time, some stretches in parallel."""

    def decode(chunks: range) -> list[npt.NDArray[Any]]:
        loaded, end = shard.loaded(chunks), shard.rows.stop - shard.rows.start
        decoded = []
        for c in chunks:
            chunk = loaded.decode(c)
            decoded.append(np.ascontiguousarray(chunk[: end - c * len(chunk)].T))
        return decoded

    stretches = list(shard.stretches(shard.chunk_count, budget.chunks))
    with ThreadPoolExecutor(budget.threads) as pool:
        for together in _batched(stretches, budget.threads):
            for decoded in pool.map(decode, together):
                yield from decoded


def _batched(items: list[range], size: int) -> Iterator[list[range]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _same_but_longer(name: str, own: object, document: ArrayMetadata) -> bool:
    if not isinstance(own, dict) or not isinstance(own.get("shape"), list):
        return False
    shape, committed = own["shape"], document["shape"]
    if len(shape) != len(committed) or not all(type(n) is int for n in shape):
        return False
    # Two lengths may be ahead of the view: the step axis, and the byte row's when it grew.
    free = {len(shape) - 1} if document["dimension_names"][-1] in STEP_AXES else set()
    free |= {0} if name == schema.OPTIMIZER_ROW else set()
    fits = all(
        a >= b if i in free else a == b
        for i, (a, b) in enumerate(zip(shape, committed, strict=True))
    )
    return fits and text({**own, "shape": committed}) == text(document)


def text(document: object) -> str:
    """Return a document in one form, to compare it."""
    return json.dumps(document, sort_keys=True)
