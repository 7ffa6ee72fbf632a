"""The report of a long run: how large it is, how long it takes to make, and to draw in a browser.

The run has ResNet-20's tensors and as many steps as the paper's early phase; its weights walk at
random with momentum, so that it is made in a minute. Drawn is what a headless Chromium has drawn:
every chart of the page, not only those on its first screen.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import sync_playwright

from benchmarks.measure import quartiles
from benchmarks.memory import peak
from benchmarks.runs import Options
from ckptlab.record.recorder import Recorder
from ckptlab.train.assemble import build
from ckptlab.train.config import load_config
from tests.report.browser import OFFLINE, find_chromium, opened

LAYOUT = (
    "model.name=resnet20",
    "data.name=synthetic",
    "data.image_size=32",
    "data.channels=3",
    "data.samples=100",
)


def run(options: Options) -> dict[str, Any]:
    """Record a walk of 4,000 steps, report it, and draw the page."""
    lengths, rounds = ((200,), 1) if options.quick else ((500, 4000), 7)
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        rows = [_case(folder, steps, rounds) for steps in lengths]
    finally:
        shutil.rmtree(folder)
    columns = ["steps", "raw GB", "made in s", "peak GiB", "page MB", "drawn in s", "quartiles"]
    note = (
        f"A walk with ResNet-20's tensors. Made: the command `ckptlab report`, imports included, "
        f"and its peak resident memory. Drawn: {rounds} loads, from the start of navigation until "
        "the last chart is there, at 1280 x 900."
    )
    table = {"title": "Report of one run", "columns": columns, "rows": rows, "note": note}
    return {"question": "How large is a report, and how fast?", "tables": [table]}


def _case(folder: Path, steps: int, rounds: int) -> list[str]:
    path, page = folder / f"walk-{steps}.zarr", folder / f"walk-{steps}.html"
    parameters = _walk(path, steps)
    print(f"recorded {steps} steps", flush=True)
    code = "import sys; from benchmarks.report import made; print(made(*sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, peak = done.stdout.splitlines()[-1].split()
    shutil.rmtree(path)
    drawn = _drawn(page, rounds)
    low, high = quartiles(drawn)
    row = [
        str(steps),
        f"{4e-9 * parameters * (steps + 1):.2f}",
        seconds,
        peak,
        f"{page.stat().st_size / 1e6:.1f}",
        f"{statistics.median(drawn):.2f}",
        f"{low:.2f}-{high:.2f}",
    ]
    print("  ".join(row), flush=True)
    return row


def made(path: str, page: str) -> str:
    """Write the report in this process; return the seconds it took, and its peak memory in GiB."""
    from ckptlab.cli import cli

    began = time.perf_counter()
    cli.main(["report", path, "-o", page], standalone_mode=False)
    seconds = time.perf_counter() - began
    return f"{seconds:.1f} {peak():.2f}"


def _drawn(page: Path, rounds: int) -> list[float]:
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(OFFLINE))
        for _ in range(rounds + 1):
            with opened(browser, page) as shown:
                seconds.append(int(shown.tab.get_attribute("html", "data-drawn")) / 1000)
        browser.close()
    return seconds[1:]  # the first starts the browser up


def _walk(path: Path, steps: int) -> int:
    """Record a path that compresses about as weights under momentum do; return its width."""
    training = build(load_config(overrides=LAYOUT))
    parameters = list(training.model.parameters())
    generator = torch.Generator().manual_seed(0)
    size = sum(p.numel() for p in parameters)
    velocity = torch.zeros(size)
    with (
        torch.no_grad(),
        Recorder(path, training.model, training.optimizer, codec="dense", fsync=False) as recorder,
    ):
        for step in range(steps):
            noise = torch.randn(size, generator=generator)
            velocity.mul_(0.9).add_(noise, alpha=1e-3 / (1 + step) ** 0.5)
            for p, move, g in zip(
                parameters,
                velocity.split([p.numel() for p in parameters]),
                noise.split([p.numel() for p in parameters]),
                strict=True,
            ):
                p.add_(move.view_as(p))
                p.grad = g.view_as(p)
            recorder.step(loss=2.3 / (1 + step) ** 0.3, accuracy=1 - 0.9 / (1 + step) ** 0.3)
            if step % 100 == 99:
                recorder.evaluate(loss=2.3 / (1 + step) ** 0.3, accuracy=0.5)
    return size
