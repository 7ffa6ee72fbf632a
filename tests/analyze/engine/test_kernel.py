"""The compiled kernel against float64 NumPy, for any shape, order and value."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ckptlab.analyze.engine.kernel import COUNTS, PRODUCTS, SUMS, accumulate

VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-38, -1e-44, 3e38, -3e38]),
    st.floats(-10, 10, width=32),
)


def run(chunk, start, columns, group, references, carry, products=True):
    """Call the kernel as a task does; return sums and products, counts, extremes."""
    order = np.flatnonzero(group >= 0)
    order = order[np.argsort(group[order], kind="stable")].astype(np.int32)
    groups = int(group.max(initial=-1)) + 1
    segments = np.array(
        [
            (g, *np.searchsorted(group[order], [g, g + 1]))
            for g in range(groups)
            if (group == g).any()
        ],
        np.int64,
    ).reshape(-1, 3)
    shape = (groups, columns)
    sums = np.zeros((SUMS + len(references), *shape))
    signed = np.zeros((PRODUCTS + len(references) if products else 0, *shape))
    counts = np.zeros((COUNTS + len(references), *shape), np.int64)
    extremes = np.empty((2, *shape), np.float32)
    extremes[0], extremes[1] = np.inf, -np.inf
    accumulate(
        *(chunk, start, columns, order, segments, references, carry),
        *(sums, signed, counts, extremes),
    )
    return np.concatenate([sums, signed]), counts, extremes


def check(chunk, start, columns, group, references, carry, products=True) -> None:
    after = carry.copy()
    sums, counts, extremes = run(chunk, start, columns, group, references, after, products)
    last = chunk[:, start + columns - 1]
    np.testing.assert_array_equal(after, np.where(group >= 0, last, carry))
    for g in range(sums.shape[1]):
        rows = group == g
        if not rows.any():
            assert not sums[:, g].any()
            continue
        w = chunk[rows, start : start + columns].astype(float)
        before = np.concatenate([carry[rows, None].astype(float), w[:, :-1]], axis=1)
        others = [before, *(r[rows, None].astype(float) for r in references)]
        wanted = [np.abs(w), w**2, *((w - r) ** 2 for r in others)]
        if products:
            wanted += [w, *(w * r for r in others)]
        for got, terms in zip(sums[:, g], wanted, strict=True):
            # Relative to the sum of magnitudes, where terms cancel.
            scale = np.abs(terms).sum(axis=0)
            assert (np.abs(got - terms.sum(axis=0)) <= 1e-12 * scale + 1e-300).all()
        flips = [(np.sign(w) * np.sign(r) < 0).sum(axis=0) for r in others]
        np.testing.assert_array_equal(counts[:, g], [(w != 0).sum(axis=0), *flips])
        np.testing.assert_array_equal(extremes[:, g], [w.min(axis=0), w.max(axis=0)])


@settings(max_examples=150, deadline=None)
@given(data=st.data(), rows=st.integers(1, 70), width=st.integers(1, 33))
def test_equals_numpy(data: st.DataObject, rows: int, width: int) -> None:
    chunk = data.draw(arrays(np.float32, (rows, width), elements=VALUES, fill=VALUES))
    start = data.draw(st.integers(0, width - 1))
    columns = data.draw(st.integers(1, min(32, width - start)))
    group = data.draw(arrays(np.int32, rows, elements=st.integers(-1, 2)))
    references = data.draw(arrays(np.float32, (2, rows), elements=VALUES))
    carry = data.draw(arrays(np.float32, rows, elements=VALUES))
    check(chunk, start, columns, group, references, carry, data.draw(st.booleans()))


def test_equals_numpy_over_many_tiles() -> None:
    rng = np.random.default_rng(0)
    for rows, width, kept in ((16384, 32, 1.0), (5000, 32, 0.5), (9001, 8, 0.9), (4000, 1, 0.7)):
        chunk = rng.standard_normal((rows, width)).astype(np.float32)
        chunk[rng.random(chunk.shape) < 0.1] = -0.0
        group = np.sort(rng.integers(0, 3, rows)).astype(np.int32)
        group[rng.random(rows) > kept] = -1
        references = rng.standard_normal((3, rows)).astype(np.float32)
        for products in (False, True):
            check(chunk, 0, width, group, references, references[0].copy(), products)


def test_nan_stays_in_its_own_step_and_group() -> None:
    rng = np.random.default_rng(0)
    chunk = rng.standard_normal((300, 32)).astype(np.float32)
    chunk[7, 5] = np.nan
    group = np.repeat([0, 1, 2], 100).astype(np.int32)
    none = np.zeros((0, 300), np.float32)
    sums, counts, _ = run(chunk, 0, 32, group, none, chunk[:, 0].copy())
    bad = np.zeros((3, 32), bool)
    bad[0, 5] = True
    for k in (0, 1, 3):
        np.testing.assert_array_equal(np.isnan(sums[k]), bad)
    bad[0, 6] = True  # what compares 6 with 5
    for k in (2, 4):
        np.testing.assert_array_equal(np.isnan(sums[k]), bad)
    assert counts[0, 0, 5] == 99
