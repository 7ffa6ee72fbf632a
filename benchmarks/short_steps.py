"""What does the Recorder cost a loop of one's own whose steps take milliseconds."""

from __future__ import annotations

import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import interleave
from benchmarks.runs import Options
from ckptlab.record.recorder import Recorder

OFF = "training alone"
CODECS = ("dense", "fast", "auto")
ROUNDS = 5
SIZES = ((64, 16), (300, 64), (300, 512))
"""Width of two hidden layers, and images of 28x28 a batch: steps of about 1 to 6 ms."""


def run(options: Options) -> dict[str, Any]:
    """Train small networks in turn without and with a recorder of each codec."""
    table_rows = []
    for width, batch in SIZES:
        parameters = sum(p.numel() for p in network(width).parameters())
        alone = _segment(width, batch, 50, None, None) / 50
        count = 63 if options.quick else min(511, max(255, round(2 / alone / 256) * 256 - 1))
        folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
        sizes: dict[str, float] = {}
        try:
            variants = {OFF: partial(_segment, width, batch, count, None, None)}
            for codec in CODECS:
                variants[codec] = partial(_segment, width, batch, count, folder / codec, codec)
            rows = interleave(variants, 1 if options.quick else ROUNDS, OFF)
            for codec in CODECS:
                files = (p for p in (folder / codec).rglob("*") if p.is_file())
                sizes[codec] = sum(p.stat().st_size for p in files) / (count + 1) / parameters
        finally:
            shutil.rmtree(folder)
        table_rows.append(
            [
                f"{width}-{width}, batch {batch}: {parameters:,} weights",
                f"{1000 * rows[OFF]['seconds'] / count:.2f}",
                *(f"{rows[c]['ratio']:.2f} ({sizes[c]:.2f})" for c in CODECS),
            ]
        )
    table = {
        "title": "Every step recorded: time over training alone (bytes a weight)",
        "columns": ["network", "ms a step", *CODECS],
        "rows": table_rows,
        "note": f"Medians of {ROUNDS} interleaved segments, opening and closing included; SGD with "
        "momentum, weights alone, every core trains, fsync. `auto` takes raw where none keeps up.",
    }
    return {"question": "What does the Recorder cost a loop of short steps?", "tables": [table]}


def network(width: int) -> torch.nn.Module:
    """Return two hidden layers over images of 28x28."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(784, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
    )


def _segment(width: int, batch: int, count: int, path: Path | None, codec: str | None) -> float:
    """Time updates; the run is closed before the clock stops."""
    model = network(width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    inputs, targets = torch.randn(16, batch, 784), torch.randint(10, (16, batch))

    def update(step: int) -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(inputs[step % 16]), targets[step % 16])
        loss.backward()
        optimizer.step()
        return loss

    began = time.perf_counter()
    if path is None:
        for step in range(count):
            update(step)
    else:
        with Recorder(path, model, optimizer, codec=codec or "", overwrite=True) as recorder:
            for step in range(count):
                recorder.step(loss=update(step))
    return time.perf_counter() - began
