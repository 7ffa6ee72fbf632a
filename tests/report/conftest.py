"""Runs, pages about them, and a browser, that the tests of reports share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import sync_playwright
from torch import nn

import ckptlab
from ckptlab.report.page import write_page
from ckptlab.report.runs.measure import measure_run
from ckptlab.report.runs.page import runs_page
from tests.analyze.recordings import Made, record
from tests.report.browser import OFFLINE, Opened, chromium, new_tab, visit

HOSTILE = "</script><script>pwned=1</script><img src=x onerror=pwned=2><b>bold"
"""What a name would be that wants to be more than text."""


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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = chromium()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(OFFLINE))
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def tab(browser: Any) -> Iterator[Any]:
    """The tab in which tests open one page after the other: `visit`."""
    with new_tab(browser) as empty:
        yield empty


@pytest.fixture(scope="session")
def drawn_run(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return record(tmp_path_factory.mktemp("drawn") / "drawn.zarr", steps=61, schedule="0:")


@pytest.fixture(scope="session")
def second_run(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path = tmp_path_factory.mktemp("drawn") / "second.zarr"
    return record(path, steps=91, schedule="0:", seed=7)


def report(path: Path, *runs: Path, **options: Any) -> Path:
    """Write a report as the command does."""
    measured = [measure_run(ckptlab.open_run(run), run.stem, **options) for run in runs]
    return Path(write_page(runs_page(measured), str(path)))


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory, drawn_run: Made) -> Path:
    """The page about one run."""
    return report(tmp_path_factory.mktemp("single") / "single.html", drawn_run.path)


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory, drawn_run: Made, second_run: Made) -> Path:
    """The page about two runs, of which the second is longer."""
    path = tmp_path_factory.mktemp("several") / "several.html"
    return report(path, drawn_run.path, second_run.path)


@pytest.fixture(scope="module")
def _single_shown(tab: Any, single: Path) -> Iterator[Opened]:
    with visit(tab, single) as page:
        yield page


@pytest.fixture(scope="module")
def _several_shown(tab: Any, several: Path) -> Iterator[Opened]:
    with visit(tab, several) as page:
        yield page


@pytest.fixture
def single_page(_single_shown: Opened) -> Iterator[Opened]:
    """The page about one run, open on a large light screen; it must not complain."""
    yield from at_rest(_single_shown)


@pytest.fixture
def several_page(_several_shown: Opened) -> Iterator[Opened]:
    """The same of the page about two runs."""
    yield from at_rest(_several_shown)


def at_rest(page: Opened) -> Iterator[Opened]:
    """Set every switch back for the next test, and hear what the page said since it was opened."""
    page.reset()
    yield page
    said = page.console.copy()
    page.console.clear()
    assert said == []


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about a run of which every name and setting is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    model = nn.Sequential()
    for name in (HOSTILE, f"{HOSTILE}2"):
        model.add_module(name.replace(".", ""), nn.Linear(4, 4))
    config = {"model": {"name": HOSTILE}, "data": {"name": HOSTILE}, HOSTILE: {HOSTILE: HOSTILE}}
    path = folder / "<b>run<script>.zarr"
    with ckptlab.Recorder(path, model, config=config, seeds={HOSTILE: 1}) as recorder:
        for step in range(6):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
                    parameter.grad = torch.randn_like(parameter)
            recorder.step(loss=1.0 / (1 + step))
    return report(folder / "hostile.html", path)
