"""Comparisons against textbook formulas; pairs are taken where seeds are shared."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import stdtr, stdtrit

from ckptlab.experiments.results.statistics import against_baseline, compare, interval

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@settings(deadline=None)  # the first call imports scipy.stats
@given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=12))
def test_pairs_are_one_sample_of_differences(pairs):
    a, b = np.array(pairs).T
    away = a - b
    assume(away.std() > 1e-2)
    found = compare(a, b)
    error = away.std(ddof=1) / np.sqrt(len(away))
    free = len(away) - 1
    reach = stdtrit(free, 0.975) * error
    assert (found.test, found.count) == ("paired t", (len(pairs),))
    assert found.difference == pytest.approx(away.mean(), rel=1e-9, abs=1e-9)
    assert found.low == pytest.approx(away.mean() - reach, rel=1e-6, abs=1e-6)
    assert found.high == pytest.approx(away.mean() + reach, rel=1e-6, abs=1e-6)
    assert found.p == pytest.approx(2 * stdtr(free, -abs(away.mean()) / error), rel=1e-6, abs=1e-12)
    assert interval(away) == pytest.approx((found.low, found.high), rel=1e-6, abs=1e-6)


@settings(deadline=None)  # the first call imports scipy.stats
@given(
    st.lists(numbers, min_size=2, max_size=8),
    st.lists(numbers, min_size=2, max_size=8),
    st.booleans(),
)
def test_other_seeds_are_welch_s_test(a, b, missing):
    assume(np.std(a) > 1e-2 and np.std(b) > 1e-2)
    found = compare([*a, np.nan] if missing else a, b, paired=False)
    parts = [np.var(v, ddof=1) / len(v) for v in (a, b)]
    # Welch and Satterthwaite's degrees of freedom.
    free = sum(parts) ** 2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (a, b), strict=True))
    error, difference = np.sqrt(sum(parts)), np.mean(a) - np.mean(b)
    assert (found.test, found.count) == ("Welch's t", (len(a), len(b)))
    assert found.p == pytest.approx(2 * stdtr(free, -abs(difference) / error), rel=1e-6, abs=1e-12)
    reach = stdtrit(free, 0.975) * error
    assert (found.low, found.high) == pytest.approx((difference - reach, difference + reach), 1e-6)


def test_pairs_take_out_what_differs_from_seed_to_seed():
    seeds = np.array([0.5, 0.6, 0.7, 0.8])
    shift = np.array([0.010, 0.012, 0.009, 0.011])
    assert compare(seeds + shift, seeds).p < 0.001
    assert compare(seeds + shift, seeds, paired=False).p > 0.9


def test_replicates_that_have_no_partner_are_compared_as_groups():
    a, b = [0.1, 0.3, np.nan, np.nan], [np.nan, np.nan, 0.2, 0.5]
    assert compare(a, b) == compare(a[:2], b[2:], paired=False)
    # Of one pair nothing is known; both groups have two.
    assert compare([0.1, 0.3, np.nan], [np.nan, 0.2, 0.5]).test == "Welch's t"
    assert compare([0.1, np.nan], [0.2, 0.3]) is None
    assert compare([], []) is None
    assert np.isnan(interval([0.4])).all()


def test_equal_values_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert compare([0.5, 0.5], [0.4, 0.4]).difference == pytest.approx(0.1)


def test_cells_are_compared_with_the_baseline_of_their_row():
    dims = ("perturbation", "level", "replicate")
    accuracy = np.array([[[0.8, 0.9], [0.6, 0.7]], [[0.7, 0.6], [0.7, 0.9]]])
    job = np.array([[["a", "b"], ["c", "d"]], [["e", "f"], ["g", "g"]]], object)
    results = xr.Dataset(
        {"accuracy": (dims, accuracy), "job": (dims, job)},
        {"perturbation": ["none", "reinit"], "level": [3, 6], "replicate": [0, 1]},
        {"kind": "perturb"},
    )
    found = against_baseline(results, "accuracy")
    assert found.dims == ("perturbation", "level")
    assert found.sel(perturbation="none").isnull().all()
    assert found.sel(perturbation="reinit", level=3).item() == compare([0.7, 0.6], [0.8, 0.9])
    # Its replicates share a training, and so are one value.
    assert found.sel(perturbation="reinit", level=6).item() is None
    assert against_baseline(results.sel(perturbation=["reinit"]), "accuracy") is None
    assert against_baseline(results.assign_attrs(kind="connect"), "accuracy") is None
