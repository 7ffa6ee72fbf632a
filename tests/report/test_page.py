"""The page in a real browser: what it draws, says and asks for, and what its switches do."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptlab
from ckptlab.report.html.numbers import format_number
from ckptlab.report.theme import THEMES
from tests.analyze.recordings import Made, record
from tests.report.browser import Opened, opened
from tests.report.conftest import HOSTILE, report

EXPECTED = {
    "telemetry-eval-accuracy",
    "telemetry-eval-loss",
    "telemetry-gradient-norm",
    "telemetry-gradient-mean-abs",
    "telemetry-weight-distance-init",
    "telemetry-cosine-init",
    "telemetry-sign-flips-init",
    "telemetry-sign-flips-previous",
    "telemetry-weight-change",
    "telemetry-relative-change",
    "telemetry-weight-magnitude",
    "telemetry-weight-min",
    "telemetry-zeros",
    "trajectories-trajectories",
    "layers-sign-flips",
    "layers-relative-change",
    "layers-gradient-norm",
    "path-2",
    "path-3",
}
"""Charts of a run with everything; its learning rate was not recorded."""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_it_draws_everything_and_asks_for_nothing(
    browser: Any, several: Path, width: int, theme: str
) -> None:
    with opened(browser, several, width=width, theme=theme) as page:
        assert page.console == []
        assert page.requests == [several.as_uri()]
        assert set(page.charts()) == EXPECTED
        assert page.all_drawn("plot.dataset.drawn") == ["true"] * len(EXPECTED)
        marks = "plot.querySelectorAll('.scatterlayer path.js-line, .heatmaplayer image').length"
        assert all(count > 0 for count in page.all_drawn(marks))
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width
        inside = "plot.getBoundingClientRect().right <= innerWidth + 0.5"
        assert all(page.all_drawn(inside))
        paper = page.tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == f"rgb{tuple(bytes.fromhex(THEMES[theme].paper[1:]))}"
        shown = page.all_drawn("plot.layout.template.layout.paper_bgcolor")
        assert set(shown) == {THEMES[theme].paper}


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


def test_the_step_axis_switches(several_page: Opened) -> None:
    kinds = "plot.layout.xaxis.type"
    over_steps = [key for key in EXPECTED if not key.startswith("path")]
    assert {several_page.drawn(key, kinds) for key in over_steps} == {"log"}
    several_page.tab.click("input[name=axis][value=linear]")
    several_page.settle()
    assert {several_page.drawn(key, kinds) for key in over_steps} == {"linear"}
    assert several_page.drawn("layers-sign-flips", "plot.layout.xaxis.range") == [0, 90]
    assert several_page.drawn("telemetry-cosine-init", "plot.data[0].x[0]") == 0


def test_one_legend_shows_and_hides_runs_everywhere(several_page: Opened) -> None:
    def names(page: Opened) -> set[str]:
        drawn = page.all_drawn("plot.data.map(trace => trace.name ?? '')")
        lines = zip(page.charts(), drawn, strict=True)
        chosen = [n for key, ns in lines if key.startswith("telemetry") for n in ns]
        return {name.split(",")[0] for name in chosen}

    assert names(several_page) == {"drawn", "second"}
    before = several_page.key_text("telemetry-cosine-init")
    several_page.tab.uncheck("input[name=shown][value='0']")
    several_page.settle()
    assert names(several_page) == {"second"}
    assert len(several_page.key_text("telemetry-cosine-init")) < len(before)
    colours = several_page.all_drawn("plot.data[0]?.line?.color")
    assert THEMES["light"].colours[1] in colours
    several_page.tab.uncheck("input[name=shown][value='1']")
    several_page.settle()
    several_page.tab.check("input[name=shown][value='0']")
    several_page.settle()
    assert names(several_page) == {"drawn"}


def test_layers_and_path_are_of_the_run_that_is_chosen(
    several_page: Opened, second_run: Made
) -> None:
    path = ckptlab.open_run(second_run.path).analyze("subspace", components=3)
    several_page.tab.click("input[name=run-layers][value='1']")
    several_page.settle()
    assert several_page.tab.is_checked("input[name=run-path][value='1']")
    assert several_page.drawn("layers-sign-flips", "plot.data[0].x.at(-1)") == 91
    drawn = several_page.drawn("path-2", "[[...plot.data[0].x], [...plot.data[0].y]]")
    np.testing.assert_array_equal(drawn, path["projection"].values[:2])


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
    single_page.tab.wait_for_function(
        "before => document.querySelector('[data-chart=path-3]').data[2].x[0] !== before",
        arg=second[0][0],
    )
    third = np.array(single_page.drawn("path-3", "[plot.data[2].x, plot.data[2].y]"))
    assert np.abs(third).max() <= math.sqrt(3) + 1e-9


def test_steps_are_chosen_by_numbers_by_dragging_and_returned_to(several_page: Opened) -> None:
    def span(page: Opened, key: str) -> list[float]:
        return [10**place for place in page.drawn(key, "plot.layout.xaxis.range")]

    assert span(several_page, "telemetry-cosine-init") == pytest.approx([0.5, 90])
    several_page.tab.fill("input[name=from]", "10")
    several_page.tab.keyboard.press("Tab")
    several_page.settle()
    for key in ("telemetry-cosine-init", "layers-gradient-norm"):
        assert span(several_page, key) == pytest.approx([10, 90])
    several_page.tab.click("[data-do=reset]")
    several_page.settle()
    assert span(several_page, "layers-gradient-norm") == pytest.approx([0.5, 90])

    several_page.tab.locator("#telemetry-cosine-init .plot").scroll_into_view_if_needed()
    box = several_page.tab.locator("#telemetry-cosine-init .plot").bounding_box()
    several_page.tab.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 80)
    several_page.tab.mouse.down()
    several_page.tab.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 80, steps=5)
    several_page.tab.mouse.up()
    several_page.tab.wait_for_function("() => ckptlab.state.span !== null")
    several_page.settle()
    low, high = several_page.tab.evaluate("ckptlab.state.span")
    assert 1 < low < high < 90
    assert span(several_page, "layers-gradient-norm") == pytest.approx([low, high])
    assert several_page.tab.input_value("input[name=from]") == str(low)
    several_page.tab.mouse.dblclick(box["x"] + 0.5 * box["width"], box["y"] + 80)
    several_page.tab.wait_for_function("() => ckptlab.state.span === null")


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
    single_page.tab.wait_for_function("() => ckptlab.state.step !== null")
    assert single_page.tab.inner_text(".bar .at") == "at step 20"
    single_page.tab.mouse.move(1, 1)
    single_page.tab.wait_for_function("() => ckptlab.state.step === null")


def test_everything_is_reached_by_the_keyboard(several_page: Opened) -> None:
    several_page.tab.evaluate(
        """() => {
          const all = document.querySelectorAll('a[href], button, input, .plot');
          window.wanted = [...all].filter((e) => e.getClientRects().length
            && (e.type !== 'radio' || e.checked));
          window.met = new Set();
          document.addEventListener('focusin', (event) => met.add(event.target));
        }"""
    )
    wanted = several_page.tab.evaluate("wanted.length")
    for _ in range(wanted + 40):
        several_page.tab.keyboard.press("Tab")
    missed = several_page.tab.evaluate("wanted.filter((e) => !met.has(e)).map((e) => e.outerHTML)")
    assert missed == []
    # What has the focus is seen to have it.
    several_page.tab.focus(".skip")
    assert several_page.tab.eval_on_selector(".skip", "e => e.getBoundingClientRect().left") >= 0


def test_charts_say_what_they_are(several_page: Opened) -> None:
    """Names and descriptions as assistive technology gets them."""
    nodes = several_page.all_drawn(
        """[plot.role ?? plot.getAttribute('role'), plot.getAttribute('aria-label'),
            plot.getAttribute('aria-describedby').split(' ')
              .map((id) => document.getElementById(id).textContent).join(' ')]"""
    )
    assert all(role in ("slider", "img") and label for role, label, _ in nodes)
    told = dict(zip(several_page.charts(), (text for *_, text in nodes), strict=True))
    assert re.search(
        r"to init: from 0 at 0 to [\d.]+ × 10⁹ at 60; lowest 0 at 0",
        told["telemetry-weight-distance-init"],
    )
    ids = several_page.tab.eval_on_selector_all("[id]", "all => all.map(e => e.id)")
    assert len(ids) == len(set(ids))
    unnamed = several_page.tab.eval_on_selector_all(
        "input, button, a",
        "all => all.filter(e => !(e.textContent || e.labels?.[0]?.textContent)).length",
    )
    assert unnamed == 0


def test_the_theme_switches(browser: Any, single: Path) -> None:
    with opened(browser, single, theme="light") as page:
        page.tab.click("input[name=theme][value=dark]")
        page.settle()
        assert page.drawn("path-2", "plot.layout.template.layout.paper_bgcolor") == (
            THEMES["dark"].paper
        )
        line = page.drawn("telemetry-cosine-init", "plot.data[0].line.color")
        assert line == THEMES["dark"].colours[0]
        page.tab.click("input[name=theme][value=auto]")
        page.prefer("dark")
        page.prefer("light")
        line = page.drawn("telemetry-cosine-init", "plot.data[0].line.color")
        assert line == THEMES["light"].colours[0]


def test_it_prints_on_light_paper(browser: Any, several: Path, tmp_path: Path) -> None:
    with opened(browser, several, theme="dark") as page:
        printed = page.tab.evaluate(
            """() => {
              dispatchEvent(new Event('beforeprint'));
              const all = [...document.querySelectorAll('.plot')];
              return all.map((plot) => [plot.layout.width, plot.layout.paper_bgcolor
                ?? plot.layout.template.layout.paper_bgcolor]);
            }"""
        )
        assert {paper for _, paper in printed} == {THEMES["light"].paper}
        assert max(width for width, _ in printed) <= 688
        page.tab.evaluate("dispatchEvent(new Event('afterprint'))")
        page.settle()
        after = page.drawn("path-2", "plot.layout.template.layout.paper_bgcolor")
        assert after == THEMES["dark"].paper
        document = page.tab.pdf(prefer_css_page_size=True)
        assert document.startswith(b"%PDF")
        assert len(re.findall(rb"/Type\s*/Page\b", document)) >= 5
        assert page.console == []


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_chart_is_saved_as_an_image(several_page: Opened, ending: str) -> None:
    for key in ("telemetry-cosine-init", "layers-sign-flips", "path-3"):
        with several_page.tab.expect_download() as download:
            several_page.tab.click(f"#{key} [data-do={ending}]")
        data = Path(download.value.path()).read_bytes()
        assert download.value.suggested_filename == f"drawn-second-{key}.{ending}"
        assert data.startswith(b"\x89PNG" if ending == "png" else b"<svg")
        if ending == "svg" and key == "telemetry-cosine-init":
            assert b"Direction" in data
            assert b"optimizer updates" in data


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


def test_hostile_names_are_text(browser: Any, hostile: Path) -> None:
    text = hostile.read_text()
    assert "<script>pwned" not in text
    assert "onerror=pwned" not in text.replace("&lt;img src=x onerror=pwned", "").replace(
        "\\u003cimg src=x onerror=pwned", ""
    )
    with opened(browser, hostile) as page:
        assert page.console == []
        assert page.requests == [hostile.as_uri()]
        assert page.tab.evaluate("typeof pwned") == "undefined"
        assert page.tab.evaluate("document.scripts.length") == 3
        assert page.tab.locator("img, b b").count() == 0
        assert HOSTILE in page.tab.inner_text("#run")
        assert page.tab.inner_text("h1") == "<b>run<script>"
        # As far as there is room, from its end.
        labels = page.drawn(
            "layers-sign-flips",
            "[...plot.querySelectorAll('.ytick text')].map((t) => t.textContent)",
        )
        assert labels[0].startswith("…")
        assert labels[0].endswith("<b>bold")
        page.tab.click("#layers-sign-flips [data-do=table]")
        page.tab.wait_for_selector("#layers-sign-flips th")
        heads = page.tab.locator("#layers-sign-flips th").all_inner_texts()
        assert HOSTILE in heads
        page.tab.hover("[data-chart=layers-sign-flips]")
        page.tab.wait_for_selector("[data-chart=layers-sign-flips] .hoverlayer text")
        hovered = page.drawn(
            "layers-sign-flips", "plot.querySelector('.hoverlayer text').textContent"
        )
        assert "<script>pwned=1</script>" in hovered
        assert page.tab.evaluate("typeof pwned") == "undefined"


def test_scripts_of_others_do_not_run(browser: Any, single: Path, tmp_path: Path) -> None:
    """Even if escaping failed somewhere: the page's policy knows its own scripts only."""
    marred = tmp_path / "marred.html"
    marred.write_text(single.read_text().replace("<main", "<script>pwned=1</script><main", 1))
    with opened(browser, marred) as page:
        assert page.tab.evaluate("typeof pwned") == "undefined"
        assert any("Content Security Policy" in line for line in page.console)


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


