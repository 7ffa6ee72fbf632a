"""From measurements to what the page draws: every step where it fits, honest where it does not."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.report.html.arrays import EmbeddedArrays
from ckptlab.report.plot_data import panels_of
from ckptlab.report.runs import run_charts
from ckptlab.report.runs.measure import MeasuredRun, measure_run
from tests.analyze.recordings import Made


@pytest.fixture(scope="module")
def measured(drawn_run: Made) -> MeasuredRun:
    return measure_run(ckptlab.open_run(drawn_run.path), "drawn")


def lengthened(measured: MeasuredRun, steps: int) -> MeasuredRun:
    """The same run as if it had many more steps: values interpolated, and noise."""
    network = measured.survey.network
    at = np.arange(steps)
    rng = np.random.default_rng(0)

    def longer(values: xr.DataArray) -> xr.DataArray:
        y = np.interp(at, np.linspace(0, steps - 1, values.sizes["step"]), np.arange(1.0, 62.0))
        noisy = y * (1 + 0.2 * rng.standard_normal(steps))
        return xr.DataArray(noisy, {"step": at}, ("step",), attrs=values.attrs)

    layers = measured.survey.layers
    many = layers.isel(step=1 + at % 60).assign_coords(step=at)
    survey = replace(measured.survey, network=network.map(longer, keep_attrs=True), layers=many)
    return replace(measured, survey=survey)


def test_every_panel_of_the_registry_is_a_chart(measured: MeasuredRun) -> None:
    titles = [chart.title for chart in run_charts.telemetry_charts([measured])]
    panels = METRICS["telemetry"].plot.panels
    assert titles == [panel.title for panel in panels if panel.title != "Learning rate"]
    assert {v for panel in panels for v in panel.variables} >= set(measured.survey.network)


def test_what_never_changes_is_left_out(measured: MeasuredRun) -> None:
    network = measured.survey.network
    still = network.assign(zeros=network["zeros"] * 0)
    changed = replace(measured, survey=replace(measured.survey, network=still))
    titles = [chart.title for chart in run_charts.telemetry_charts([changed])]
    assert "Weights that are zero" not in titles
    assert "Mean absolute weight" in titles


def test_all_steps_are_kept_where_they_fit(measured: MeasuredRun) -> None:
    for chart in run_charts.telemetry_charts([measured]):
        assert chart.note == ""
    (grid,) = run_charts.layer_charts([measured])[0].grids
    expected = measured.survey.layers["sign_flips"].values[:, 1:]
    np.testing.assert_array_equal(grid.z, expected)
    np.testing.assert_array_equal(grid.x, np.arange(1, 61))
    assert grid.end == 61


def test_what_is_too_long_is_thinned_and_says_so(measured: MeasuredRun) -> None:
    long = lengthened(measured, 62_561)
    (chart,) = [c for c in run_charts.telemetry_charts([long]) if c.title == "Mean absolute weight"]
    (line,) = chart.lines
    whole = long.survey.network["weight_magnitude"].values
    assert len(line.x) < 7_000
    assert (line.x[0], line.x[-1]) == (0, 62_560)
    np.testing.assert_array_equal(line.y, whole[line.x])
    assert line.y.max() == whole.max()
    assert line.y.min() == whole.min()
    assert "of the 62,561 steps" in chart.note
    assert "ckptlab analyze telemetry RUN -o" in chart.note
    heat = run_charts.layer_charts([long])[0]
    (grid,) = heat.grids
    assert grid.z.shape[1] <= 3_001
    assert "--by layer" in heat.note
    # The means of the stretches, weighted by their lengths, are the mean of all.
    lengths = np.diff([*grid.x, 62_561])
    z = long.survey.layers["relative_change"].values
    (thinned,) = run_charts.layer_charts([long])[1].grids
    np.testing.assert_allclose((thinned.z * lengths).sum(1) / lengths.sum(), z.mean(1))


def test_lines_of_several_runs_share_styles(measured: MeasuredRun) -> None:
    pair = [measured, replace(measured, name="other")]
    by_title = {chart.title: chart for chart in run_charts.telemetry_charts(pair)}
    lines = by_title["Direction"].lines
    assert [(line.name, line.run, line.style) for line in lines] == [
        ("to init", 0, 0),
        ("to final", 0, 1),
        ("to init", 1, 0),
        ("to final", 1, 1),
    ]


def test_panels_are_named_by_what_differs(drawn_run: Made) -> None:
    run = ckptlab.open_run(drawn_run.path)
    spectrum = xr.Dataset(
        {"eigenvalues": (("step", "eigenvalue"), np.ones((3, 2)), {"units": "x"})},
        {"step": [0, 1, 2], "eigenvalue": [1, 2]},
    )
    (axes,) = panels_of(spectrum, METRICS["hessian-spectrum"])
    assert [curve.name for curve in axes.curves] == ["1", "2"]
    by_layer = panels_of(run.analyze("cosine", by="layer"), METRICS["cosine"])[0]
    assert [curve.name for curve in by_layer.curves] == ["conv", "big", "out"]
    assert (by_layer.x_name, by_layer.units, by_layer.relative_to) == ("step", "1", "init")


def test_numbers_are_embedded_once_and_exactly() -> None:
    columns = EmbeddedArrays()
    values = np.array([1.5, np.nan, np.inf, -0.0, 5e-324])
    steps = np.arange(10)
    name = columns.add(values)
    assert columns.add(values.copy()) == name
    assert columns.add(steps) != name
    assert columns.add(steps.astype(np.int32)) == columns.add(steps)
    held = columns.arrays[name]
    assert held["type"] == "f8"
    decoded = np.frombuffer(base64.b64decode(held["data"]), "<f8")
    np.testing.assert_array_equal(decoded.view(np.uint64), values.view(np.uint64))
    assert columns.arrays[columns.add(steps)]["type"] == "i4"
    assert columns.arrays[columns.add(np.array([2**40]))]["type"] == "f8"
    assert len(columns.arrays) == 3


def test_a_path_that_is_not_finite_is_not_drawn(measured: MeasuredRun) -> None:
    assert [chart.kind for chart in run_charts.path_charts([measured])] == ["path", "space"]
    broken = replace(measured, path=measured.path * np.nan)
    assert run_charts.path_charts([broken]) == []
