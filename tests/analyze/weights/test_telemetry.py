"""Telemetry and timeline gather what the metrics give one by one."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.analyze.weights.timeline import smoothed
from ckptlab.errors import StepError
from tests.analyze.recordings import Made


@pytest.mark.parametrize("by", ["network", "layer"])
def test_telemetry_equals_the_metrics(made: Made, by: str) -> None:
    run = ckptlab.open_run(made.path)
    options = {"by": by, "steps": "30:100"}
    found = run.analyze("telemetry", **options)
    for metric, relative_to, variable in (
        ("weight-distance", "init", "weight_distance_init"),
        ("weight-distance", "final", "weight_distance_final"),
        ("cosine", "init", "cosine_init"),
        ("cosine", "final", "cosine_final"),
        ("sign-flips", "init", "sign_flips_init"),
        ("sign-flips", "final", "sign_flips_final"),
        ("sign-flips", "previous", "sign_flips_previous"),
        ("relative-change", "previous", "relative_change"),
        ("weight-change", None, "weight_change"),
        ("weight-magnitude", None, "weight_magnitude"),
    ):
        extra = {} if relative_to is None else {"relative_to": relative_to}
        alone = run.analyze(metric, **options, **extra)
        np.testing.assert_allclose(found[variable], alone, rtol=1e-9, atol=1e-12)
        assert found[variable].attrs["units"] == alone.attrs["units"]
    gradients = run.analyze("gradient-magnitude", **options)
    np.testing.assert_array_equal(found["gradient_norm"], gradients["gradient_norm"])
    assert found["loss"].sel(step=50).item() == pytest.approx(1 / 50)


def test_zeros_and_extremes(made: Made) -> None:
    found = ckptlab.open_run(made.path).analyze("telemetry", kinds="all")
    w = made.weights
    np.testing.assert_allclose(found["zeros"], (w == 0).mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found["weight_min"], w.min(axis=0))
    np.testing.assert_array_equal(found["weight_max"], w.max(axis=0))


def test_nothing_is_least_where_a_mask_leaves_nothing(made: Made, mask: np.ndarray) -> None:
    found = ckptlab.open_run(made.path).analyze("telemetry", by="tensor", mask=mask)
    of_output = found.sel(tensor="out.weight")
    assert of_output["weights"] == 0
    for name in ("weight_min", "weight_max", "zeros", "weight_magnitude", "sign_flips_init"):
        assert np.isnan(of_output[name]).all(), name
        assert not np.isnan(found[name].sel(tensor="big.weight")).any(), name


def test_evaluations_stand_at_their_steps(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    recorded = run.analyze("evaluation")
    assert recorded["eval_step"].values.tolist() == [0, 10, 50, 100]
    np.testing.assert_allclose(recorded["eval_accuracy"], [0.1, *(np.array([10, 50, 100]) / 101)])
    assert run.analyze("evaluation", steps="5:60")["eval_step"].values.tolist() == [10, 50]
    aligned = run.analyze("telemetry")["eval_accuracy"].dropna("step")
    assert aligned["step"].values.tolist() == [0, 10, 50, 100]
    with pytest.raises(StepError, match="holds no evaluation"):
        run.analyze("evaluation", steps="11:20")


def test_timeline_gives_the_evidence_of_each_phase(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    found = run.analyze("timeline")
    assert found["phase"].values.tolist() == ["fast motion", "gradient dip"]
    assert found["start"].values.tolist() == [0, 10]
    assert found["stop"].values.tolist() == [10, 100]
    moved = run.analyze("weight-distance", relative_to="10", steps="100").item()
    flipped = run.analyze("sign-flips", relative_to="10", steps="100").item()
    assert found["distance"].values[1] == pytest.approx(moved)
    assert found["sign_flips"].values[1] == pytest.approx(flipped)
    change = run.analyze("weight-change", steps="11:")
    # Steps far apart and close together are not averaged: their distances do not compare.
    rate = change[change["interval"] == 1].mean().item()
    assert found["change_per_update"].values[1] == pytest.approx(rate)
    assert found["accuracy"].values.tolist() == pytest.approx([10 / 101, 100 / 101])
    norm = run.analyze("gradient-magnitude")["gradient_norm"].to_series()
    around = {s: norm[(norm.index >= s - 10) & (norm.index <= s + 10)].mean() for s in norm.index}
    lowest = min((step for step in around if step > 10), key=around.__getitem__)
    assert found["gradient_min"].values[1] == pytest.approx(around[lowest])
    assert found["gradient_min_step"].values[1] == lowest
    assert set(found["agrees"].values) <= {"yes", "no", "not measured", "not evaluated"}
    assert "10-100 gradient dip" in found["text"].values[1]


def test_the_dip_is_that_of_the_smoothed_gradient() -> None:
    steps = np.arange(1001)
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, len(steps))
    # Falls until 200, then rises; single steps are lower by chance anywhere.
    norm = 1 + np.abs(steps - 200) / 400 + noise
    norm[0] = np.nan
    smooth = smoothed(norm, steps)
    assert abs(int(np.nanargmin(smooth)) - 200) < 40
    brute = [np.nanmean(norm[max(k - 10, 0) : k + 11]) for k in range(len(steps))]
    np.testing.assert_allclose(smooth, brute, rtol=1e-12)
    sparse = np.array([0, 5, 100, 109, 400])
    values = np.array([np.nan, 1.0, 2.0, 4.0, np.nan])
    np.testing.assert_allclose(smoothed(values, sparse), [1, 1, 3, 3, np.nan])


def test_timeline_needs_two_steps(wide: Made) -> None:
    part = xr.open_zarr(wide.path).isel(step=slice(0, 1))
    with pytest.raises(StepError, match="at least 2"):
        part.ckpt.timeline()
