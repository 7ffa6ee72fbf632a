"""What does surviving a power loss cost? Recording with fsync over recording without.

Two cases: a training that records every step, whose steps hide what the writer thread waits for;
and the writer alone, as fast as blocks can be written, which nothing hides.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import interleave, ratio_table
from benchmarks.recording import Segments
from benchmarks.runs import Options
from ckptlab.record.recorder import Recorder
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Anchor, Block
from ckptlab.store.format.layout import Layout, Tensor
from ckptlab.store.write.writer import StoreWriter
from ckptlab.train.config import load_config

VARIANTS: dict[str, dict[str, Any]] = {
    "--no-fsync": {"fsync": False},
    "fsync, shared while blocks wait (default)": {"fsync": True, "sync_seconds": 10.0},
    "fsync of every commit": {"fsync": True, "sync_seconds": 0.0},
}


def run(options: Options) -> dict[str, Any]:
    """Measure a training and the writer alone; on the disk of the temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        cases = {
            "ResNet-20, digits 8x8, batch 128, every step recorded": _training(
                folder, options.quick
            ),
            "The writer alone: blocks of 32 steps of 272,474 weights": _writer(
                folder, options.quick
            ),
        }
        tables = []
        for title, (variants, rounds, note) in cases.items():
            print(title, flush=True)
            rows = interleave(variants, rounds, "--no-fsync")
            tables.append(ratio_table(title, rows, note))
        return {"question": "What does surviving a power loss cost?", "tables": tables}
    finally:
        shutil.rmtree(folder)


Case = tuple[dict[str, Callable[[], float]], int, str]


def _training(folder: Path, quick: bool) -> Case:
    # One step less than whole blocks: entering records step 0 as well.
    steps, rounds = (8, 1) if quick else (127, 7)
    # On one thread, so that the other core compresses and waits for the disk.
    overrides = ["train.steps=1000000", "train.threads=1", "eval.steps=none"]
    config = load_config(overrides=overrides)
    segments = Segments(config)

    def segment(options: dict[str, Any]) -> float:
        path = folder / "training.zarr"
        shutil.rmtree(path, ignore_errors=True)
        training = segments.training
        with Recorder(
            path, training.model, training.optimizer, codec="dense", **options
        ) as recorder:
            began = time.perf_counter()
            segments.train(steps, recorder.step)
        return time.perf_counter() - began

    variants = {name: _bound(segment, options) for name, options in VARIANTS.items()}
    return (
        variants,
        rounds,
        f"Segments of {steps} steps on one thread, {rounds} rounds; dense, on {_disk(folder)}.",
    )


def _writer(folder: Path, quick: bool) -> Case:
    blocks, rounds = (2, 1) if quick else (16, 7)
    layout = Layout((Tensor(name="all", shape=(272_474,), offset=0),))
    rng = np.random.default_rng(0)
    steps = rng.normal(scale=1e-4, size=(32, layout.parameters)).astype(np.float32)
    weights = np.cumsum(steps, axis=0, dtype=np.float32)

    def segment(options: dict[str, Any]) -> float:
        path = folder / "writer.zarr"
        shutil.rmtree(path, ignore_errors=True)
        storage = open_storage(path, fsync=options["fsync"])
        writer = StoreWriter.create(
            storage,
            layout,
            block=32,
            codec="fast",
            attributes={},
            sync_seconds=options.get("sync_seconds", 0.0),
        )
        began = time.perf_counter()
        for number in range(blocks):
            writer.write_block(_block(weights, 32 * number))
        writer.finish("complete")
        return time.perf_counter() - began

    variants = {name: _bound(segment, options) for name, options in VARIANTS.items()}
    return variants, rounds, f"{blocks} blocks, {rounds} rounds; fast, on {_disk(folder)}."


def _block(weights: np.ndarray, start: int) -> Block:
    numbers = np.arange(start, start + 32)
    anchor = Anchor(step=start + 31, states={"momentum_buffer": weights[0]}, row=b"")
    return Block(start=start, rows={"weights": weights}, series={"step": numbers}, anchor=anchor)


def _bound(
    segment: Callable[[dict[str, Any]], float], options: dict[str, Any]
) -> Callable[[], float]:
    return lambda: segment(options)


def _disk(folder: Path) -> str:
    """Name the file system that is written to."""
    best, kind = "", "an unknown file system"
    mounts = Path("/proc/mounts")
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        _, place, name, *_ = line.split()
        if folder.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, name
    return kind
