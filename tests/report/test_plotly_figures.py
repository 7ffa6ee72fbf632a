"""Figures: one for every metric, complete, offline, and nothing of a run is read as HTML."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS, compute
from ckptlab.errors import ConfigError
from ckptlab.report.plotly_figures import figure, require_format, write_figure
from ckptlab.report.theme import COLOURS
from tests.analyze.recordings import RUN_IS_ENOUGH, Made


@pytest.mark.parametrize("name", RUN_IS_ENOUGH)
def test_every_metric_has_a_figure(drawn_run: Made, name: str, tmp_path: Path) -> None:
    metric = METRICS[name]
    drawn = figure(compute(ckptlab.open_run(drawn_run.path), name), metric)
    assert drawn.data
    assert name in drawn.layout.title.text
    axes = [drawn.layout[key] for key in drawn.layout if key.startswith(("xaxis", "yaxis"))]
    assert (
        any("optimizer updates" in (axis.title.text or "") for axis in axes) or name == "subspace"
    )
    path = write_figure(drawn, str(tmp_path / "figure.html"))
    page = Path(path).read_text()
    assert "plotly.js v" in page
    assert "<script src=" not in page


def test_lines_are_the_values(drawn_run: Made) -> None:
    result = compute(ckptlab.open_run(drawn_run.path), "weight-change", by="layer")
    drawn = figure(result, METRICS["weight-change"])
    assert [line.name for line in drawn.data] == result["layer"].values.tolist()
    assert drawn.data[0].x[0] == 0.5  # step 0 on a logarithmic axis
    assert np.isnan(drawn.data[0].y[0])
    np.testing.assert_array_equal(np.array(drawn.data[1].y[1:], float), result.values[1, 1:])
    assert drawn.layout.yaxis.type == "log"
    assert "[weight]" in drawn.layout.yaxis.title.text
    assert "step 0 drawn at 0.5" in drawn.layout.xaxis.title.text
    assert [line.line.color for line in drawn.data] == list(COLOURS[: len(drawn.data)])


def test_many_lines_differ_in_colour_or_dash() -> None:
    result = xr.DataArray(
        np.ones((30, 3)),
        {"tensor": [f"t{i}" for i in range(30)], "step": [0, 1, 2]},
        ("tensor", "step"),
        "cosine",
    )
    drawn = figure(result, METRICS["cosine"])
    assert len({(line.line.color, line.line.dash) for line in drawn.data}) == 30


def test_names_from_a_run_are_text(drawn_run: Made, tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><b>x"
    result = compute(ckptlab.open_run(drawn_run.path), "cosine", by="layer")
    result = result.assign_coords(layer=[hostile, *result["layer"].values[1:]])
    result.attrs["run"] = result.attrs["relative_to"] = result.attrs["long_name"] = hostile
    drawn = figure(result, METRICS["cosine"])
    # Plotly itself reads <b> and links in text: what it gets is escaped.
    assert drawn.data[0].name.startswith("&lt;/script&gt;")
    assert "<b>" not in drawn.layout.title.text
    assert "<b>" not in drawn.layout.yaxis.title.text
    page = Path(write_figure(drawn, str(tmp_path / "x.html"))).read_text()
    assert "alert(1)</script>" not in page


def test_only_known_endings() -> None:
    with pytest.raises(ConfigError, match=r"must be one of \.html, \.png, \.svg"):
        require_format("figure.pdf")


def test_png_needs_kaleido(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'ckptlab\[png\]'"):
        require_format("figure.png")
