"""Pages of studies in a real browser: small real ones of every kind, whole and in part."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from ckptlab.experiments.jobs.job import TrainJob
from ckptlab.experiments.results.open import load_results
from ckptlab.report.page import write_page
from ckptlab.report.studies.page import study_page
from ckptlab.report.theme import THEMES, sample_colours
from tests.report.browser import Opened, opened
from tests.report.conftest import HOSTILE
from tests.report.studied import STUDIES, make_study, write_study_page
from tests.report.test_templates import html_of

CHARTS: dict[str, set[str]] = {
    "imp": {"accuracy", "loss"},
    "perturb": {f"{what}-{k}" for what in ("bars", "curves", "deviation") for k in (4, 8)},
    "pretrain": {"density-0", "density-1", "length-0", "length-1"},
    "connect": {"instability", "loss-barrier", "error-0", "loss-0", "error-1", "loss-1"},
    "critical": {"accuracy", "loss"},
    "record": {
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
    },
}
"""Of each kind."""

Studies = Callable[[str], Path]


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    """Do a study of a kind, the first time it is asked for; with its page."""
    done: dict[str, Path] = {}

    def one(kind: str) -> Path:
        if kind not in done:
            done[kind] = make_study(kind, tmp_path_factory.mktemp("study") / kind)
            write_study_page(done[kind])
        return done[kind]

    return one


@pytest.fixture(scope="session")
def tabs(browser: Any, studies: Studies) -> Iterator[Callable[[str], Opened]]:
    contexts = []
    held: dict[str, Opened] = {}

    def one(kind: str) -> Opened:
        if kind not in held:
            contexts.append(opened(browser, studies(kind) / "page.html"))
            held[kind] = contexts[-1].__enter__()
        held[kind].reset()
        return held[kind]

    yield one
    for context in contexts:
        context.__exit__(None, None, None)


def stored(folder: Path) -> xr.Dataset:
    """Read results by xarray alone."""
    return xr.open_zarr(folder / "results.zarr").load()


def rows_of(page: Opened, key: str) -> list[dict[str, str]]:
    """Read the CSV file of a chart, as it is saved."""
    with page.tab.expect_download() as download:
        page.tab.click(f"#{key} [data-do=csv]")
    text = Path(download.value.path()).read_bytes().decode()
    return list(csv.DictReader(io.StringIO(text)))


def value_of(results: xr.Dataset, name: str, cell: dict[str, Any]) -> Any:
    """Take one value; `sel` takes a hundred times as long."""
    array = results[name]
    place = tuple(results[d].values.tolist().index(cell[d]) for d in map(str, array.dims))
    return array.values[place]


def expected(results: xr.Dataset, name: str, at: dict[str, Any]) -> tuple[float, float, int]:
    """Take mean and deviation of a cell over the trainings that differ, the long way."""
    values = {}
    for replicate in results["replicate"].values.tolist():
        cell = {**at, "replicate": replicate}
        job = str(value_of(results, "job", cell))
        values.setdefault(job, float(value_of(results, name, cell)))
    known = [value for value in values.values() if not math.isnan(value)]
    if not known:
        return math.nan, math.nan, 0
    mean = math.fsum(known) / len(known)
    if len(known) == 1:
        return mean, math.nan, 1
    variance = math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)
    return mean, math.sqrt(variance), len(known)


def check_table(
    rows: list[dict[str, str]], results: xr.Dataset, name: str, dims: dict[str, list[Any]]
) -> None:
    """Compare every row with the results themselves, and their order with the grid."""
    assert len(rows) == math.prod(map(len, dims.values()))
    for row, place in zip(rows, product(*dims.values()), strict=True):
        at = dict(zip(dims, place, strict=True))
        assert [row[dim] for dim in dims] == [str(value) for value in place]
        mean, std, count = expected(results, name, at)
        for label, value in ((name, mean), (f"{name} std", std)):
            got = float(row[label]) if row[label] else math.nan
            assert got == pytest.approx(value, rel=1e-12, abs=1e-15, nan_ok=True)
        if "effective" not in name:
            assert int(row["replicates"]) == count
        for replicate in (0, 1):
            exact = float(value_of(results, name, {**at, "replicate": replicate}))
            text = row[f"{name} of replicate {replicate}"]
            assert (float(text) if text else math.nan) == pytest.approx(exact, rel=0, nan_ok=True)
        if name != "effective_std":  # it stands beside accuracy, whose difference is told
            check_difference(row, results, name, at)


def check_difference(
    row: dict[str, str], results: xr.Dataset, name: str, at: dict[str, Any]
) -> None:
    """Compare what a row says of the difference from the baseline with scipy's test of pairs."""
    if not row.get("p"):
        return
    baselines = {"imp": {"level": 0}, "perturb": {"perturbation": "none"}}
    baselines |= {"pretrain": {"length": 0}, "critical": {"duration": 0}}
    base = results[name].sel({**at, **baselines[results.attrs["kind"]]}).values
    values = results[name].sel(at).values
    assert row["test"] == "paired t"
    assert float(row["p"]) == pytest.approx(stats.ttest_rel(values, base).pvalue)
    (difference,) = (float(v) for k, v in row.items() if k.startswith("less "))
    assert difference == pytest.approx((values - base).mean())
    assert float(row["95 % from"]) < difference < float(row["95 % to"])


