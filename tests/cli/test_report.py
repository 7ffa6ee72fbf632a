"""``ckptlab report`` as a user runs it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import ckptlab, ckptlab_process
from tests.report.studied import make_study


@pytest.fixture
def here(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two copies of a run, in which the commands run."""
    for name in ("a", "b"):
        shutil.copytree(small_run, tmp_path / f"{name}.zarr", copy_function=os.link)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_path_is_printed_and_nothing_is_overwritten(here: Path) -> None:
    done = ckptlab("report", "a.zarr")
    assert (done.returncode, done.stdout, done.stderr) == (0, "a-report.html\n", "")
    page = (here / "a-report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<script src" not in page
    again = ckptlab("report", "a.zarr")
    assert again.returncode == 2
    assert "a-report.html exists; give another name, or --overwrite" in again.stderr
    assert ckptlab("report", "a.zarr", "--overwrite").returncode == 0
    assert sorted(p.name for p in here.iterdir()) == ["a-report.html", "a.zarr", "b.zarr"]


def test_patterns_and_options(here: Path, call: Any) -> None:
    code, out, err = call("report", "*.zarr", "--steps", "0:20", "--kinds", "all")
    assert (code, out, err) == (0, "report.html\n", "")
    page = (here / "report.html").read_text()
    assert '"runs":["a","b"]' in page
    assert '"steps":[0,19]' in page


def test_results_and_curvature(here: Path, call: Any) -> None:
    measured = ["--eigenvalues", "2", "--samples", "32", "--steps", "0,20,40"]
    assert call("analyze", "hessian-spectrum", "a.zarr", *measured, "-o", "h.nc")[0] == 0
    code, out, err = call("report", "a.zarr", "--results", "h.nc", "-o", "h.html")
    assert (code, out, err) == (0, "h.html\n", "")
    page = (here / "h.html").read_text()
    assert "Largest Hessian eigenvalues" in page
    assert "Fisher" not in page
    code, _, err = call("report", "b.zarr", "--results", "h.nc")
    assert code == 2
    assert "h.nc is a result of 'a.zarr'" in err
    # What is given is not measured again.
    code, _, err = call("report", "a.zarr", "--results", "h.nc", "--curvature", "-o", "c.html")
    assert code == 0, err
    page = (here / "c.html").read_text()
    assert "Largest Hessian eigenvalues" in page
    assert "Fisher" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.zarr"], "nowhere.zarr"),
        (["x*.zarr"], "matches no run"),
        (["a.zarr", "-o", "x.pdf"], "the ending must be .html"),
        (["a.zarr", "-o", "no/where.html"], "the folder no does not exist"),
        (["a.zarr", "--kinds", "conf"], "Did you mean 'conv'"),
        (["a.zarr", "--steps", "0:500"], "beyond the last recorded step 40"),
        (["a.zarr", "--steps", "3"], "needs at least 2"),
        (["a.zarr", "--results", "no.nc"], "no.nc does not exist"),
        (["a.zarr", "--scheduler", "cloud"], "unknown --scheduler"),
        ([], "RUN"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    here: Path,
    call: Any,
    arguments: list[str],
    message: str,
) -> None:
    code, out, err = call("report", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(p.name for p in here.iterdir()) == ["a.zarr", "b.zarr"]


def test_more_runs_than_colours_are_averaged(here: Path, call: Any) -> None:
    for k in range(9):
        shutil.copytree(here / "a.zarr", here / f"many{k}.zarr", copy_function=os.link)
    code, out, err = call("report", "many*.zarr")
    assert (code, out, err) == (0, "report.html\n", "")
    page = (here / "report.html").read_text()
    assert '"averaged":true' in page
    assert "means over 9 runs, at the steps that all of them recorded" in page


PLUGIN = """
import numpy as np
import ckptlab

@ckptlab.metric(name="largest-weight", unit="weight", report=True)
def largest_weight(weights):
    "Largest absolute weight."
    return np.abs(weights).max()

@ckptlab.metric(name="smallest-weight", unit="weight")
def smallest_weight(weights):
    "Smallest absolute weight."
    return np.abs(weights).min()
"""


def test_metrics_of_users_are_drawn_where_they_or_the_user_say_so(here: Path) -> None:
    (here / "mine.py").write_text(PLUGIN)
    done = ckptlab_process("--plugin", "mine.py", "report", "a.zarr", "--steps", "0:20")
    assert (done.returncode, done.stderr) == (0, "")
    page = (here / "a-report.html").read_text()
    assert '"key":"largest-weight-largest-weight"' in page
    assert "smallest-weight" not in page
    done = ckptlab_process(
        "--plugin", "mine.py", "report", "a.zarr", "--metric", "smallest-weight", "--overwrite"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"key":"smallest-weight-smallest-weight"' in (here / "a-report.html").read_text()
    done = ckptlab("report", "a.zarr", "--metric", "smallest-weigth", "--overwrite")
    assert done.returncode == 2
    assert "smallest-weigth" in done.stderr


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small study."""
    return make_study("critical", tmp_path_factory.mktemp("studies") / "deficit", summary="Blur")


def test_a_study_is_its_results_or_its_folder(study: Path, here: Path, call: Any) -> None:
    code, out, err = call("report", study)
    assert (code, out, err) == (0, "deficit-report.html\n", "")
    page = (here / "deficit-report.html").read_text()
    assert "<h1>Blur</h1>" in page
    code, _, err = call("report", study / "results.zarr")
    assert code == 2
    assert "deficit-report.html exists" in err
    code, out, _ = call("report", study / "results.zarr", "-o", "again.html")
    assert (code, out) == (0, "again.html\n")
    shutil.copytree(study / "results.zarr", here / "moved.zarr")
    assert call("report", "moved.zarr")[1] == "moved-report.html\n"


def test_partial_results_are_drawn_with_a_warning(here: Path, call: Any) -> None:
    folder = make_study("critical", here / "partial", only=3)
    code, out, err = call("report", folder)
    assert (code, out) == (0, "partial-report.html\n")
    assert err.startswith("Warning: Results so far: 3 of 6 jobs are still to be done.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.zarr"], "report each results.zarr on a page of its own"),
        (["--steps", "0:5"], "--steps is for runs"),
        (["--curvature"], "--curvature is for runs"),
        (["--metric", "cosine"], "--metric is for runs"),
        (["--results", "x.nc"], "--results is for runs"),
        (["-o", "x.pdf"], "the ending must be .html"),
    ],
)
def test_what_a_study_does_not_take(
    study: Path, here: Path, call: Any, arguments: list[str], message: str
) -> None:
    code, out, err = call("report", study, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(p.name for p in here.iterdir()) == ["a.zarr", "b.zarr"]
