"""What the page about two runs draws, and what its switches, keys and files do."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import ckptlab
from ckptlab.report.theme import THEMES
from tests.analyze.recordings import Made
from tests.report.browser import Opened
from tests.report.conftest import EXPECTED


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
    several_page.wait_until("ckptlab.state.span !== null")
    several_page.settle()
    low, high = several_page.tab.evaluate("ckptlab.state.span")
    assert 1 < low < high < 90
    assert span(several_page, "layers-gradient-norm") == pytest.approx([low, high])
    assert several_page.tab.input_value("input[name=from]") == str(low)
    several_page.tab.mouse.dblclick(box["x"] + 0.5 * box["width"], box["y"] + 80)
    several_page.wait_until("ckptlab.state.span === null")


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


def test_it_prints_on_light_paper(several_page: Opened) -> None:
    several_page.prefer("dark")
    printed = several_page.tab.evaluate(
        """() => {
          dispatchEvent(new Event('beforeprint'));
          const all = [...document.querySelectorAll('.plot')];
          return all.map((plot) => [plot.layout.width, plot.layout.paper_bgcolor
            ?? plot.layout.template.layout.paper_bgcolor]);
        }"""
    )
    assert {paper for _, paper in printed} == {THEMES["light"].paper}
    assert max(width for width, _ in printed) <= 688
    several_page.tab.evaluate("dispatchEvent(new Event('afterprint'))")
    several_page.settle()
    after = several_page.drawn("path-2", "plot.layout.template.layout.paper_bgcolor")
    assert after == THEMES["dark"].paper
    document = several_page.print()
    assert document.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", document)) >= 5
    several_page.prefer("light")


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
