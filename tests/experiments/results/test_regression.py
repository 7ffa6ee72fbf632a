"""Lines of least squares against scipy's, and where there is none."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from ckptlab.experiments.results.regression import fit_line

numbers = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=20))
def test_it_is_the_line_of_scipy(points):
    x, y = np.array(points).T
    assume(np.ptp(x) > 0.1 and np.ptp(y) > 0.1)
    expected = stats.linregress(x, y)
    fit = fit_line(x, y)
    assert fit.slope == pytest.approx(expected.slope, rel=1e-6, abs=1e-9)
    assert fit.intercept == pytest.approx(expected.intercept, rel=1e-6, abs=1e-6)
    assert fit.r == pytest.approx(expected.rvalue, abs=1e-9)
    assert fit.p == pytest.approx(expected.pvalue, rel=1e-4, abs=1e-6)
    assert fit.count == len(points)


def test_what_is_not_known_does_not_count():
    x = np.array([0.0, 1, 2, np.nan, 4])
    y = np.array([1.0, 3, 5, 0, np.inf])
    fit = fit_line(x, y)
    assert (fit.slope, fit.intercept, fit.count) == (pytest.approx(2), pytest.approx(1), 3)
    assert fit.r == pytest.approx(1)
    assert fit.p < 1e-6


@pytest.mark.parametrize(
    ("x", "y"), [([0, 1], [0, 1]), ([1, 1, 1], [0, 1, 2]), ([0, 1, 2], [5, 5, 5]), ([], [])]
)
def test_there_is_no_line_where_none_is_determined(x, y):
    assert fit_line(np.array(x, float), np.array(y, float)) is None
