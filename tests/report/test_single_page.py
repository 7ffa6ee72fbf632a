"""What the page about one run draws and says, and what its switches and files do."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest

import ckptlab
from ckptlab.report.html.numbers import format_number
from ckptlab.report.theme import THEMES
from tests.analyze.recordings import Made
from tests.report.browser import Opened
from tests.report.conftest import EXPECTED


def test_lines_and_files_hold_what_was_measured(single_page: Opened, drawn_run: Made) -> None:
    run = ckptlab.open_run(drawn_run.path)
    flips = run.analyze("sign-flips", relative_to="init").values
    distance = run.analyze("weight-distance").values
    drawn = single_page.drawn("telemetry-sign-flips-init", "plot.data[0].y")
    np.testing.assert_array_equal(drawn, flips)
    steps = single_page.drawn("telemetry-sign-flips-init", "plot.data[0].x")
    assert steps == [0.5, *range(1, 61)]  # 0 has no place on a logarithmic axis
    text = single_page.tab.evaluate("ckptlab.csv('telemetry-weight-distance-init')")
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["step", "to init", "to final"]
    alone = single_page.tab.evaluate("ckptlab.csv('telemetry-gradient-norm')")
    assert alone.startswith("step,Gradient norm\r\n0,\r\n1,")
    assert [int(row[0]) for row in rows[1:]] == list(range(61))
    np.testing.assert_array_equal([float(row[1]) for row in rows[1:]], distance)
    with single_page.tab.expect_download() as download:
        single_page.tab.click("#layers-sign-flips [data-do=csv]")
    table = list(csv.reader(Path(download.value.path()).read_text().splitlines()))
    by_layer = run.analyze("sign-flips", by="layer")
    assert table[0] == ["step", *by_layer["layer"].values]
    np.testing.assert_array_equal(np.array(table[1:], float)[:, 1:], by_layer.values.T[1:])


def test_layers_are_on_a_logarithmic_scale_of_colour(single_page: Opened, drawn_run: Made) -> None:
    change = ckptlab.open_run(drawn_run.path).analyze("relative-change", by="layer")
    single_page.tab.click("input[name=axis][value=linear]")  # on which no two steps share a pixel
    single_page.settle()
    drawn = single_page.drawn("layers-relative-change", "plot.data[0].z")
    columns = single_page.drawn("layers-relative-change", "plot.data[0].x")
    names = single_page.drawn("layers-relative-change", "plot.layout.yaxis.ticktext")
    assert names == list(change["layer"].values)
    assert columns == list(range(1, 62))
    floor = np.quantile(change.values[:, 1:], 0.01)
    expected = np.log10(np.maximum(change.values[:, 1:], floor))
    np.testing.assert_allclose(drawn, expected, rtol=1e-12)


def test_the_path_in_space_turns(single_page: Opened) -> None:
    """What is drawn is the cube seen from the front: a rotation keeps lengths."""
    first = single_page.drawn("path-3", "[plot.data[2].x, plot.data[2].y]")
    single_page.tab.focus("[data-chart=path-3]")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        single_page.tab.keyboard.press(key)
    second = single_page.drawn("path-3", "[plot.data[2].x, plot.data[2].y]")
    assert first != second
    single_page.tab.locator("[data-chart=path-3]").scroll_into_view_if_needed()
    box = single_page.tab.locator("[data-chart=path-3]").bounding_box()
    single_page.tab.mouse.move(box["x"] + 100, box["y"] + 100)
    single_page.tab.mouse.down()
    single_page.tab.mouse.move(box["x"] + 180, box["y"] + 100, steps=4)
    single_page.tab.mouse.up()
    single_page.wait_until(
        f"document.querySelector('[data-chart=path-3]').data[2].x[0] !== {second[0][0]!r}"
    )
    third = np.array(single_page.drawn("path-3", "[plot.data[2].x, plot.data[2].y]"))
    assert np.abs(third).max() <= math.sqrt(3) + 1e-9


def test_the_keys_of_the_keyboard_read_values(single_page: Opened, drawn_run: Made) -> None:
    run = ckptlab.open_run(drawn_run.path)
    distance = run.analyze("weight-distance").values
    accuracy = run.analyze("evaluation")["eval_accuracy"]
    chart = "telemetry-weight-distance-init"
    assert format_number(distance[-1]) in single_page.key_text(chart)
    single_page.tab.focus(f"[data-chart={chart}]")
    single_page.tab.keyboard.press("Home")
    for _ in range(3):
        single_page.tab.keyboard.press("ArrowRight")
    assert single_page.tab.inner_text(".bar .at") == "at step 3"
    assert format_number(distance[3]) in single_page.key_text(chart)
    said = single_page.drawn(chart, "plot.getAttribute('aria-valuetext')")
    assert said.startswith("step 3: to init")
    # Every chart follows; of evaluations the last one up to the step counts.
    known = accuracy.sel(eval_step=slice(0, 3)).values[-1]
    assert format_number(known, percent=True) in single_page.key_text("telemetry-eval-accuracy")
    rule = single_page.tab.eval_on_selector_all(
        ".rule", "all => all.filter(r => r.style.display == 'block').length"
    )
    assert rule == len([key for key in EXPECTED if not key.startswith("path")])
    single_page.tab.keyboard.press("Escape")
    assert single_page.tab.inner_text(".bar .at") == "at step 60"


def test_the_pointer_reads_the_step_it_is_over(single_page: Opened) -> None:
    single_page.tab.locator("#telemetry-cosine-init .plot").scroll_into_view_if_needed()
    place = single_page.tab.eval_on_selector(
        "#telemetry-cosine-init .plot",
        """plot => {
          const box = plot.getBoundingClientRect();
          const axis = plot._fullLayout.xaxis;
          return [box.left + axis._offset + axis.d2p(20), box.top + 60];
        }""",
    )
    single_page.tab.mouse.move(*place)
    single_page.wait_until("ckptlab.state.step !== null")
    assert single_page.tab.inner_text(".bar .at") == "at step 20"
    single_page.tab.mouse.move(1, 1)
    single_page.wait_until("ckptlab.state.step === null")


def test_the_theme_switches(single_page: Opened) -> None:
    single_page.tab.click("input[name=theme][value=dark]")
    single_page.settle()
    paper = single_page.drawn("path-2", "plot.layout.template.layout.paper_bgcolor")
    assert paper == THEMES["dark"].paper
    line = single_page.drawn("telemetry-cosine-init", "plot.data[0].line.color")
    assert line == THEMES["dark"].colours[0]
    single_page.tab.click("input[name=theme][value=auto]")
    single_page.prefer("dark")
    single_page.prefer("light")
    line = single_page.drawn("telemetry-cosine-init", "plot.data[0].line.color")
    assert line == THEMES["light"].colours[0]


def test_tables_show_some_rows_and_say_of_how_many(single_page: Opened) -> None:
    single_page.tab.click("#telemetry-cosine-init [data-do=table]")
    single_page.tab.wait_for_selector("#telemetry-cosine-init table")
    assert single_page.tab.inner_text("#telemetry-cosine-init caption").endswith("of 61 rows")
    rows = single_page.tab.locator("#telemetry-cosine-init tbody tr").all_inner_texts()
    assert rows[0].split("\t")[0] == "0"
    assert rows[-1].split("\t")[0] == "60"
    assert len(rows) <= 15
    single_page.tab.click("#telemetry-cosine-init [data-do=table]")
    assert single_page.tab.locator("table caption").count() == 0


@pytest.mark.parametrize("log", [True, False])
def test_heat_maps_are_means_over_bins(single_page: Opened, log: bool) -> None:
    rng = np.random.default_rng(3)
    z = rng.standard_normal(3000)
    z[rng.random(len(z)) < 0.01] = np.nan
    low, high = (math.log10(0.5), math.log10(len(z) - 1)) if log else (0, len(z) - 1)
    edges, values = single_page.tab.evaluate(
        """([z, low, high, log]) => {
          const { edges, values } = ckptlab.means(
            Int32Array.from(z, (_, i) => i), z.length, Float64Array.from(z, (v) => v ?? NaN),
            1, low, high, 100, log);
          return [edges, values[0].map((v) => Number.isNaN(v) ? null : v)];
        }""",
        [[None if math.isnan(v) else v for v in z], low, high, log],
    )
    assert (edges[0], edges[-1]) == (0, len(z))
    assert len(values) == len(edges) - 1 <= 101
    for a, b, value in zip(edges, edges[1:], values, strict=False):
        part = z[a:b][np.isfinite(z[a:b])]
        assert value is None if not len(part) else value == pytest.approx(part.mean(), rel=1e-9)


def test_numbers_are_written_alike_in_text_and_charts(single_page: Opened) -> None:
    values = [0, 1, -1, 0.5, 12.346, 99.95, 999.6, 1234567, 1e8, 0.00012, 1e-5, -3.21e-9, 0.1]
    for percent in (False, True):
        got = single_page.tab.evaluate(
            "([values, percent]) => values.map((v) => ckptlab.written(v, percent))",
            [values, percent],
        )
        assert got == [format_number(value, percent) for value in values]
