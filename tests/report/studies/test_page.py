"""Pages of studies in a real browser: small real ones of every kind, whole and in part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptlab.experiments.jobs.job import TrainJob
from ckptlab.experiments.results.open import load_results
from ckptlab.report.page import write_page
from ckptlab.report.studies.page import study_page
from ckptlab.report.theme import THEMES
from tests.report.browser import visit
from tests.report.conftest import HOSTILE
from tests.report.studied import STUDIES, make_study, write_study_page
from tests.report.studies.conftest import Studies
from tests.report.studies.tables import check_table, expected, rows_of, stored
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


@pytest.mark.parametrize(
    ("width", "theme"), [(1280, "light"), pytest.param(420, "dark", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", list(STUDIES))
def test_it_draws_everything_and_asks_for_nothing(
    tab: Any, studies: Studies, kind: str, width: int, theme: str
) -> None:
    path = studies(kind) / "page.html"
    with visit(tab, path, width=width, theme=theme) as page:
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


def test_what_failed_and_what_is_left_is_said(tab: Any, tmp_path: Path) -> None:
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
    with visit(tab, path) as page:
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
def test_before_anything_is_done_it_says_so(tab: Any, tmp_path: Path, kind: str) -> None:
    folder = make_study(kind, tmp_path / kind, only=0)
    with visit(tab, write_study_page(folder)) as page:
        assert page.console == []
        assert page.charts() == []
        notices = page.tab.locator("header .notice[role=note]").all_inner_texts()
        assert notices[0].startswith("Results so far")
        assert notices[-1] == "There are no results to draw yet."


def test_hostile_coordinates_are_text(tab: Any, studies: Studies, tmp_path: Path) -> None:
    """Results are data: whoever made them may have named perturbations as they liked."""
    results = load_results(studies("perturb"))
    names = ["none", HOSTILE, f"{HOSTILE}2", "noise:1.0", "reinit"]
    marred = results.assign_coords(perturbation=np.array(names, object))
    (tmp_path / "marred").mkdir()
    marred.to_zarr(tmp_path / "marred" / "results.zarr", zarr_format=3, consolidated=True)
    path = write_study_page(tmp_path / "marred")
    assert "<script>pwned" not in path.read_text()
    with visit(tab, path) as page:
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
    tab: Any, studies: Studies, tmp_path: Path, kind: str, charts: set[str]
) -> None:
    """As `ckptlab perturb` and `connect` give them, without a study."""
    results = load_results(studies(kind)).isel(level=1, drop=True)
    results.attrs.pop("study")
    path = Path(write_page(study_page(results, kind), str(tmp_path / "page.html")))
    with visit(tab, path) as page:
        assert page.console == []
        assert set(page.charts()) == charts
        assert set(page.all_drawn("plot.dataset.drawn")) == {"true"}
        assert page.tab.locator("input[name^=level]").count() == 0
        (rows,) = (rows_of(page, key) for key in sorted(charts)[:1])
        assert "level" not in rows[0]
        assert "density" not in rows[0]


def test_without_the_unperturbed_bars_begin_at_zero(
    tab: Any, studies: Studies, tmp_path: Path
) -> None:
    results = load_results(studies("perturb")).isel(perturbation=slice(1, 4))
    path = Path(write_page(study_page(results, "x"), str(tmp_path / "page.html")))
    with visit(tab, path) as page:
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