@pytest.mark.parametrize(
    ("width", "theme"), [(1280, "light"), pytest.param(420, "dark", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", list(STUDIES))
def test_it_draws_everything_and_asks_for_nothing(
    browser: Any, studies: Studies, kind: str, width: int, theme: str
) -> None:
    path = studies(kind) / "page.html"
    with opened(browser, path, width=width, theme=theme) as page:
        assert page.console == []
        assert page.requests == [path.as_uri()]
        assert set(page.charts()) == CHARTS[kind]
        assert set(page.all_drawn("plot.dataset.drawn")) == {"true"}
        marks = "plot.querySelectorAll('path.js-line, .barlayer .point, .points path').length"
        assert all(count > 0 for count in page.all_drawn(marks))
        assert page.tab.evaluate("document.documentElement.scrollWidth") == width
        assert all(page.all_drawn("plot.getBoundingClientRect().right <= innerWidth + 0.5"))
        shown = page.all_drawn("plot.layout.template.layout.paper_bgcolor")
        assert set(shown) == {THEMES[theme].paper}
        units = page.all_drawn("[plot.layout.xaxis.title.text, plot.closest('figure').innerText]")
        assert all("[" in title for title, _ in units)
        assert page.tab.locator("header .notice:not(noscript *)").count() == 0


def test_accuracy_against_density_by_rewind_point(
    tabs: Callable[[str], Opened], studies: Studies
) -> None:
    page, results = tabs("imp"), stored(studies("imp"))
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


def test_the_legend_and_the_axis_switch(tabs: Callable[[str], Opened]) -> None:
    page = tabs("imp")
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


def test_perturbations_are_bars_from_the_unperturbed(
    tabs: Callable[[str], Opened], studies: Studies
) -> None:
    page, results = tabs("perturb"), stored(studies("perturb"))
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


def test_accuracy_falls_with_the_deviation_as_scipy_fits_it(
    tabs: Callable[[str], Opened], studies: Studies
) -> None:
    page, results = tabs("perturb"), stored(studies("perturb"))
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
    tabs: Callable[[str], Opened],
    studies: Studies,
    kind: str,
    key: str,
    name: str,
    grid: dict[str, list[Any] | None],
) -> None:
    page, results = tabs(kind), stored(studies(kind))
    dims = {dim: values or results[dim].values.tolist() for dim, values in grid.items()}
    dims = {
        d: [int(v) if v == int(v) else v for v in vs] if d == "alpha" else vs
        for d, vs in dims.items()
    }
    check_table(rows_of(page, key), results, name, dims)


def test_recordings_are_means_with_bands(tabs: Callable[[str], Opened], studies: Studies) -> None:
    page, results = tabs("record"), stored(studies("record"))
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


def test_tables_are_scrolled_where_they_are_long(tabs: Callable[[str], Opened]) -> None:
    page = tabs("perturb")
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


def test_everything_is_reached_by_the_keyboard(tabs: Callable[[str], Opened]) -> None:
    page = tabs("perturb")
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


@pytest.mark.parametrize("kind", ["imp", "perturb"])
def test_it_prints_on_light_paper(browser: Any, studies: Studies, kind: str) -> None:
    with opened(browser, studies(kind) / "page.html", theme="dark") as page:
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
        assert page.tab.pdf(prefer_css_page_size=True).startswith(b"%PDF")
        assert page.console == []


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_charts_are_saved_as_images(tabs: Callable[[str], Opened], ending: str) -> None:
    page = tabs("perturb")
    for key in ("bars-4", "curves-4", "deviation-4"):
        with page.tab.expect_download() as download:
            page.tab.click(f"#{key} [data-do={ending}]")
        assert download.value.suggested_filename == f"perturb-{key}.{ending}"
        data = Path(download.value.path()).read_bytes()
        assert data.startswith(b"\x89PNG" if ending == "png" else b"<svg")
        if ending == "svg":
            assert b"shuffle:layer" in data or key == "deviation-4"
    assert page.console == []


def test_what_failed_and_what_is_left_is_said(browser: Any, tmp_path: Path) -> None:
    failed: list[Any] = []

    def fails(job: Any) -> str | None:
        """Fail the first level of the second rewind point, on which the next one depends."""
        from_eight = isinstance(job, TrainJob) and job.source is not None and job.source.step == 8
        if not from_eight or failed:
            return None
        failed.append(job)
        return HOSTILE

    folder = make_study("imp", tmp_path / "partial", summary=HOSTILE, fails=fails, only=13)
    results = load_results(folder)
    attrs = results.attrs
    assert min(attrs[f"jobs_{how}"] for how in ("done", "failed", "blocked", "open")) > 0
    path = write_study_page(folder)
    with opened(browser, path) as page:
        assert page.console == []
        assert page.requests == [path.as_uri()]
        left, why = page.tab.locator("header .notice[role=note]").all_inner_texts()
        jobs = attrs["jobs"]
        assert f"{attrs['jobs_open']} of {jobs} jobs are still to be done" in left
        assert f"{attrs['jobs_failed']} of {jobs} jobs failed" in why
        assert f"{attrs['jobs_blocked']} more need them" in why
        missing = int((results["accuracy"].isnull()).sum())
        note = page.tab.inner_text("#accuracy .note")
        assert note == f"{missing} of {results['accuracy'].size} values are missing."
        # A name that wants to be more than text, as title and as reason.
        assert page.tab.inner_text("h1") == HOSTILE
        assert HOSTILE in page.tab.inner_text("#failures")
        assert page.tab.evaluate("typeof pwned") == "undefined"
        assert page.tab.locator("img, b b").count() == 0
        rows = rows_of(page, "accuracy")
        assert sum(row["accuracy"] == "" for row in rows) > 0
        check_table(
            rows,
            results,
            "accuracy",
            {"pruning": ["imp", "random"], "rewind": [0, 8], "level": [0, 1, 2]},
        )


@pytest.mark.parametrize("kind", list(STUDIES))
def test_before_anything_is_done_it_says_so(browser: Any, tmp_path: Path, kind: str) -> None:
    folder = make_study(kind, tmp_path / kind, only=0)
    with opened(browser, write_study_page(folder)) as page:
        assert page.console == []
        assert page.charts() == []
        notices = page.tab.locator("header .notice[role=note]").all_inner_texts()
        assert notices[0].startswith("Results so far")
        assert notices[-1] == "There are no results to draw yet."


def test_hostile_coordinates_are_text(browser: Any, studies: Studies, tmp_path: Path) -> None:
    """Results are data: whoever made them may have named perturbations as they liked."""
    results = load_results(studies("perturb"))
    names = ["none", HOSTILE, f"{HOSTILE}2", "noise:1.0", "reinit"]
    marred = results.assign_coords(perturbation=np.array(names, object))
    (tmp_path / "marred").mkdir()
    marred.to_zarr(tmp_path / "marred" / "results.zarr", zarr_format=3, consolidated=True)
    path = write_study_page(tmp_path / "marred")
    assert "<script>pwned" not in path.read_text()
    with opened(browser, path) as page:
        assert page.console == []
        labels = page.drawn(
            "bars-4", "[...plot.querySelectorAll('.ytick text')].map(t => t.textContent)"
        )
        assert HOSTILE in labels
        assert HOSTILE in page.key_text("curves-4")
        page.tab.click("#bars-4 [data-do=table]")
        assert HOSTILE in page.tab.inner_text("#bars-4 table")
        assert HOSTILE in [row["perturbation"] for row in rows_of(page, "curves-8")]
        page.tab.hover("[data-chart=bars-4] .barlayer .point >> nth=1", force=True)
        assert page.tab.evaluate("typeof pwned") == "undefined"
        assert page.tab.locator("img, b b").count() == 0
        assert page.tab.evaluate("document.documentElement.scrollWidth") == 1280


def test_results_of_a_kind_that_is_not_known(studies: Studies) -> None:
    results = load_results(studies("imp")).assign_attrs(kind="distil")
    (notice,) = study_page(results, "x").notices
    assert "cannot draw results of the kind 'distil'" in notice


@pytest.mark.parametrize(
    ("kind", "charts"),
    [
        ("perturb", {"bars-4", "bars-8", "deviation-4", "deviation-8"}),
        ("connect", {"instability", "loss-barrier", "error-0", "loss-0"}),
    ],
)
def test_experiments_under_one_mask_have_no_levels(
    browser: Any, studies: Studies, tmp_path: Path, kind: str, charts: set[str]
) -> None:
    """As `ckptlab perturb` and `connect` give them, without a study."""
    results = load_results(studies(kind)).isel(level=1, drop=True)
    results.attrs.pop("study")
    path = Path(write_page(study_page(results, kind), str(tmp_path / "page.html")))
    with opened(browser, path) as page:
        assert page.console == []
        assert set(page.charts()) == charts
        assert set(page.all_drawn("plot.dataset.drawn")) == {"true"}
        assert page.tab.locator("input[name^=level]").count() == 0
        (rows,) = (rows_of(page, key) for key in sorted(charts)[:1])
        assert "level" not in rows[0]
        assert "density" not in rows[0]


def test_without_the_unperturbed_bars_begin_at_zero(
    browser: Any, studies: Studies, tmp_path: Path
) -> None:
    results = load_results(studies("perturb")).isel(perturbation=slice(1, 4))
    path = Path(write_page(study_page(results, "x"), str(tmp_path / "page.html")))
    with opened(browser, path) as page:
        assert page.console == []
        base, ends = page.drawn("bars-4", "[plot.data[0].base, plot.layout.xaxis.range]")
        assert base == 0
        assert ends[0] <= 0 < ends[1]
        drawn = page.drawn("bars-4", "[...plot.data[0].x]")
        at = [{"perturbation": k, "rewind": 4, "level": 0} for k in results["perturbation"].values]
        np.testing.assert_allclose(drawn, [expected(results, "accuracy", a)[0] for a in at])
        assert "unperturbed" not in page.tab.inner_text("#curves-4 .key")


def test_what_two_metrics_call_the_same_is_told_apart(tmp_path: Path) -> None:
    """Telemetry has a gradient norm for each step, the timeline one for each phase."""
    folder = make_study("record", tmp_path / "record")
    results = stored(folder)
    assert results["gradient_norm"].dims == ("replicate", "step")
    assert results["timeline_gradient_norm"].dims == ("replicate", "phase")
    page = study_page(load_results(folder), "record")
    (text,) = (html_of(*s.content) for s in page.sections if s.key == "timeline")
    mean = results["timeline_gradient_norm"].sel(phase="fast motion").mean().item()
    assert f"{mean:.3g}" in text


def test_choices_and_what_jobs_warned_of_are_told(studies: Studies) -> None:
    results = load_results(studies("imp"))
    sections = {section.key: section for section in study_page(results, "x").sections}
    assert "warnings" not in sections
    said = sections["study"].text
    assert "Level 0: the dense run, with the momentum it had" in said
    assert "never pruned: nothing, the output layer is pruned as well" in said
    assert "random, as many weights, drawn at random for each level: masks are not nested" in said
    warned = {"job:a": ["no  weight\nat all"], "job:b": ["no weight at all", HOSTILE]}
    page = study_page(results.assign_attrs(warnings=warned), "x")
    (section,) = (s for s in page.sections if s.key == "warnings")
    assert section.text.startswith("2 of ")
    html = html_of(*section.content)
    assert "1. in 2 jobs" in html
    assert "no weight at all" in html
    assert HOSTILE not in html
