from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptlab.analyze.health.kernel import LANES, SIGNS, add_stretch, by_step


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 5),
    elements=st.integers(1, 300),
    start=st.integers(0, 10**6),
    cut=st.floats(0, 1),
)
def test_sums_are_those_of_numpy_however_the_stretch_is_cut(seed, steps, elements, start, cut):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((steps, elements)).astype(np.float32)
    values[rng.random(values.shape) < 0.1] = np.nan
    values[1:][rng.random((steps - 1, elements)) < 0.5] = 0
    previous = values[0].copy()
    found = [np.zeros((steps, 61)), np.zeros((steps, 251)), np.zeros((steps, 2), int)]
    squares = np.zeros((steps, LANES))
    at = int(cut * elements)
    for a, b in ((0, at), (at, elements)):
        part = np.ascontiguousarray(values[:, a:b])
        add_stretch(part, previous[a:b], start + a, start + 7 + a, SIGNS, *found, squares)
    finite = np.where(np.isfinite(values), values, 0).astype(float)
    index = start + np.arange(elements)
    for sketch, width, shift in ((found[0], 61, 0), (found[1], 251, 7)):
        expected = np.zeros((steps, width))
        for t in range(steps):
            signed = finite[t] * SIGNS[(index + shift) % len(SIGNS)]
            np.add.at(expected[t], (index + shift) % width, signed)
        assert np.array_equal(sketch, expected)
    bits = values.view(np.uint32)
    changed = (bits != np.vstack([bits[:1], bits[:-1]])).sum(axis=1)
    assert np.array_equal(found[2], np.column_stack([changed, (~np.isfinite(values)).sum(axis=1)]))
    lanes = [(finite**2)[:, index % LANES == lane].sum(axis=1) for lane in range(LANES)]
    assert np.allclose(squares, np.column_stack(lanes))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 40),
    elements=st.integers(1, 700),
    order=st.sampled_from(["C", "F", "a part"]),
)
def test_values_are_turned_over_and_zeros_have_one_sign(seed, steps, elements, order):
    rng = np.random.default_rng(seed)
    values = rng.choice(np.array([0.0, -0.0, np.inf, -1.5, 1e-40], np.float32), (steps, elements))
    given = np.asarray(values, order=order) if order != "a part" else values[:, elements // 3 :]
    found = by_step(given)
    assert found.flags.c_contiguous
    assert found.tobytes() == (given + np.float32(0)).tobytes()
