"""How fast is a look at a run? One snapshot, and one weight's history, against files."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import interleave, ratio_table
from benchmarks.runs import RESNET20, Options, walk
from benchmarks.targets import Target
from ckptlab.run import Run, open_run

FILES = 1000


def run(options: Options) -> dict[str, Any]:
    """Read snapshots of runs of several lengths; read a history from a run and from files."""
    lengths, reads, rounds = ((32, 64), 3, 1) if options.quick else ((250, 1000, 4000), 40, 5)
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        snapshots = _snapshots(folder, lengths, reads, rounds)
        longest = open_run(str(folder / f"{lengths[-1]}.zarr"))
        files = _files(longest, folder, min(FILES, lengths[-1]))
        history = _history(longest, files, rounds)
    finally:
        shutil.rmtree(folder)
    title = f"One weight's history over {len(files)} steps"
    seconds = snapshots[f"ckptlab, {lengths[-1]} steps"]["seconds"] / reads
    flat = snapshots[f"ckptlab, {lengths[-1]} steps"]["ratio"]
    first, last = lengths[0], lengths[-1]
    question = f"state_dict(step) of ResNet-20 from {last} steps"
    note = (
        f"Each reads {reads} snapshots in random order, from a warm cache, digest checked. "
        f"{1000 * seconds:.1f} ms a snapshot from {last} steps. Ratio: to the run of {first}."
    )
    return {
        "question": "How fast is a look at a run?",
        "tables": [
            ratio_table(f"`state_dict(step)`, {RESNET20:,} weights", snapshots, note),
            ratio_table(title, history, "Ours reads one chunk a block; files are read whole."),
        ],
        "targets": [
            Target(question, "<= 25 ms", f"{1000 * seconds:.1f} ms", "dense, warm cache"),
            Target(f"the same against {first} steps", "constant", f"{flat:.2f}", "dense"),
        ],
    }


def _snapshots(folder: Path, lengths: tuple[int, ...], reads: int, rounds: int) -> dict[str, Any]:
    variants: dict[str, Callable[[], float]] = {}
    for steps in lengths:
        walk(folder / f"{steps}.zarr", steps)
        run = open_run(str(folder / f"{steps}.zarr"))
        order = random.Random(0).choices([int(s) for s in run.steps], k=reads)
        variants[f"ckptlab, {steps} steps"] = _reading(run, order)
    files = _files(run, folder, reads)
    variants["torch.load of a file"] = lambda: _timed(lambda: [_load(file) for file in files])
    for variant in variants.values():
        variant()
    return interleave(variants, rounds, f"ckptlab, {lengths[0]} steps")


def _reading(run: Run, order: list[int]) -> Callable[[], float]:
    return lambda: _timed(lambda: [run.state_dict(step) for step in order])


def _files(run: Run, folder: Path, count: int) -> list[Path]:
    folder = folder / f"files-{count}"
    folder.mkdir()
    files = []
    for step in run.steps[:count]:
        files.append(folder / f"{step:06d}.pt")
        torch.save(run.state_dict(int(step)), files[-1])
    return files


def _history(run: Run, files: list[Path], rounds: int) -> dict[str, Any]:
    weight = RESNET20 // 2

    def ours() -> None:
        found = run.dataset.weights.isel(param=weight, step=slice(len(files))).values
        check.append(found)

    def theirs() -> None:
        check.append(np.array([_load(file)["weight"][0, weight].item() for file in files]))

    check: list[np.ndarray] = []
    variants = {
        "ckptlab, through xarray": lambda: _timed(ours),
        "torch.load of every file": lambda: _timed(theirs),
    }
    rows = interleave(variants, rounds, "ckptlab, through xarray")
    if not all(np.array_equal(check[0], other) for other in check):
        raise RuntimeError("the histories differ")
    return rows


def _load(file: Path) -> Any:
    return torch.load(file, weights_only=True)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
