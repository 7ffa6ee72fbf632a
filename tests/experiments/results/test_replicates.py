"""Means over replicates that differ."""

import warnings

import numpy as np
import pytest
import xarray as xr

from ckptlab.experiments.results.replicates import over_replicates


def results(accuracy, jobs):
    dims = ("level", "replicate")
    return xr.Dataset(
        {
            "accuracy": (dims, np.array(accuracy), {"units": "1"}),
            "job": (dims, np.array(jobs, object)),
        }
    )


def test_a_training_that_is_shared_counts_once():
    held = results([[0.2, 0.2, 0.8], [0.4, 0.6, 0.8]], [["a", "a", "b"], ["c", "d", "e"]])
    reduced = over_replicates(held, "accuracy")
    np.testing.assert_allclose(reduced["mean"], [0.5, 0.6])
    np.testing.assert_allclose(reduced["std"], [0.6 / np.sqrt(2), 0.2])
    assert reduced["count"].values.tolist() == [2, 3]
    assert reduced["mean"].attrs == {"units": "1"}


def test_what_is_missing_does_not_count_and_one_has_no_deviation():
    held = results([[0.2, np.nan], [np.nan, np.nan]], [["a", "b"], ["", ""]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reduced = over_replicates(held, "accuracy")
    assert reduced["mean"].values[0] == pytest.approx(0.2)
    assert np.isnan(reduced["mean"].values[1])
    assert np.isnan(reduced["std"].values).all()
    assert reduced["count"].values.tolist() == [1, 0]


def test_without_replicates_there_is_one():
    held = results([[0.2], [0.4]], [["a"], ["b"]]).isel(replicate=0)
    reduced = over_replicates(held, "accuracy")
    np.testing.assert_allclose(reduced["mean"], [0.2, 0.4])
    assert reduced["count"].values.tolist() == [1, 1]
