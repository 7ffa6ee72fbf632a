"""Distances, angles and signs, on a stored run and on a dataset, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS
from tests.analyze import brute
from tests.analyze.recordings import Made


def expected(made: Made, name: str, relative_to: str, by: str, kinds, keep=None) -> np.ndarray:
    """The metric of every group, shape (groups, step)."""
    function, _ = brute.METRICS[name]
    reference = brute.reference_columns(made.weights, made.steps, relative_to)
    lines = []
    for chosen in made.groups(by, kinds).values():
        rows = chosen if keep is None else chosen & keep
        with np.errstate(all="ignore"):
            lines.append(function(made.weights[rows].astype(float), reference[rows]))
    return np.array(lines)


def same(result: xr.DataArray, values: np.ndarray) -> None:
    got = result.values if result.ndim == 2 else result.values[None]
    if result.name == "sign_flips":
        weights = result.coords["weights"].values if result.ndim == 2 else result.attrs["weights"]
        n = np.atleast_1d(weights)[:, None]
        np.testing.assert_array_equal(np.isnan(got), np.isnan(values))
        counts, wanted = np.nan_to_num(got * n), np.nan_to_num(values * n)
        np.testing.assert_array_equal(counts.round(), wanted.round())
        np.testing.assert_allclose(counts, wanted, rtol=1e-12)
    else:
        np.testing.assert_allclose(got, values, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("by", ["network", "layer", "tensor"])
@pytest.mark.parametrize("name", sorted(brute.METRICS))
def test_equals_brute_force_by_default(made: Made, name: str, by: str) -> None:
    values = expected(made, name, brute.METRICS[name][1], by, ("conv", "linear"))
    same(ckptlab.open_run(made.path).analyze(name, by=by), values)


@pytest.mark.parametrize("relative_to", ["init", "final", "previous", "37"])
@pytest.mark.parametrize("name", [n for n in brute.METRICS if "relative_to" in METRICS[n].options])
def test_equals_brute_force_against_any_snapshot(wide: Made, name: str, relative_to: str) -> None:
    result = ckptlab.open_run(wide.path).analyze(
        name, relative_to=relative_to, kinds="all", by="tensor"
    )
    same(result, expected(wide, name, relative_to, "tensor", ("all",)))
    assert result.attrs["relative_to"] == relative_to


@pytest.mark.parametrize("by", ["network", "tensor"])
@pytest.mark.parametrize("name", sorted(brute.METRICS))
def test_equals_brute_force_with_a_mask(made: Made, mask, name: str, by: str) -> None:
    values = expected(made, name, brute.METRICS[name][1], by, ("conv", "linear", "bias"), mask)
    dataset = xr.open_zarr(made.path)
    options = {"by": by, "kinds": ["conv", "linear", "bias"], "mask": mask}
    result = ckptlab.open_run(made.path).analyze(name, **options)
    if by == "tensor":
        # The mask leaves the output nothing, so no metric has a value for it.
        empty = list(result["tensor"].values).index("out.weight")
        assert result["weights"].values[empty] == 0
        values[empty] = np.nan
    same(result, values)
    xr.testing.assert_allclose(dataset.ckpt.analyze(name, **options), result)


@pytest.mark.parametrize("name", sorted(brute.METRICS))
def test_a_dataset_gives_what_the_run_gives(wide: Made, name: str) -> None:
    run = ckptlab.open_run(wide.path)
    result = run.analyze(name, by="layer")
    xr.testing.assert_allclose(xr.open_zarr(wide.path).ckpt.analyze(name, by="layer"), result)
    loaded = xr.open_zarr(wide.path).load()
    xr.testing.assert_allclose(loaded.ckpt.analyze(name, by="layer"), result)


def test_a_dataset_may_hold_a_part(wide: Made) -> None:
    rng = np.random.default_rng(3)
    rows = np.sort(rng.choice(len(wide.tensor), 5000, replace=False))
    part = xr.open_zarr(wide.path).isel(param=rows, step=slice(0, 41))
    weights = wide.weights[rows, :41].astype(float)
    chosen = np.isin(wide.tensor[rows], [0, 4, 6])
    reference = brute.reference_columns(weights, wide.steps[:41], "previous")
    same(
        part.ckpt.analyze("sign-flips"),
        brute.sign_flips(weights[chosen], reference[chosen])[None],
    )
    shuffled = part.isel(param=rng.permutation(5000))
    xr.testing.assert_allclose(
        shuffled.ckpt.analyze("cosine", by="tensor"), part.ckpt.analyze("cosine", by="tensor")
    )


@pytest.mark.parametrize("steps", ["16:41", "5:71:9", "70:", "8:9", "63:72:8", slice(3, 60, 13)])
def test_previous_lies_before_the_selected_steps(made: Made, steps) -> None:
    run = ckptlab.open_run(made.path)
    part, whole = (run.analyze("sign-flips", steps=s) for s in (steps, None))
    assert not np.isnan(part.values).any()
    xr.testing.assert_identical(part.drop_attrs(), whole.sel(step=part.step).drop_attrs())


def test_interval_counts_the_updates_between(made: Made) -> None:
    change = ckptlab.open_run(made.path).analyze("weight-change", steps="69:")
    assert change["step"].values.tolist() == [69, 70, 71, 78, 85, 92, 99, 100]
    assert change["interval"].values.tolist() == [1, 1, 1, 7, 7, 7, 7, 1]


def test_squares_of_tensors_sum_to_the_network(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    for name in ("weight-distance", "weight-change"):
        parts = run.analyze(name, by="tensor", kinds="all")
        whole = run.analyze(name, kinds="all")
        np.testing.assert_allclose(np.sqrt((parts**2).sum("tensor", skipna=False)), whole)
    flips = run.analyze("sign-flips", by="tensor", kinds="all", steps="1:")
    count = (flips * flips["weights"]).sum("tensor").values.round()
    whole = run.analyze("sign-flips", kinds="all", steps="1:")
    np.testing.assert_array_equal(count, (whole.values * whole.attrs["weights"]).round())


def test_a_snapshot_lies_at_no_distance_from_itself(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    for step in ("0", "37", "100"):
        at = {"relative_to": step, "steps": step}
        assert run.analyze("cosine", **at).item() == pytest.approx(1, abs=1e-15)
        for name in ("weight-distance", "sign-flips", "relative-change", "effective-std"):
            assert run.analyze(name, **at).item() == pytest.approx(0, abs=1e-9), name


def test_flips_are_symmetric(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    there = run.analyze("sign-flips", relative_to="12", steps="40").item()
    assert there == run.analyze("sign-flips", relative_to="40", steps="12").item()


def test_results_say_what_they_are(made: Made) -> None:
    result = ckptlab.open_run(made.path).analyze("weight-distance", relative_to="final")
    wanted = {"units": "weight", "relative_to": "final", "relative_to_step": 100, "by": "network"}
    assert wanted.items() <= result.attrs.items()
    assert result.name == "weight_distance"
    assert result.attrs["kinds"] == "conv,linear"
    assert "1912" not in result.attrs["run"]
    assert "arXiv" in result.attrs["reference"]
    assert result["step"].attrs["units"] == "optimizer updates"
    assert "run_state" not in result.attrs
