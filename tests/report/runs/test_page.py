"""What the page says in words: of one run and of several, of those that are not complete."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import ckptlab
from ckptlab.cli.results import save
from ckptlab.errors import ConfigError, LayoutError, StepError
from ckptlab.report.html.numbers import format_number
from ckptlab.report.html.outline import Content
from ckptlab.report.page import render
from ckptlab.report.runs.measure import MeasuredRun, measure_run, read_results
from ckptlab.report.runs.page import runs_page
from ckptlab.report.runs.tables import key_figures, phases, recording
from tests.analyze.recordings import Made, record
from tests.report.browser import visit
from tests.report.conftest import report
from tests.report.test_templates import html_of


def text_of(*parts: Content) -> str:
    """Return what is read, one line an element."""
    return re.sub(r"\s*\n\s*", "\n", re.sub(r"<[^>]*>", "\n", html_of(*parts))).strip()


@pytest.fixture(scope="module")
def pair(drawn_run: Made, second_run: Made) -> list[MeasuredRun]:
    return [
        measure_run(ckptlab.open_run(made.path), made.path.stem) for made in (drawn_run, second_run)
    ]


def walk(model: nn.Module, recorder: Any, steps: int) -> None:
    for _ in range(steps):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
                parameter.grad = torch.randn_like(parameter)
        recorder.step(loss=1.0)


def test_key_figures_are_those_of_the_run(pair: list[MeasuredRun], drawn_run: Made) -> None:
    run = ckptlab.open_run(drawn_run.path)
    moved = run.analyze("weight-distance").values[-1]
    flipped = run.analyze("sign-flips", relative_to="init").values[-1]
    lines = text_of(key_figures(pair[:1])).split("\n")
    said = dict(zip(lines[::2], lines[1::2], strict=True))
    assert said["snapshots"] == "61"
    assert said["distance moved"] == format_number(moved)
    assert said["signs changed"] == format_number(flipped, percent=True)
    assert said["test accuracy, last"] == format_number(60 / 61, percent=True)
    table = text_of(key_figures(pair))
    assert "drawn\nsecond\nSnapshots\n61\n91" in table


def test_phases_have_a_column_each_and_a_colour_for_each_run(pair: list[MeasuredRun]) -> None:
    alone, both = phases(pair[:1]), phases(pair)
    for text in ("Fast motion", "steps 0 to 10", "Gradient dip", "steps 10 to 60"):
        assert text in text_of(alone)
    assert "steps 10 to 90" in text_of(both)
    assert "Slowing" not in text_of(both)
    row = pair[1].survey.timeline.sel(phase="gradient dip")
    assert format_number(float(row["change_per_update"])) in text_of(both)
    drawn = html_of(both)
    assert drawn.count('data-run="1"') == drawn.count('data-run="0"') > 4
    assert "data-run" not in html_of(alone)


def test_the_card_tells_what_differs_first(pair: list[MeasuredRun]) -> None:
    alone = text_of(*recording(pair[:1]))
    assert "complete" in alone
    for name, version in pair[0].facts["versions"].items():
        assert f"{name}\n{version}" in alone
    differ, same = text_of(*recording(pair)).split("What is the same")
    assert "Recording: snapshots\n61, steps 0 to 60\n91, steps 0 to 90" in differ
    assert "codec" not in differ
    assert f"parameters\n{pair[0].facts['parameters']:,} in 8 tensors" in same


def test_settings_of_any_form_are_shown(pair: list[MeasuredRun]) -> None:
    odd = {"loose": 3, "model": {"name": "x", "sizes": [1, 2], "flag": True, "none": None}}
    pair[0].facts["config"] = odd
    said = text_of(*recording(pair[:1]))
    assert "Settings\nloose\n3" in said
    assert "Settings: model\nname\nx\nsizes\n1, 2\nflag\nyes" in said
    pair[0].facts["config"] = "just text"
    assert "config\njust text" in text_of(*recording(pair[:1]))
    pair[0].facts["config"] = {}


def test_a_run_that_is_being_recorded_says_so(tab: Any, tmp_path: Path) -> None:
    model = nn.Linear(30, 20)
    path = tmp_path / "live.zarr"
    with ckptlab.Recorder(path, model, memory="100kB") as recorder:
        walk(model, recorder, 50)
        until = ckptlab.open_run(path)
        while len(until.steps) < 20:
            until = ckptlab.open_run(path)
        assert until.state == "recording"
        page = runs_page([measure_run(until, "live")])
        (notice,) = page.notices
        assert f"shows the {len(until.steps)} steps committed" in notice
        written = report(tmp_path / "live.html", path)
        walk(model, recorder, 1)
    with visit(tab, written) as shown:
        assert "is still being recorded" in shown.tab.inner_text("header")
        assert shown.console == []


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    model = nn.Linear(30, 20)
    path = tmp_path / "cut.zarr"
    with contextlib.suppress(KeyError), ckptlab.Recorder(path, model) as recorder:
        walk(model, recorder, 7)
        raise KeyError
    page = runs_page([measure_run(ckptlab.open_run(path), "cut")])
    (notice,) = page.notices
    assert "was interrupted: 8 steps were committed. The last of them, 7," in notice
    assert "--resume" in notice


def test_too_few_steps_are_refused(tmp_path: Path) -> None:
    with ckptlab.Recorder(tmp_path / "one.zarr", nn.Linear(3, 2)):
        pass
    with pytest.raises(StepError, match="an overview needs at least 2"):
        measure_run(ckptlab.open_run(tmp_path / "one.zarr"), "one")


def test_two_steps_are_enough(tab: Any, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    with ckptlab.Recorder(tmp_path / "two.zarr", model) as recorder:
        walk(model, recorder, 1)
    with visit(tab, report(tmp_path / "two.html", tmp_path / "two.zarr")) as page:
        assert page.console == []
        assert set(page.all_drawn("plot.dataset.drawn")) == {"true"}


def test_what_was_not_recorded_is_named(tab: Any, tmp_path: Path) -> None:
    made = record(tmp_path / "late.zarr", steps=41, schedule="20:")
    page = report(tmp_path / "late.html", made.path)
    with visit(tab, page) as shown:
        said = shown.tab.inner_text("footer")
        assert "Not shown: comparisons with step 0, which was not recorded" in said
        assert shown.key_text("telemetry-sign-flips-init") == "0 %"  # to the last alone
        assert shown.drawn("telemetry-sign-flips-init", "plot.data[0].x[0]") == 20
        assert shown.console == []


def test_nan_is_named_and_leaves_gaps(tab: Any, tmp_path: Path) -> None:
    made = record(tmp_path / "nan.zarr", steps=30, schedule="0:", nan={("big.weight", 9): 3})
    page = report(tmp_path / "nan.html", made.path)
    with visit(tab, page) as shown:
        assert "NaN in weights: tensor 'big.weight' at step 9" in shown.tab.inner_text("header")
        assert not any(key.startswith("path") for key in shown.charts())
        drawn = shown.drawn("telemetry-weight-magnitude", "[...plot.data[0].y].map(Number.isNaN)")
        assert np.flatnonzero(drawn).tolist() == [9]
        assert shown.console == []


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_run_that_diverged_is_drawn_as_far_as_it_is_finite(tab: Any, tmp_path: Path) -> None:
    model = nn.Linear(30, 20)
    with ckptlab.Recorder(tmp_path / "wild.zarr", model) as recorder:
        walk(model, recorder, 20)
        for power in (1e15, 1e30, 1e38):
            with torch.no_grad():
                model.weight.mul_(power)
            model.weight.grad = torch.full_like(model.weight, power)
            recorder.step(loss=float("inf"))
    page = report(tmp_path / "wild.html", tmp_path / "wild.zarr")
    with visit(tab, page) as shown:
        assert shown.console == []
        assert set(shown.all_drawn("plot.dataset.drawn")) == {"true"}
        spans = shown.all_drawn("(plot.layout.yaxis.range ?? [0]).every(Number.isFinite)")
        assert all(spans)
        assert ",Infinity" in shown.tab.evaluate("ckptlab.csv('telemetry-eval-loss')")


def test_results_that_were_computed_before_are_drawn(
    tab: Any, tmp_path: Path, drawn_run: Made, second_run: Made
) -> None:
    one, two = (ckptlab.open_run(made.path) for made in (drawn_run, second_run))
    noise = one.analyze("gradient-noise", window=10)
    spread = xr.concat(
        [run.analyze("effective-std", steps="0:61") for run in (one, two)],
        dim=xr.Variable("run", ["drawn", "second"]),
        combine_attrs="drop_conflicts",
    )
    files = [str(tmp_path / "noise.nc"), str(tmp_path / "spread.zarr")]
    save(noise, files[0])
    save(spread, files[1])
    paths = [str(one.path), str(two.path)]
    first, second = read_results(files, paths)
    assert (set(first), set(second)) == ({"gradient-noise", "effective-std"}, {"effective-std"})
    measured = [
        measure_run(run, name, results=held)
        for run, name, held in zip((one, two), ("drawn", "second"), (first, second), strict=True)
    ]
    page = tmp_path / "page.html"
    page.write_text("".join(render(runs_page(measured))))
    with visit(tab, page) as shown:
        assert shown.console == []
        drawn = shown.drawn("effective-std-effective-std", "[...plot.data[1].y]")
        np.testing.assert_array_equal(drawn, spread.values[1])
        assert shown.drawn("gradient-noise-gradient-noise-scale", "plot.data.length") >= 1
        assert "Further measurements" in shown.tab.inner_text("main")


def test_results_of_others_are_refused(tmp_path: Path, drawn_run: Made) -> None:
    run = ckptlab.open_run(drawn_run.path)
    spread = run.analyze("effective-std")
    path = str(tmp_path / "spread.nc")
    save(spread, path)
    with pytest.raises(
        LayoutError, match=r"is a result of .*drawn\.zarr.*the report is of x\.zarr"
    ):
        read_results([path], ["x.zarr"])
    # Of two of one name, the one with the same path.
    held = read_results([path], ["elsewhere/drawn.zarr", run.path])
    assert [set(results) for results in held] == [set(), {"effective-std"}]
    with pytest.raises(LayoutError):
        read_results([path], ["a/drawn.zarr", "b/drawn.zarr"])
    with pytest.raises(ConfigError, match="another effective-std"):
        read_results([path, path], [run.path])
    with pytest.raises(ConfigError, match="does not exist"):
        read_results([str(tmp_path / "no.nc")], [run.path])
    with pytest.raises(ConfigError, match=r"must be \.nc or \.zarr"):
        read_results(["x.csv"], [run.path])
    save(run.analyze("telemetry"), path)
    with pytest.raises(ConfigError, match="which a report measures itself"):
        read_results([path], [run.path])
    xr.Dataset({"x": 1}).to_netcdf(path)
    with pytest.raises(ConfigError, match="names no metric"):
        read_results([path], [run.path])
    (tmp_path / "bad.nc").write_text("no netcdf")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_results([str(tmp_path / "bad.nc")], [run.path])


class Mixing(nn.Module):
    """A layer of no kind that ckptlab knows."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(2, 3, 4))


def test_a_model_without_known_layers_is_reported(tmp_path: Path) -> None:
    model = nn.Sequential(Mixing(), Mixing())
    with ckptlab.Recorder(tmp_path / "other.zarr", model) as recorder:
        walk(model, recorder, 5)
    run = ckptlab.open_run(tmp_path / "other.zarr")
    assert {tensor.kind for tensor in run.stored.layout.tensors} == {"other"}
    page = runs_page([measure_run(run, "other")])
    telemetry = next(section for section in page.sections if section.key == "telemetry")
    assert "Measured over the weights of all matrices" in telemetry.text
    assert telemetry.charts


def test_what_is_wrong_with_a_series_has_its_section(tmp_path: Path) -> None:
    made = record(tmp_path / "run.zarr", steps=12, schedule="0:", nan={("big.weight", 5): 2})
    page = runs_page([measure_run(ckptlab.open_run(made.path), "run")])
    (section,) = [section for section in page.sections if section.key == "health"]
    (table,) = section.content
    texts = [row.name + value.text for row in table.rows for cell in row.cells for value in cell]
    assert any("step 5, big.weight" in text for text in texts)
    assert any("2 of 18,000 weights are NaN or infinite" in text for text in texts)
