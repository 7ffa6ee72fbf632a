"""Fewer points, the same picture."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ckptlab.report.downsample import bin_means, bin_starts, extremes

increasing = st.lists(st.integers(1, 50), min_size=1, max_size=400).map(
    lambda gaps: np.cumsum(gaps) - gaps[0]
)
numbers = st.floats(-1e6, 1e6) | st.just(float("nan"))


@given(steps=increasing, most=st.integers(2, 60))
def test_stretches_are_few_and_short_on_both_axes(steps: np.ndarray, most: int) -> None:
    starts = bin_starts(steps, most)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    assert len(starts) <= most + 1
    span = steps[-1] - steps[0]
    ratio = max(steps[-1], 1) / max(steps[0], 0.5)
    for a, b in zip(starts, [*starts[1:], len(steps)], strict=True):
        width = steps[b - 1] - steps[a]
        assert width <= span / (most // 2) + 1e-6
        assert max(steps[b - 1], 0.5) / max(steps[a], 0.5) <= ratio ** (1 / (most // 2)) + 1e-6


@given(data=st.data(), values=arrays(float, st.integers(1, 300), elements=numbers))
def test_extremes_keep_every_stretch_s_range(data: st.DataObject, values: np.ndarray) -> None:
    starts = bin_starts(np.arange(len(values)), data.draw(st.integers(2, 40)))
    kept = extremes(values, starts)
    assert (np.diff(kept) > 0).all()
    assert kept[0] == 0
    assert kept[-1] == len(values) - 1
    assert len(kept) <= 2 * len(starts) + 2
    for a, b in zip(starts, [*starts[1:], len(values)], strict=True):
        part, chosen = values[a:b], values[kept[(kept >= a) & (kept < b)]]
        assert len(chosen)
        if np.isfinite(part).any():
            assert np.nanmin(chosen) == np.nanmin(part)
            assert np.nanmax(chosen) == np.nanmax(part)


@given(
    data=st.data(),
    values=arrays(float, st.tuples(st.integers(1, 4), st.integers(1, 100)), elements=numbers),
)
def test_means_are_means_of_what_is_known(data: st.DataObject, values: np.ndarray) -> None:
    starts = bin_starts(np.arange(values.shape[1]), data.draw(st.integers(2, 40)))
    thinned = bin_means(values, starts)
    for row in range(len(values)):
        parts = np.split(values[row], starts[1:])
        expected = [np.mean(p[~np.isnan(p)]) if (~np.isnan(p)).any() else np.nan for p in parts]
        np.testing.assert_allclose(thinned[row], expected, rtol=1e-9, atol=1e-6)
