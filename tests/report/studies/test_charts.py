"""Charts of studies in a real browser, a page of each kind: what they and their files hold."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ckptlab.report.theme import THEMES, sample_colours
from tests.report.browser import Opened, visit
from tests.report.studies.conftest import Studies
from tests.report.studies.tables import check_table, expected, rows_of, stored

Pages = Callable[[str], Opened]


@pytest.fixture(scope="module")
def pages(tab: Any, studies: Studies) -> Iterator[Pages]:
    """Show the page of a kind at rest; tests of one kind stand together, and share one opening."""
    held: dict[str, Opened] = {}
    with ExitStack() as leaving:

        def show(kind: str) -> Opened:
            if kind not in held:
                leave()
                held[kind] = leaving.enter_context(visit(tab, studies(kind) / "page.html"))
            held[kind].reset()
            return held[kind]

        def leave() -> None:
            leaving.close()
            for page in held.values():
                assert page.console == []
            held.clear()

        yield show
        leave()


def test_accuracy_against_density_by_rewind_point(pages: Pages, studies: Studies) -> None:
    page, results = pages("imp"), stored(studies("imp"))
    grid = {"pruning": ["imp", "random"], "rewind": [0, 8], "level": [0, 1, 2]}
    for name in ("accuracy", "loss"):
        rows = rows_of(page, name)
        check_table(rows, results, name, grid)
        for row in rows:
            kept = results["density"].sel(
                pruning=row["pruning"], rewind=int(row["rewind"]), level=int(row["level"])
            )
            assert float(row["density"]) == float(kept[0])
    lines = page.drawn(
        "accuracy", "plot.data.filter(t => !t.band).map(t => [t.name, [...t.x], [...t.y]])"
    )
    assert [name for name, *_ in lines] == [
        f"step {step}, {way}" for step in (0, 8) for way in ("imp", "random")
    ]
    for name, x, y in lines:
        step, way = re.fullmatch(r"step (\d+), (\w+)", name).groups()
        at = [{"pruning": way, "rewind": int(step), "level": k} for k in (2, 1, 0)]
        np.testing.assert_allclose(y, [expected(results, "accuracy", a)[0] for a in at])
        density = results["density"].sel(pruning=way, rewind=int(step)).isel(replicate=0)
        np.testing.assert_array_equal(x, density.values[::-1])
    bands = page.drawn("accuracy", "plot.data.filter(t => t.band).length")
    assert bands == 4
    ends = page.drawn("accuracy", "plot.layout.xaxis.range")
    assert ends[0] > 0 > ends[1]  # dense at the left
    mean = expected(results, "accuracy", {"pruning": "imp", "rewind": 0, "level": 0})[0]
    assert page.drawn("accuracy", "plot.layout.shapes.map(s => s.y0)") == [pytest.approx(mean)]


def test_the_legend_and_the_axis_switch(pages: Pages) -> None:
    page = pages("imp")
    assert page.drawn("accuracy", "plot.layout.xaxis.type") == "log"
    page.tab.click("input[name=axis][value=linear]")
    page.settle()
    assert page.drawn("accuracy", "plot.layout.xaxis.type") == "linear"
    page.tab.uncheck("input[name=shown][value='0']")
    page.settle()
    names = page.drawn("loss", "plot.data.filter(t => !t.band).map(t => t.name)")
    assert names == ["step 8, imp", "step 8, random"]
    assert page.key_text("loss").split("\n") == names
    colours = page.drawn("loss", "plot.data.filter(t => !t.band).map(t => t.line.color)")
    assert set(colours) == {sample_colours(THEMES["light"].order, 2)[1]}
    page.tab.click("input[name=theme][value=dark]")
    page.settle()
    assert page.drawn("loss", "plot.layout.template.layout.paper_bgcolor") == THEMES["dark"].paper


@pytest.mark.parametrize("kind", ["imp", "perturb"])
def test_it_prints_on_light_paper(pages: Pages, kind: str) -> None:
    page = pages(kind)
    page.prefer("dark")
    printed = page.tab.evaluate(
        """() => {
          dispatchEvent(new Event('beforeprint'));
          return [...document.querySelectorAll('.plot')].map((plot) =>
            [plot.layout.width, plot.layout.template.layout.paper_bgcolor]);
        }"""
    )
    assert {paper for _, paper in printed} == {THEMES["light"].paper}
    assert max(width for width, _ in printed) <= 688
    page.tab.evaluate("dispatchEvent(new Event('afterprint'))")
    page.settle()
    assert page.print().startswith(b"%PDF")
    page.prefer("light")


def test_perturbations_are_bars_from_the_unperturbed(pages: Pages, studies: Studies) -> None:
    page, results = pages("perturb"), stored(studies("perturb"))
    kinds = list(results["perturbation"].values)
    rows = rows_of(page, "bars-8")
    check_table(rows, results, "accuracy", {"perturbation": kinds, "rewind": [8], "level": [0, 1]})
    # None and signs draw nothing, but each replicate has its own dense training.
    assert {row["replicates"] for row in rows} == {"2"}
    for position, level in enumerate((0, 1)):
        page.tab.click(f"input[name=level-bars][value='{position}']")
        page.settle()
        assert page.tab.is_checked(f"input[name=level-deviation][value='{position}']")
        bar = page.drawn("bars-8", "[plot.data[0].base, [...plot.data[0].x], plot.data[0].y]")
        means = [
            expected(results, "accuracy", {"perturbation": k, "rewind": 8, "level": level})[0]
            for k in kinds
        ]
        assert bar[0] == pytest.approx(means[0])
        np.testing.assert_allclose(np.add(bar[0], bar[1]), means)
        dots = page.drawn("bars-8", "[...plot.data[1].x]")
        each = results["accuracy"].sel(rewind=8, level=level).transpose("perturbation", "replicate")
        np.testing.assert_array_equal(dots, each.values.ravel())


def test_accuracy_falls_with_the_deviation_as_scipy_fits_it(pages: Pages, studies: Studies) -> None:
    page, results = pages("perturb"), stored(studies("perturb"))
    kinds = [kind for kind in results["perturbation"].values if kind != "none"]
    for position, level in enumerate((0, 1)):
        page.tab.click(f"input[name=level-deviation][value='{position}']")
        page.settle()
        at = [{"perturbation": kind, "rewind": 4, "level": level} for kind in kinds]
        x, y = ([expected(results, n, a)[0] for a in at] for n in ("effective_std", "accuracy"))
        fit = stats.linregress(x, y)
        said = page.key_text("deviation-4").replace("−", "-")
        assert f"r = {fit.rvalue:.2f}, p = " in said
        assert f"{len(kinds)} points" in said
        line = page.drawn("deviation-4", "[plot.data[0].x, plot.data[0].y]")
        np.testing.assert_allclose(line[0], [min(x), max(x)])
        np.testing.assert_allclose(line[1], fit.intercept + fit.slope * np.array(line[0]))
        drawn = page.drawn("deviation-4", "plot.data.slice(2).flatMap(t => [...t.x])")
        np.testing.assert_allclose(sorted(drawn), sorted(x))
        assert page.drawn("deviation-4", "[...plot.data[1].x]") == [0]
    rows = rows_of(page, "deviation-4")
    grid = {"perturbation": list(results["perturbation"].values), "rewind": [4], "level": [0, 1]}
    check_table(rows, results, "accuracy", grid)
    check_table(rows, results, "effective_std", grid)


def test_tables_are_scrolled_where_they_are_long(pages: Pages) -> None:
    page = pages("perturb")
    page.tab.click("#bars-4 [data-do=table]")
    page.tab.wait_for_selector("#bars-4 table")
    assert page.tab.inner_text("#bars-4 caption") == "10 of 10 rows"
    cells = page.tab.locator("#bars-4 tbody tr").first.all_inner_texts()[0].split("\t")
    assert cells[0] == "none"
    assert cells[3] == "100 %"
    # It is wider than its column, which stays as wide as it was.
    wide, narrow = page.tab.eval_on_selector(
        "#bars-4 .scroll", "box => [box.scrollWidth, box.clientWidth]"
    )
    assert wide > narrow
    ends = page.tab.eval_on_selector_all(
        "#bars-4, #bars-8", "all => all.map((e) => e.getBoundingClientRect())"
    )
    inner = page.drawn("bars-4", "plot.getBoundingClientRect().right")
    assert inner <= ends[0]["right"] <= ends[1]["left"]


def test_everything_is_reached_by_the_keyboard(pages: Pages) -> None:
    page = pages("perturb")
    page.tab.evaluate(
        """() => {
          const all = document.querySelectorAll('a[href], button, input, .plot');
          window.wanted = [...all].filter((e) => e.getClientRects().length
            && (e.type !== 'radio' || e.checked));
          window.met = new Set();
          document.addEventListener('focusin', (event) => met.add(event.target));
        }"""
    )
    for _ in range(page.tab.evaluate("wanted.length") + 20):
        page.tab.keyboard.press("Tab")
    missed = page.tab.evaluate("wanted.filter((e) => !met.has(e)).map((e) => e.outerHTML)")
    assert missed == []
    page.tab.focus("input[name=level-bars]:checked")
    page.tab.keyboard.press("ArrowRight")
    page.settle()
    assert page.tab.is_checked("input[name=level-bars][value='1']")
    told = page.all_drawn(
        """plot.getAttribute('aria-describedby').split(' ')
             .map((id) => document.getElementById(id).textContent).join(' ')"""
    )
    assert "unperturbed " in told[0]
    assert re.search(r"r = -?\d\.\d\d over 4 points", told[-1])


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_charts_are_saved_as_images(pages: Pages, ending: str) -> None:
    page = pages("perturb")
    for key in ("bars-4", "curves-4", "deviation-4"):
        with page.tab.expect_download() as download:
            page.tab.click(f"#{key} [data-do={ending}]")
        assert download.value.suggested_filename == f"perturb-{key}.{ending}"
        data = Path(download.value.path()).read_bytes()
        assert data.startswith(b"\x89PNG" if ending == "png" else b"<svg")
        if ending == "svg":
            assert b"shuffle:layer" in data or key == "deviation-4"
    assert page.console == []


@pytest.mark.parametrize(
    ("kind", "key", "name", "grid"),
    [
        ("perturb", "curves-4", "accuracy", {"perturbation": None, "rewind": [4], "level": [0, 1]}),
        ("pretrain", "density-1", "accuracy", {"task": ["blur"], "length": None, "level": None}),
        ("pretrain", "length-1", "accuracy", {"task": None, "length": None, "level": [1]}),
        ("connect", "instability", "instability", {"rewind": None, "level": None}),
        ("connect", "loss-barrier", "loss_barrier", {"rewind": None, "level": None}),
        ("connect", "error-1", "error", {"rewind": None, "level": [1], "alpha": None}),
        ("connect", "loss-0", "loss", {"rewind": None, "level": [0], "alpha": None}),
        ("critical", "accuracy", "accuracy", {"onset": [0], "duration": None}),
        ("critical", "loss", "loss", {"onset": [0], "duration": None}),
    ],
)
def test_files_hold_what_the_results_hold(
    pages: Pages,
    studies: Studies,
    kind: str,
    key: str,
    name: str,
    grid: dict[str, list[Any] | None],
) -> None:
    page, results = pages(kind), stored(studies(kind))
    dims = {dim: values or results[dim].values.tolist() for dim, values in grid.items()}
    dims = {
        d: [int(v) if v == int(v) else v for v in vs] if d == "alpha" else vs
        for d, vs in dims.items()
    }
    check_table(rows_of(page, key), results, name, dims)


def test_recordings_are_means_with_bands(pages: Pages, studies: Studies) -> None:
    page, results = pages("record"), stored(studies("record"))
    rows = rows_of(page, "telemetry-weight-distance-init")
    for to in ("init", "final"):
        values = results[f"weight_distance_{to}"].transpose("step", "replicate").values
        np.testing.assert_allclose([float(row[f"to {to}"]) for row in rows], values.mean(1))
        deviation = np.abs(values[:, 0] - values[:, 1]) / math.sqrt(2)
        np.testing.assert_allclose([float(row[f"to {to}, std"]) for row in rows], deviation)
        assert {row[f"to {to}, replicates"] for row in rows} == {"2"}
    assert [int(row["step"]) for row in rows] == results["step"].values.tolist()
    page.tab.focus("[data-chart=telemetry-weight-distance-init]")
    page.tab.keyboard.press("Home")
    assert page.tab.inner_text(".bar .at") == "at step 0"
    assert "± 0" in page.key_text("telemetry-weight-distance-init")
    moved = results["distance"].sel(phase="fast motion").mean().item()
    assert f"{moved:.3g}" in page.tab.inner_text("#timeline table")
