"""Rows are kept, shared and not done again; the committed ones belong to the studies of today."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import write_job
from ckptlab.experiments.jobs.worker import JobContext, run_jobs
from ckptlab.store.read.reader import open_store
from ckptlab.train.data_root import VARIABLE
from reproduction import rows
from reproduction.claims import CLAIMS
from reproduction.figures import FIGURES, PILOTS, RESULTS, Figure
from reproduction.run import Store, collect, run, source, what_is_left
from tests.experiments.small import SETTINGS

STUDY = """
kind = "{kind}"
summary = "a test"
replicates = 2
rewind = [8]
{more}

[scales.tiny.config.record]
steps = "0, 8"
"""


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> tuple[Figure, Figure]:
    """Two studies that share the series of sub-networks."""
    folder = tmp_path_factory.mktemp("studies")
    made = []
    for kind, more in (
        ("imp", "levels = 2"),
        ("perturb", 'at_levels = [2]\nperturbations = ["none", "noise:1.0"]'),
    ):
        path = folder / f"{kind}.toml"
        path.write_text(STUDY.format(kind=kind, more=more))
        made.append(Figure(str(path), "tiny", kind))
    return made[0], made[1]


@pytest.fixture(scope="module")
def done(figures, tmp_path_factory) -> Path:
    """A folder in which the jobs of both are done."""
    folder = Folder(tmp_path_factory.mktemp("jobs"))
    folder.make()
    for figure in figures:
        for key, job in figure.plan(tuple(SETTINGS)).jobs.items():
            context = JobContext(folder=str(folder.path), recordings={})
            (result,) = run_jobs([(key, write_job(job))], context)
            assert result.error is None
    return folder.path


def test_rows_are_what_jobs_ended_with_and_none_is_done_again(figures, done, tmp_path):
    settings = tuple(SETTINGS)
    assert collect(done, tmp_path, figures, settings) == 6 + 4
    held = rows.read(tmp_path / "imp-tiny.json")
    assert (held["cells"], len(held["rows"]), len(held["sources"])) == (6, 6, 1)
    for row in held["rows"]:
        stored = open_store(done / "jobs" / f"{row['job'].removeprefix('job:')}.zarr")
        assert row["accuracy"] == pytest.approx(stored.small("eval_accuracy")[-1], rel=1e-5)
        assert row["seed"] == row["at"]["replicate"] == stored.attributes["seeds"]["init"]
        assert row["density"] == pytest.approx(0.8 ** row["at"]["level"], abs=0.02)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    nowhere = tmp_path.parent / "empty"
    # No job folder is left, and nothing is missing: no worker starts.
    assert run(folder=nowhere, results=tmp_path, figures=figures, overrides=settings) == 0
    assert not nowhere.exists()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_rows_that_another_figure_has_are_taken_from_there(figures, done, tmp_path):
    settings = tuple(SETTINGS)
    imp, perturb = figures
    collect(done, tmp_path, [imp], settings)
    plan = perturb.plan(settings)
    store = Store(tmp_path)
    store.describe(perturb, plan)
    known = store.copy_known(perturb, plan)
    taken = rows.read(store.path(perturb))["rows"]
    assert {row["at"]["perturbation"] for row in taken} == {"none"}
    assert {row["job"] for row in taken} == known
    left = what_is_left(plan, known)
    assert {cell.at["perturbation"] for cell in left.cells} == {"noise:1.0"}
    # They need the series: its dense run and level 1, from which the mask of level 2 is pruned.
    assert len(left.jobs) == 2 * (1 + 1 + 1)
    assert set(left.jobs) < set(plan.jobs)


def test_rows_of_settings_that_were_changed_leave(figures, done, tmp_path):
    settings = tuple(SETTINGS)
    figure = figures[0]
    collect(done, tmp_path, [figure], settings)
    store = Store(tmp_path)
    store.describe(figure, figure.plan((*settings, "optim.lr=0.05")))
    assert rows.read(store.path(figure))["rows"] == []


def test_a_row_that_is_lost_comes_back_as_it_was(figures, done, tmp_path):
    settings = tuple(SETTINGS)
    collect(done, tmp_path, figures[:1], settings)
    path = tmp_path / "imp-tiny.json"
    whole = path.read_bytes()
    held = rows.read(path)
    del held["rows"][3]
    rows.write(path, held)
    place = tmp_path / "jobs"
    shutil.copytree(done, place)
    assert run(folder=place, results=tmp_path, figures=figures[:1], overrides=settings) == 0
    assert path.read_bytes() == whole


def test_rows_name_the_commit_whose_code_computed_them(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
        return subprocess.check_output([*command, *arguments], text=True)

    for place in ("ckptlab", "docs"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.txt").write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "a")
    commit = git("rev-parse", "HEAD")[:10]
    monkeypatch.setattr("reproduction.run.ROOT", tmp_path)
    # Rows that were written are no change of the code.
    (tmp_path / "docs" / "a.txt").write_text("2")
    assert source()["commit"] == commit
    (tmp_path / "ckptlab" / "a.txt").write_text("2")
    assert source()["commit"] == f"{commit}-dirty"


def test_curves_keep_values_and_means_around_some_steps():
    steps = np.arange(0, 4001)
    curve = rows._curve(steps, steps.astype(float))
    assert {0, 1, 10, 200, 391, 500, 2000, 4000} <= set(curve["step"])
    assert len(curve["step"]) <= rows.POINTS + len(rows.MARKS)
    assert curve["value"] == curve["step"]
    # Of a straight line the mean around a step is its value there, but at the last.
    assert curve["mean"][:-1] == curve["step"][:-1]
    assert curve["mean"][-1] == 3900
    assert rows.smooth(curve) == curve["mean"]


@pytest.mark.parametrize("count", [3, 60])
def test_curves_that_skip_steps_have_values_alone(count):
    """An evaluation at 3,910 is none of what 4,000 has, though 2 % apart."""
    steps = np.r_[0:count, 3910, 4000]
    measured = np.where(steps == 1, np.nan, steps)
    curve = rows._curve(steps, measured)
    assert curve.keys() == {"step", "value"}
    assert curve["value"] == curve["step"] == rows.smooth(curve)
    assert 1 not in curve["step"]
    assert curve["step"][-1] == 4000


@pytest.fixture
def images(tmp_path, monkeypatch) -> None:
    """An image folder, since a plan asks for the shape of images."""
    for half in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / half / name).mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(tmp_path / half / name / "0.png")
    monkeypatch.setenv(VARIABLE, str(tmp_path))


def test_every_committed_row_is_a_cell_of_its_study(images):
    names = {figure.name for figure in (*FIGURES, *PILOTS)}
    assert {claim.figure for _, claims in CLAIMS for claim in claims} <= names
    assert {p.stem for p in RESULTS.glob("*-*.json")} <= names
    jobs = set()
    for figure in (*FIGURES, *PILOTS):
        plan = figure.plan()
        jobs |= set(plan.jobs) if figure in FIGURES else set()
        held = rows.read(RESULTS / f"{figure.name}.json")
        cells = {(c.run, json.dumps(dict(c.at), sort_keys=True)) for c in plan.cells}
        assert {rows.cell(row) for row in held["rows"]} <= cells
        assert all(held["sources"][row["source"]]["commit"] for row in held["rows"])
    assert len(jobs) < 330
