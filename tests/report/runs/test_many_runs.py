"""More runs than colours: means and spreads over runs, against NumPy, and single runs faintly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptlab
from ckptlab.report.html.numbers import format_spread
from tests.analyze.recordings import record
from tests.report.browser import Opened, visit
from tests.report.conftest import report

COUNT = 9


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine runs, the last of which stopped early, so that its last steps are not common."""
    folder = tmp_path_factory.mktemp("many")
    lengths = [31] * (COUNT - 1) + [25]
    for seed, steps in enumerate(lengths):
        record(folder / f"seed{seed}.zarr", steps=steps, schedule="0:", seed=seed)
    return [folder / f"seed{seed}.zarr" for seed in range(COUNT)]


@pytest.fixture(scope="module")
def page(tab: Any, runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    path = report(tmp_path_factory.mktemp("page") / "many.html", *runs)
    with visit(tab, path) as shown:
        yield shown
        assert shown.console == []


def test_lines_are_means_with_bands_of_the_sample_deviation(page: Opened, runs: list[Path]) -> None:
    values = [ckptlab.open_run(run).analyze("weight-distance").values for run in runs]
    common = np.stack([one[:25] for one in values])
    drawn = page.drawn(
        "telemetry-weight-distance-init",
        "plot.data.map((t) => [t.band ?? false, t.opacity, [...t.y]])",
    )
    bands = [y for band, _, y in drawn if band]
    strong = [y for band, opacity, y in drawn if not band and opacity == 1]
    single = [y for band, opacity, y in drawn if not band and opacity == 0.25]
    assert (len(bands), len(strong), len(single)) == (2, 2, 2 * COUNT)
    np.testing.assert_allclose(strong[0], common.mean(0), rtol=1e-12)
    mean, spread = common.mean(0), common.std(0, ddof=1)
    np.testing.assert_allclose(bands[0][:25], mean + spread, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(single[0], values[0], rtol=1e-12)


def test_the_key_holds_the_mean_and_the_table_every_run(page: Opened, runs: list[Path]) -> None:
    common = np.stack(
        [ckptlab.open_run(run).analyze("weight-distance").values[:25] for run in runs]
    )
    page.tab.focus("[data-chart=telemetry-weight-distance-init]")
    page.tab.keyboard.press("Home")
    for _ in range(3):
        page.tab.keyboard.press("ArrowRight")
    said = page.key_text("telemetry-weight-distance-init").replace("\n", " ")
    mean, std = common.mean(0)[3], common.std(0, ddof=1)[3]
    assert format_spread(mean, std).replace(" ", "") in said.replace(" ", "")
    assert page.tab.locator("#telemetry-weight-distance-init .key li").count() == 2
    header = page.tab.evaluate("ckptlab.csv('telemetry-weight-distance-init')").split("\r\n")[0]
    names = header.split(",")
    assert "seed0: to init" in names
    assert "seed8: to final" in names
    page.tab.keyboard.press("Escape")


def test_there_is_no_legend_of_runs_but_a_list_to_choose_from(page: Opened) -> None:
    assert page.tab.locator("input[name=shown]").count() == 0
    assert "bands are standard deviations of the sample (n − 1)" in page.tab.inner_text("main")
    page.tab.select_option("select[name=run-layers]", "8")
    page.settle()
    assert page.tab.input_value("select[name=run-path]") == "8"
    assert page.drawn("layers-sign-flips", "plot.data[0].x.at(-1)") == 25
    assert page.drawn("path-2", "plot.data[0].x.length") == 25


def test_phases_count_the_runs_that_agree(page: Opened, runs: list[Path]) -> None:
    tables = [ckptlab.open_run(run).analyze("timeline") for run in runs]
    values = np.array([float(t["sign_flips"].sel(phase="gradient dip")) for t in tables])
    text = page.tab.inner_text("#phases")
    assert format_spread(values.mean(), values.std(ddof=1), percent=True) in text
    verdicts = [str(t["agrees"].sel(phase="fast motion").item()) for t in tables]
    assert f"{verdicts.count('yes')} of {COUNT} agree" in text
    first = page.tab.locator("header table tbody tr").nth(0).inner_text()
    assert first.startswith("seed0\t31")
