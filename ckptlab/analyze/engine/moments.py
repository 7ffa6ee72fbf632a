"""The one-pass engine: every sum of the cheap metrics from one read of the recording.

Tasks own a stretch of parameters over a few consecutive blocks and decode each chunk once; dask
runs them and combines their pieces in a tree, so that memory does not grow with the run beyond
the sums themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.engine import partial_sums
from ckptlab.analyze.engine.blocks import StoredBlock
from ckptlab.analyze.engine.executor import open_executor
from ckptlab.analyze.engine.partial_sums import NaNSpot, Piece, Stretch, merge_spots, spots_of
from ckptlab.analyze.engine.selection import Reference, Selection
from ckptlab.analyze.engine.source import BlockGrid, Source
from ckptlab.analyze.engine.warnings import NaNWarning

Array = npt.NDArray[Any]

MOST_BLOCKS = 16
"""Blocks of one task at most."""

TASKS_PER_WORKER = 6
"""So many, if there are so many blocks: few enough that borders cost nothing, enough to even out
what takes longer."""


@dataclass(frozen=True)
class Against:
    """Sums against one reference snapshot, or against the previous recorded step.

    Parameters
    ----------
    distance : ndarray of float64, shape (groups, step)
        Σ(w−r)².
    flips : ndarray of float64, shape (groups, step)
        Weights whose sign is opposite to the reference's; NaN where either has NaN.
    square : ndarray of float64, shape (groups, 1) or (groups, step)
        Σr².
    signed : Signed or None
        If it was asked for.
    """

    distance: Array
    flips: Array
    square: Array
    signed: Signed | None = None


@dataclass(frozen=True)
class Signed:
    """Sums whose terms may cancel.

    Parameters
    ----------
    difference : ndarray of float64, shape (groups, step)
        Σ(w−r).
    product : ndarray of float64, shape (groups, step)
        Σw·r.
    """

    difference: Array
    product: Array


@dataclass(frozen=True)
class Moments:
    """Sums over the selected weights of each group, at each selected step.

    Parameters
    ----------
    selection : Selection
        Groups and steps.
    magnitude, square : ndarray of float64, shape (groups, step)
        Σ|w| and Σw².
    zeros, nan : ndarray of int64, shape (groups, step)
        Weights that are zero; that are NaN.
    low, high : ndarray of float64, shape (groups, step)
        Smallest and largest weight; NaN where a weight is, and where there is none.
    previous : Against
        The previous recorded step; NaN at the first.
    references : dict of int to Against
        By step.
    interval : ndarray of int64, shape (step,)
        Updates since the previous recorded step; 0 at the first.
    """

    selection: Selection
    magnitude: Array
    square: Array
    zeros: Array
    nan: Array
    low: Array
    high: Array
    previous: Against
    references: dict[int, Against]
    interval: npt.NDArray[np.int64]

    def against(self, reference: Reference) -> Against:
        """Return the sums against a resolved reference."""
        return self.previous if reference.step is None else self.references[reference.step]


def compute_moments(
    source: Source,
    selection: Selection,
    references: tuple[Reference, ...] = (),
    *,
    array: str = "weights",
    previous: bool = True,
    signed: bool = False,
    scheduler: Any = None,
) -> Moments:
    """Read the recording once and sum.

    Parameters
    ----------
    source : Source
        The recording.
    selection : Selection
        Weights and steps.
    references : tuple of Reference
        Snapshots to compare with.
    array : str
        ``weights`` or ``gradients``.
    previous : bool
        Whether to compare with the previous recorded step too; `Moments.previous` is NaN if not.
    signed : bool
        Whether `Against.signed` is wanted.
    scheduler : str, distributed.Client or None
        As `open_executor` takes it.

    Returns
    -------
    Moments
        Exact counts, sums in float64.

    Warns
    -----
    NaNWarning
        If weights are NaN; names tensor and step.
    """
    known = {r.step: r for r in references if r.step is not None}
    snapshots = np.empty((len(known), len(selection.group)), np.float32)
    with ThreadPoolExecutor(2) as pool:
        read = pool.map(lambda reference: reference.read(source, array), known.values())
        for k, snapshot in enumerate(read):
            snapshots[k] = snapshot
    wanted = selection.columns
    if previous:
        wanted = np.union1d(wanted, np.maximum(wanted - 1, 0))
    piece = _one_pass(source, selection, snapshots, wanted, array, signed, scheduler)
    moments = _assemble(source, selection, piece, list(known), snapshots, previous)
    if array == "weights":
        spots = piece.spots
        for reference, snapshot in zip(known.values(), snapshots, strict=True):
            column = reference.column
            if column is not None and column not in piece.columns:
                rows = np.flatnonzero(np.isnan(snapshot) & (selection.group >= 0))
                spots = merge_spots(spots, spots_of(source.tensor_index[rows], column))
        warn_of_nan(source, spots)
    return moments


def _one_pass(
    source: Source,
    selection: Selection,
    snapshots: Array,
    wanted: npt.NDArray[np.int64],
    array: str,
    signed: bool,
    scheduler: Any,
) -> Piece:
    from dask.delayed import delayed

    grid = source.grid(array)
    measure, join, add = (
        delayed(f, pure=False) for f in (partial_sums.measure, partial_sums.join, partial_sums.add)
    )
    with open_executor(scheduler) as executor:
        spans = _spans(grid, wanted, TASKS_PER_WORKER * executor.workers)
        total = []
        for i, rows in enumerate(grid.rows):
            group = selection.group[rows]
            if not (group >= 0).any():
                continue
            stretch = executor.place(
                Stretch(
                    group,
                    source.tensor_index[rows],
                    np.ascontiguousarray(snapshots[:, rows]),
                    len(selection.names),
                    signed,
                )
            )
            parts = []
            for span in spans:
                widths = [grid.columns[j].stop - grid.columns[j].start for j in span]
                blocks = [grid.blocks[i][j] for j in span]
                start = grid.columns[span[0]].start
                parts.append(measure(blocks, widths, start, wanted, stretch))
            total.append(_tree(parts, lambda a, b, s=stretch: join(a, b, s)))
        piece: Piece = executor.compute(_tree(total, add))
    return piece


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


def _tree(parts: list[Any], combine: Any) -> Any:
    """Combine neighbours pairwise, so that few partial results are alive at a time."""
    while len(parts) > 1:
        pairs = [combine(a, b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
        parts = pairs + parts[len(parts) - len(parts) % 2 :]
    return parts[0]


def _assemble(
    source: Source,
    selection: Selection,
    piece: Piece,
    steps: list[int],
    snapshots: Array,
    previous: bool,
) -> Moments:
    from ckptlab.analyze.engine.kernel import COUNTS, PRODUCTS, SUMS

    kept = np.searchsorted(piece.columns, selection.columns)
    first = (selection.columns == 0) | (not previous)
    earlier = np.searchsorted(piece.columns, np.maximum(selection.columns - 1, 0))
    nan = piece.nan[:, kept]
    sums, counts = piece.sums[:, :, kept], piece.counts[:, :, kept].astype(float)
    counts[:, nan > 0] = np.nan
    references = {}
    products = piece.products[:, :, kept]
    for k, step in enumerate(steps):
        plain, square, bad = _reference_sums(snapshots[k], selection)
        flips = np.where(bad, np.nan, counts[COUNTS + k])
        signed = Signed(products[0] - plain, products[PRODUCTS + k]) if len(products) else None
        references[step] = Against(sums[SUMS + k], flips, square, signed)
    # Nothing is least where a mask leaves nothing.
    unknown = (nan > 0) | (selection.weights == 0)[:, None]
    extremes = np.where(unknown, np.nan, piece.extremes[:, :, kept].astype(float))
    return Moments(
        selection=selection,
        magnitude=sums[0],
        square=sums[1],
        zeros=selection.weights[:, None] - piece.counts[0][:, kept] - nan,
        nan=nan,
        low=extremes[0],
        high=extremes[1],
        previous=_previous(piece, kept, earlier, first),
        references=references,
        interval=np.diff(source.steps, prepend=source.steps[:1])[selection.columns],
    )


def _previous(piece: Piece, kept: Array, earlier: Array, first: Array) -> Against:
    """Compare with the step before; `first` says where there is none."""
    missing = first | (piece.nan[:, kept] > 0) | (piece.nan[:, earlier] > 0)
    signed = None
    if len(piece.products):
        difference = piece.products[0][:, kept] - piece.products[0][:, earlier]
        product = piece.products[partial_sums.PRODUCT][:, kept]
        signed = Signed(np.where(first, np.nan, difference), np.where(first, np.nan, product))
    return Against(
        np.where(first, np.nan, piece.sums[partial_sums.CHANGE][:, kept]),
        np.where(missing, np.nan, piece.counts[partial_sums.FLIPS][:, kept]),
        np.where(first, np.nan, piece.sums[1][:, earlier]),
        signed,
    )


def _reference_sums(snapshot: Array, selection: Selection) -> tuple[Array, Array, Array]:
    groups = len(selection.names)
    plain, square, bad = np.zeros(groups), np.zeros(groups), np.zeros(groups, bool)
    for start in range(0, len(snapshot), 2**20):
        part = slice(start, start + 2**20)
        chosen = selection.group[part] >= 0
        group = selection.group[part][chosen]
        values = snapshot[part][chosen].astype(float)
        plain += np.bincount(group, values, groups)
        square += np.bincount(group, values * values, groups)
        bad[group[np.isnan(values)]] = True
    return plain[:, None], square[:, None], bad[:, None]


def warn_of_nan(source: Source, spots: Mapping[int, NaNSpot]) -> None:
    """Warn of NaN in weights, naming tensor and step.

    Parameters
    ----------
    source : Source
        The recording.
    spots : mapping of int to NaNSpot
        Where they are, by tensor; nothing is said if there are none.

    Warns
    -----
    NaNWarning
        The first three tensors are named.
    """
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