def test_lines_hold_every_value(browser: Any, tmp_path: Path) -> None:
    """Zooming and saving need no more data than the line has: nothing is left out of it."""
    made = record(tmp_path / "long.zarr", steps=1500, schedule="0:")
    flips = ckptlab.open_run(made.path).analyze("sign-flips", relative_to="init").values
    with opened(browser, report(tmp_path / "long.html", made.path)) as page:
        drawn = page.drawn("telemetry-sign-flips-init", "[...plot.data[0].y]")
        np.testing.assert_array_equal(drawn, flips)
        # Plotly draws the extremes of a line, but not a point for each step.
        count = "plot.querySelector('path.js-line').getAttribute('d').split(/[LHVM]/).length"
        path = page.drawn("telemetry-sign-flips-init", count)
        assert path < 1500


def test_numbers_are_written_alike_in_text_and_charts(single_page: Opened) -> None:
    values = [0, 1, -1, 0.5, 12.346, 99.95, 999.6, 1234567, 1e8, 0.00012, 1e-5, -3.21e-9, 0.1]
    for percent in (False, True):
        got = single_page.tab.evaluate(
            "([values, percent]) => values.map((v) => ckptlab.written(v, percent))",
            [values, percent],
        )
        assert got == [format_number(value, percent) for value in values]


def test_the_data_of_the_page_is_one_json_document(single: Path) -> None:
    text = single.read_text()
    element = r'<script type="application/json" id="data">(.*?)</script>'
    found = re.search(element, text, re.DOTALL)
    assert found is not None
    document = json.loads(found[1])
    assert set(document["charts"]) == EXPECTED
    assert not set(found[1]) & set("<>&\u2028\u2029")
