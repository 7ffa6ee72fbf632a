"""Draw one report with parts of its script replaced, to see what each part saves.

The variants are drawn in turn, in a headless Chromium without a GPU, as `benchmarks.report` does.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from playwright.sync_api import sync_playwright

import ckptlab
from benchmarks.measure import quartiles
from benchmarks.report import _walk
from benchmarks.runs import Options
from ckptlab.report import page as pages
from tests.report.browser import OFFLINE, find_chromium, opened

Change = tuple[str, str]

PATH_DATA = """  const [x, y, z] = values;
  return [{ type: "scatter3d", mode: "lines+markers", x, y, z, line: { color: look().line },
    marker: { color: colour, colorscale: scale, size: 3 } }];
"""
PATH_LAYOUT = "  return { height: 420, scene: {}, margin: { l: 0, r: 0, t: 0, b: 0 } };\n"
PROJECTED = "  const project = projection(div.view ?? VIEW);\n  const points"
HIDDEN_AXES = "  const none = { visible: false, fixedrange: true };\n"

VARIANTS: dict[str, tuple[Change, ...]] = {
    "as it is": (),
    "heat maps without downsampling to pixels": (
        ("Math.max(50, Math.round((width - LEFT) / 2))", "1e9"),
    ),
    "path in space by plotly's WebGL": (
        (PROJECTED, PATH_DATA + PROJECTED),
        (HIDDEN_AXES, PATH_LAYOUT + HIDDEN_AXES),
    ),
}


def run(options: Options) -> dict[str, Any]:
    """Report a walk of 4,000 steps and draw every variant of the page."""
    steps, rounds = (200, 1) if options.quick else (4000, 7)
    with tempfile.TemporaryDirectory(prefix="ckptlab-bench-") as folder:
        run = Path(folder) / "walk.zarr"
        _walk(run, steps)
        files = {name: Path(folder) / f"{k}.html" for k, name in enumerate(VARIANTS)}
        for name, file in files.items():
            own = _changed(pages._own_script(), VARIANTS[name])
            with mock.patch.object(pages, "_own_script", return_value=own):
                ckptlab.write_report([run], file)
        seconds = _draw(files, rounds)
    rows = [
        [name, f"{statistics.median(s):.2f}", "{:.2f}-{:.2f}".format(*quartiles(s))]
        for name, s in seconds.items()
    ]
    columns = ["page", "drawn in s", "quartiles"]
    note = f"A walk of {steps:,} steps with ResNet-20's tensors; {rounds} loads of each in turn."
    table = {"title": "Parts of the page's script", "columns": columns, "rows": rows, "note": note}
    return {"question": "What do the parts of a report's script save?", "tables": [table]}


def _changed(script: str, changes: tuple[Change, ...]) -> str:
    for before, after in changes:
        if script.count(before) != 1:
            raise ValueError(f"the script has changed: {before!r}")
        script = script.replace(before, after)
    return script


def _draw(files: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in files}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(OFFLINE))
        for _ in range(rounds + 1):
            for name, file in files.items():
                with opened(browser, file) as shown:
                    drawn = shown.tab.get_attribute("html", "data-drawn")
                seconds[name].append(int(drawn) / 1000)
        browser.close()
    return {name: measured[1:] for name, measured in seconds.items()}  # the first warms up
