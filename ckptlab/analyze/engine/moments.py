"""Sum over the weights in one pass: what every cheap metric is made of.

Tasks own a stretch of parameters over a few consecutive blocks and decode each chunk once; dask
runs them and combines their pieces in a tree. Memory grows neither with the run nor with the
model: a task holds one stretch, and as many run at a time as fit `memory`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.engine import partial_sums
from ckptlab.analyze.engine.blocks import MemoryBlock, StoredBlock
from ckptlab.analyze.engine.executor import open_executor
from ckptlab.analyze.engine.fields import PREVIOUS
from ckptlab.analyze.engine.memory import share_memory
from ckptlab.analyze.engine.observed import ObservedSource, observed_sums
from ckptlab.analyze.engine.partial_sums import NaNSpot, Origin, Piece, merge_spots
from ckptlab.analyze.engine.selection import Reference, Selection
from ckptlab.analyze.engine.source import BlockGrid, Source, StoredSource
from ckptlab.analyze.engine.warnings import NaNWarning

Array = npt.NDArray[Any]

MOST_BLOCKS = 16
"""Blocks of one task at most."""

TASKS_PER_WORKER = 6
"""So many, if there are so many blocks: few enough that borders cost nothing, enough to even out
what takes longer."""

ROW_BYTES, REFERENCE_BYTES = 44, 8
"""What a task holds for each parameter: groups, tensors and the borders of some pieces; and for
each parameter of a reference snapshot, of which the kernel needs a second copy."""


@dataclass(frozen=True)
class Moments:
    """Sums over the selected weights of each group, at each selected step.

    Parameters
    ----------
    selection : Selection
        Groups and steps.
    sums : mapping of (str, str or int or None) to ndarray of float64, shape (groups, step)
        By name and by what they are against: None, ``previous``, or the step of a reference.
        ``magnitude`` Σ|w|, ``square`` Σw², ``zeros`` and ``nan`` (counts), ``low`` and ``high``;
        against r ``distance`` Σ(w−r)², ``flips`` (a count), ``square`` Σr², and if they were asked
        for ``difference`` Σ(w−r) and ``product`` Σw·r. NaN where it has none, such as the previous
        step of the first.
    interval : ndarray of int64, shape (step,)
        Updates since the previous recorded step; 0 at the first.
    """

    selection: Selection
    sums: Mapping[tuple[str, str | int | None], Array]
    interval: npt.NDArray[np.int64]

    def get(self, name: str, reference: Reference | None = None) -> Array:
        """Return a sum, against a reference if one is given."""
        if reference is None:
            return self.sums[name, None]
        return self.sums[name, PREVIOUS if reference.step is None else reference.step]

    @property
    def signed(self) -> bool:
        """Whether sums whose terms may cancel were asked for."""
        return any(name == "product" for name, _ in self.sums)


def compute_moments(
    source: Source,
    selection: Selection,
    references: tuple[Reference, ...] = (),
    *,
    array: str = "weights",
    previous: bool = True,
    signed: bool = False,
    scheduler: Any = None,
    memory: Any = None,
) -> Moments:
    """Read ``weights`` or ``gradients`` once and sum: counts exactly, sums in float64.

    `previous` compares with the previous recorded step too, `signed` adds the sums whose terms may
    cancel. Warns of NaN in weights, naming tensor and step.
    """
    known = {r.step: r for r in references if r.step is not None}
    if isinstance(source, ObservedSource):
        sums, spots = observed_sums(source, selection, known)
        warn_of_nan(source, spots)
        return Moments(selection, sums, _intervals(source, selection))
    wanted = selection.columns
    if previous:
        wanted = np.union1d(wanted, np.maximum(wanted - 1, 0))
    with open_executor(scheduler) as executor:
        row_bytes = ROW_BYTES + REFERENCE_BYTES * len(known)
        share = share_memory(source, array, row_bytes, executor.workers, memory)
        graph = _graph(
            source,
            selection,
            list(known.values()),
            wanted,
            array,
            signed,
            share.pieces,
            executor.workers,
        )
        piece, origins = executor.compute(graph, share.workers)
    moments = _assemble(source, selection, piece, dict(zip(known, origins, strict=True)), previous)
    if array == "weights":
        spots = piece.spots
        for reference, origin in zip(known.values(), origins, strict=True):
            at = reference.column
            if at is not None and at not in piece.columns:
                found = {t: NaNSpot(at, at, n) for t, n in origin.tensors.items()}
                spots = merge_spots(spots, found)
        warn_of_nan(source, spots)
    return moments


def _graph(
    source: Source,
    selection: Selection,
    references: list[Reference],
    wanted: npt.NDArray[np.int64],
    array: str,
    signed: bool,
    pieces: int,
    workers: int,
) -> tuple[Any, Any]:
    """Return what computes to the piece of all parameters, and to the sums of the references."""
    from dask.delayed import delayed

    def task(name: str) -> Any:
        return delayed(getattr(partial_sums, name), pure=False)

    measure, join, open_stretch = task("measure"), task("join"), task("open_stretch")
    grid = source.grid(array, pieces)
    spans = _spans(grid, wanted, TASKS_PER_WORKER * workers)
    read, order = _reference_blocks(source, references, array, grid, pieces)
    total, origins = [], []
    for i, rows in enumerate(grid.rows):
        chosen = selection.rows(rows)
        if not chosen.selected:
            continue
        groups = len(selection.names)
        stretch = open_stretch(chosen, read[i], order, groups, signed)
        origins.append(task("measure_origins")(stretch))
        parts = []
        for span in spans:
            widths = [grid.columns[j].stop - grid.columns[j].start for j in span]
            blocks = [grid.blocks[i][j] for j in span]
            parts.append(measure(blocks, widths, grid.columns[span[0]].start, wanted, stretch))
        whole = combine_tree(parts, lambda a, b, s=stretch: join(a, b, s))
        total.append(task("without_border")(whole))
    return (
        combine_tree(total, task("add")),
        combine_tree(origins, task("add_origins")),
    )


def _reference_blocks(
    source: Source, references: list[Reference], array: str, grid: BlockGrid, pieces: int
) -> tuple[list[list[tuple[Any, Array]]], Array]:
    """Return for each stretch the blocks that hold references, each once, with the steps to read.

    And the permutation that puts what they hold into the order of `references`.
    """
    read: list[list[tuple[Any, Array]]] = [[] for _ in grid.rows]
    found: list[int] = []
    own = [k for k, reference in enumerate(references) if reference.ancestor is None]
    at = np.array([references[k].column for k in own], np.int64)
    for j, columns in enumerate(grid.columns):
        inside = np.flatnonzero((at >= columns.start) & (at < columns.stop))
        if len(inside):
            found += [own[n] for n in inside]
            for i in range(len(grid.rows)):
                read[i].append((grid.blocks[i][j], at[inside] - columns.start))
    for k, reference in enumerate(references):
        if reference.ancestor is None or reference.step is None:
            continue
        found.append(k)
        run = StoredSource(reference.ancestor)
        other = run.grid(array, pieces)
        column = int(np.searchsorted(run.steps, reference.step))
        j = next(j for j, c in enumerate(other.columns) if c.start <= column < c.stop)
        within = np.array([column - other.columns[j].start])
        values = None if other.rows == grid.rows else reference.read(source, array)
        for i, rows in enumerate(grid.rows):
            block = other.blocks[i][j] if values is None else MemoryBlock(values[rows, None])
            read[i].append((block, within if values is None else np.zeros(1, np.int64)))
    return read, np.argsort(found)


def _spans(grid: BlockGrid, wanted: npt.NDArray[np.int64], tasks: int) -> list[list[int]]:
    """Cut the blocks that hold a wanted step into runs of neighbours, one a task."""
    held = [
        j for j, c in enumerate(grid.columns) if ((wanted >= c.start) & (wanted < c.stop)).any()
    ]
    # Blocks that dask hands over are in memory all at once: one a task.
    stored = isinstance(grid.blocks[0][0], StoredBlock)
    most = MOST_BLOCKS if stored else 1
    share = tasks / (len(held) * len(grid.rows))
    spans: list[list[int]] = []
    for run in np.split(held, np.flatnonzero(np.diff(held) > 1) + 1):
        # Of the same length, or the last worker is still at its own when the others are done.
        count = max(-(-len(run) // most), min(round(share * len(run)), len(run)), 1)
        spans += [part.tolist() for part in np.array_split(run, count)]
    return spans


def combine_tree(parts: list[Any], combine: Any) -> Any:
    """Combine neighbours pairwise, so that few partial results are alive at a time."""
    while len(parts) > 1:
        pairs = [combine(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(parts) - len(parts) % 2 :]
    return parts[0]


def _assemble(
    source: Source,
    selection: Selection,
    piece: Piece,
    origins: Mapping[int, Origin],
    previous: bool,
) -> Moments:
    kept = np.searchsorted(piece.columns, selection.columns)
    earlier = np.searchsorted(piece.columns, np.maximum(selection.columns - 1, 0))
    first = (selection.columns == 0) | (not previous)
    found = {key: values[:, kept].astype(float) for key, values in piece.sums.items()}
    before = {k[0]: values[:, earlier] for k, values in piece.sums.items() if k[1] is None}
    nan = found["nan", None]
    # Nothing is least where a mask leaves nothing.
    empty = (selection.weights == 0)[:, None]
    signed = ("product", PREVIOUS) in found
    unknown = first | (nan > 0) | (before["nan"] > 0)
    sums: dict[tuple[str, str | int | None], Array] = {
        ("magnitude", None): found["magnitude", None],
        ("square", None): found["square", None],
        ("nan", None): nan,
        ("zeros", None): selection.weights[:, None] - found["signs", None] - nan,
        ("low", None): np.where((nan > 0) | empty, np.nan, found["low", None]),
        ("high", None): np.where((nan > 0) | empty, np.nan, found["high", None]),
        ("distance", PREVIOUS): np.where(first, np.nan, found["distance", PREVIOUS]),
        ("flips", PREVIOUS): np.where(unknown, np.nan, found["flips", PREVIOUS]),
        ("square", PREVIOUS): np.where(first, np.nan, before["square"]),
    }
    if signed:
        difference = found["total", None] - before["total"]
        sums["difference", PREVIOUS] = np.where(first, np.nan, difference)
        sums["product", PREVIOUS] = np.where(first, np.nan, found["product", PREVIOUS])
    for k, (step, origin) in enumerate(origins.items()):
        unknown = (nan > 0) | (origin.nan > 0)[:, None]
        sums["distance", step] = found["distance", k]
        sums["flips", step] = np.where(unknown, np.nan, found["flips", k])
        sums["square", step] = origin.square[:, None]
        if signed:
            sums["difference", step] = found["total", None] - origin.total[:, None]
            sums["product", step] = found["product", k]
    return Moments(selection, sums, _intervals(source, selection))


def _intervals(source: Source, selection: Selection) -> npt.NDArray[np.int64]:
    """Return the updates since the step before, shape (step,)."""
    found: npt.NDArray[np.int64] = np.diff(source.steps, prepend=source.steps[:1])
    return found[selection.columns]


def warn_of_nan(source: Source, spots: Mapping[int, NaNSpot]) -> None:
    """Warn of NaN in weights, naming the first three tensors and their steps."""
    if not spots:
        return
    names = source.layout.names
    places = sorted(spots.items(), key=lambda item: (item[1].first, item[0]))
    text = "; ".join(_describe(source, names[t], spot) for t, spot in places[:3])
    more = f"; and {len(places) - 3} more tensors" if len(places) > 3 else ""
    warnings.warn(f"NaN in weights: {text}{more}. Cells with them are NaN.", NaNWarning, 2)


def _describe(source: Source, name: str, spot: NaNSpot) -> str:
    first, last = source.steps[spot.first], source.steps[spot.last]
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    return f"tensor {name!r} at {steps} ({spot.values} values)"
