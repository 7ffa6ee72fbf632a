"""What does observing every step cost, and what does reading the sums take."""

from __future__ import annotations

import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

import ckptlab
from benchmarks.measure import interleave, ratio_table
from benchmarks.runs import Options
from benchmarks.targets import Target
from ckptlab.record.recorder import Recorder
from ckptlab.train.assemble import Training, build
from ckptlab.train.config import load_config

OFF, OBSERVED = "step 0 recorded", "and every step observed"
OBSERVED_STEPS = 16_000


def run(options: Options) -> dict[str, Any]:
    """Train in turn with and without observing, then read a long observed run."""
    steps, rounds = (7, 1) if options.quick else (95, 7)
    settings = [*options.pictures, "model.name=resnet20", "data.flip=true", "data.crop=4"]
    config = load_config(overrides=[*settings, "eval.steps=none", "train.steps=1000000"])
    training = build(config)
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        place = partial(_segment, training, folder, steps)
        variants = {
            OFF: partial(place, None),
            OBSERVED: partial(place, "0:"),
        }
        rows = interleave(variants, rounds, OFF)
        title = "ResNet-20, 32x32 images, batch 128"
        note = f"Segments of {steps} updates, opening and closing included."
        count = 200 if options.quick else OBSERVED_STEPS
        seconds = _read(training.model, folder / "long.zarr", count)
    finally:
        shutil.rmtree(folder)
    ratio = f"{rows[OBSERVED]['ratio']:.3f}"
    reading = {
        "title": f"Telemetry of {count:,} observed steps of ResNet-20",
        "columns": ["what", "seconds"],
        "rows": [[what, f"{value:.3f}"] for what, value in seconds.items()],
        "note": "In a process that has imported everything; the first reading, and the best of 5.",
    }
    targets = [
        Target("observing every step of ResNet-20 against not", "<= 1.02", ratio, "CPU, batch 128"),
        Target(
            "telemetry of 16,000 observed steps", "<= 0.1 s", f"{seconds['again']:.2f} s", "warm"
        ),
    ]
    tables = [ratio_table(title, rows, note), reading]
    return {"question": "What does observing cost?", "tables": tables, "targets": targets}


def _segment(training: Training, folder: Path, count: int, observe: str | None) -> float:
    """Time updates; the run is closed, and what it observed committed, before the clock stops."""
    path = folder / "segment.zarr"
    options: dict[str, Any] = {"steps": "0", "observe": observe, "overwrite": True}
    began = time.perf_counter()
    with (
        training.numerics(),
        Recorder(path, training.model, training.optimizer, **options) as recorder,
    ):
        for step in range(count):
            recorder.begin_update()
            result = training.step(step)
            recorder.step(loss=result.loss, accuracy=result.accuracy, lr=0.1, skipped=False)
    return time.perf_counter() - began


def _read(model: torch.nn.Module, path: Path, count: int) -> dict[str, float]:
    """Observe a walk of the weights, and time its telemetry."""
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), Recorder(path, model, steps="0", observe="0:", fsync=False) as recorder:
        for _ in range(count - 1):
            for parameter in parameters:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=1e-4)
            recorder.step(loss=1.0)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        ckptlab.open_run(path).analyze("telemetry").load()
        seconds.append(time.perf_counter() - began)
    return {"first": seconds[0], "again": min(seconds[1:])}
