"""Pieces combine: however blocks and parameters are cut, the sums are the same."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.analyze.engine.blocks import MemoryBlock
from ckptlab.analyze.engine.partial_sums import Piece, Stretch, add, join, measure

RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((90, 40)).astype(np.float32)
WEIGHTS[RNG.random(WEIGHTS.shape) < 0.2] = 0
WEIGHTS[3, 11] = WEIGHTS[60, 25] = np.nan
GROUP = RNG.integers(-1, 3, 90).astype(np.int32)
GROUP[[3, 60]] = 1
TENSOR = np.repeat([0, 1, 2], 30).astype(np.int32)
REFERENCES = RNG.standard_normal((1, 90)).astype(np.float32)


def piece(rows: slice, cuts: list[int], wanted: np.ndarray, joined: bool) -> Piece:
    """Measure blocks that end at the cuts, in one task or one task each."""
    stretch = Stretch(GROUP[rows], TENSOR[rows], REFERENCES[:, rows], 3, products=True)
    edges = [0, *cuts, 40]
    blocks = [MemoryBlock(WEIGHTS[rows, a:b]) for a, b in pairwise(edges)]
    widths = [block.values.shape[1] for block in blocks]
    if not joined:
        return measure(blocks, widths, 0, wanted, stretch)
    pieces = [
        measure([block], [width], start, wanted, stretch)
        for block, width, start in zip(blocks, widths, edges[:-1], strict=True)
    ]
    while len(pieces) > 1:
        pieces[:2] = [join(pieces[0], pieces[1], stretch)]
    return pieces[0]


def same(left: Piece, right: Piece) -> None:
    np.testing.assert_array_equal(left.columns, right.columns)
    assert set(left.sums) == set(right.sums)
    later = left.columns > 0  # the first step of all has no step before it
    for (name, against), values in left.sums.items():
        kept = later if against is not None else slice(None)
        one, other = values[:, kept], right.sums[name, against][:, kept]
        if name in ("signs", "flips", "nan", "low", "high"):
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    assert left.spots == right.spots


@settings(max_examples=80, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 39), unique=True, max_size=6).map(sorted),
    wanted=st.sets(st.integers(0, 39), min_size=1).map(sorted),
)
def test_any_cut_along_steps_gives_the_same(cuts: list[int], wanted: list[int]) -> None:
    everything = slice(0, 90)
    positions = np.union1d(wanted, np.maximum(np.array(wanted) - 1, 0))
    whole = piece(everything, [], positions, joined=False)
    same(piece(everything, cuts, positions, joined=False), whole)
    same(piece(everything, cuts, positions, joined=True), whole)


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 89))
def test_any_cut_along_parameters_gives_the_same(cut: int) -> None:
    positions = np.arange(40)
    parts = [piece(rows, [8], positions, joined=True) for rows in (slice(0, cut), slice(cut, 90))]
    same(add(*parts), piece(slice(0, 90), [], positions, joined=False))


def test_nan_is_named_by_tensor_and_step() -> None:
    spots = piece(slice(0, 90), [20], np.arange(40), joined=True).spots
    assert {t: (s.first, s.last, s.values) for t, s in spots.items()} == {
        0: (11, 11, 1),
        2: (25, 25, 1),
    }
