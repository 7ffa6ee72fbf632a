"""The page in a real browser as it is opened: what it draws and asks for, and that text is text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptlab
from ckptlab.report.theme import THEMES
from tests.analyze.recordings import record
from tests.report.browser import visit
from tests.report.conftest import EXPECTED, HOSTILE, report


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_it_draws_everything_and_asks_for_nothing(
    tab: Any, several: Path, width: int, theme: str
) -> None:
    with visit(tab, several, width=width, theme=theme) as page:
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


def test_hostile_names_are_text(tab: Any, hostile: Path) -> None:
    text = hostile.read_text()
    assert "<script>pwned" not in text
    assert "onerror=pwned" not in text.replace("&lt;img src=x onerror=pwned", "").replace(
        "\\u003cimg src=x onerror=pwned", ""
    )
    with visit(tab, hostile) as page:
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


def test_scripts_of_others_do_not_run(tab: Any, single: Path, tmp_path: Path) -> None:
    """Even if escaping failed somewhere: the page's policy knows its own scripts only."""
    marred = tmp_path / "marred.html"
    marred.write_text(single.read_text().replace("<main", "<script>pwned=1</script><main", 1))
    with visit(tab, marred) as page:
        assert page.tab.evaluate("typeof pwned") == "undefined"
        assert any("Content Security Policy" in line for line in page.console)


def test_lines_hold_every_value(tab: Any, tmp_path: Path) -> None:
    """Zooming and saving need no more data than the line has: nothing is left out of it."""
    made = record(tmp_path / "long.zarr", steps=700, schedule="0:")
    flips = ckptlab.open_run(made.path).analyze("sign-flips", relative_to="init").values
    with visit(tab, report(tmp_path / "long.html", made.path)) as page:
        drawn = page.drawn("telemetry-sign-flips-init", "[...plot.data[0].y]")
        np.testing.assert_array_equal(drawn, flips)
        # Plotly draws the extremes of a line, but not a point for each step.
        count = "plot.querySelector('path.js-line').getAttribute('d').split(/[LHVM]/).length"
        path = page.drawn("telemetry-sign-flips-init", count)
        assert path < 700


def test_the_data_of_the_page_is_one_json_document(single: Path) -> None:
    text = single.read_text()
    element = r'<script type="application/json" id="data">(.*?)</script>'
    found = re.search(element, text, re.DOTALL)
    assert found is not None
    document = json.loads(found[1])
    assert set(document["charts"]) == EXPECTED
    assert not set(found[1]) & set("<>&\u2028\u2029")
