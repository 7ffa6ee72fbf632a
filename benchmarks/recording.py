"""What does recording every step cost? Wall time of segments of training, with over without.

The cost comes in bursts when a block is compressed, which the median step hides; so whole segments
are timed, and a segment ends when everything it recorded is committed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from benchmarks.measure import interleave, ratio_table
from ckptlab.record.recorder import Recorder
from ckptlab.train.config import load_config
from ckptlab.train.training import Training, build


def run(*, images: str | None, quick: bool) -> dict[str, Any]:
    """Measure ResNet-20 on 32x32 images, and on digits."""
    data = (
        ["data.name=imagefolder", f"data.root={images}"]
        if images
        else ["data.name=synthetic", "data.image_size=32", "data.channels=3", "data.samples=5000"]
    )
    # One step less than whole blocks: entering records step 0 as well.
    cases = {
        f"ResNet-20, 32x32 {'images' if images else 'synthetic'}, batch 128": (data, 127, 3),
        "ResNet-20, digits 8x8, batch 128": ([], 255, 3),
    }
    tables = []
    for title, (overrides, length, often) in cases.items():
        print(title, flush=True)
        steps, rounds = (8, 1) if quick else (length, often)
        rows = _case(overrides, steps, rounds)
        note = f"Segments of {steps} steps, {rounds} rounds; dense, fp32, deterministic, fsync."
        tables.append(ratio_table(title, rows, note))
    return {"question": "What does recording every step cost?", "tables": tables}


def _case(overrides: list[str], steps: int, rounds: int) -> dict[str, Any]:
    config = load_config(overrides=[*overrides, "train.steps=1000000", "eval.steps=none"])
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        variants = {
            name: make(config, folder / name, steps)
            for name, make in {
                "off": _off,
                "ckptlab": _ckptlab,
                "torch.save a step": _torch_save,
                "naive Zarr": _naive_zarr,
            }.items()
        }
        return interleave(variants, rounds, "off")
    finally:
        shutil.rmtree(folder)


class Segments:
    """A training that goes on from segment to segment."""

    def __init__(self, config: Any) -> None:
        self.training: Training = build(config)
        self.done = 0
        self.train(8, lambda: None)  # sets up what the first steps set up

    def train(self, steps: int, after: Callable[[], None]) -> None:
        """Do so many updates, and something after each."""
        with self.training.numerics():
            for _ in range(steps):
                self.training.step(self.done)
                self.done += 1
                after()


def _off(config: Any, folder: Path, steps: int) -> Callable[[], float]:
    del folder
    segments = Segments(config)
    return lambda: _timed(lambda: segments.train(steps, lambda: None))


def _ckptlab(config: Any, folder: Path, steps: int) -> Callable[[], float]:
    segments = Segments(config)

    def segment() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        training = segments.training
        with Recorder(folder, training.model, training.optimizer) as recorder:
            # Entering makes the store, once a run; leaving commits what is left, and counts.
            began = time.perf_counter()
            segments.train(steps, recorder.step)
        return time.perf_counter() - began

    return segment


def _torch_save(config: Any, folder: Path, steps: int) -> Callable[[], float]:
    segments = Segments(config)

    def segment() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        model = segments.training.model
        save = lambda: torch.save(model.state_dict(), folder / f"{segments.done}.pt")  # noqa: E731
        return _timed(lambda: segments.train(steps, save))

    return segment


def _naive_zarr(config: Any, folder: Path, steps: int) -> Callable[[], float]:
    segments = Segments(config)

    def segment() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        model, first = segments.training.model, segments.done
        size = sum(p.numel() for p in model.parameters())
        shape, chunks = (steps, size), (1, size)
        array = zarr.create_array(folder, shape=shape, chunks=chunks, dtype="float32")

        def save() -> None:
            row = torch.nn.utils.parameters_to_vector(model.parameters())
            array[segments.done - first - 1] = np.asarray(row.detach())

        return _timed(lambda: segments.train(steps, save))

    return segment


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
