"""How fast is one pass over a run? Telemetry against decoding alone, and against a plain loop.

The plain loop is what one would write over a folder of `torch.save` files: it loads each snapshot
and computes the same eight metrics per tensor with torch.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distributed import LocalCluster

from benchmarks.measure import interleave, ratio_table
from ckptlab.record.recorder import Recorder
from ckptlab.run import Run, open_run
from ckptlab.store.reader import StoredArray
from ckptlab.train.config import load_config
from ckptlab.train.trainer import train

THREADS = 2


def run(*, images: str | None, quick: bool) -> dict[str, Any]:
    """Train ResNet-20 at the paper's settings, then measure its run in several ways."""
    data = ["data.name=imagefolder", f"data.root={images}"] if images else []
    steps = 96 if quick else 2048
    rounds = 2 if quick else 7
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        path = str(folder / "run.zarr")
        train(load_config(overrides=[*data, f"train.steps={steps}", "eval.steps=none"]), path)
        recorded = open_run(path)
        files = _save_files(recorded, folder / "files")
        tables = [_against_decoding(recorded, files, rounds), _workers(recorded, rounds)]
        tables.append(_memory(folder, (64, 128) if quick else (2000, 4000, 8000)))
    finally:
        shutil.rmtree(folder)
    what = "images of 32x32 (JPEG)" if images else "digits"
    question = f"How fast is telemetry of a run? ResNet-20 on {what}, {steps} steps"
    return {"question": question, "tables": tables}


def _against_decoding(recorded: Run, files: list[Path], rounds: int) -> dict[str, Any]:
    variants = {
        "telemetry by tensor": lambda: _timed(_telemetry, recorded),
        "decode only": lambda: _timed(_decode, recorded),
        "plain loop over torch.save files": lambda: _timed(_plain_loop, files),
    }
    for measure in variants.values():
        measure()  # compiles, and fills the page cache for all alike
    torch.set_num_threads(THREADS)
    rows = interleave(variants, rounds, "telemetry by tensor")
    raw = 4 * recorded.layout.parameters * len(recorded.steps)
    speeds = [f"{name}: {raw / row['seconds'] / 1e9:.2f} GB/s" for name, row in rows.items()]
    note = f"{THREADS} threads, {rounds} rounds; raw float32 read: {', '.join(speeds)}."
    return ratio_table("Time relative to telemetry", rows, note)


def _telemetry(recorded: Run, scheduler: str | None = None) -> None:
    recorded.analyze("telemetry", by="tensor", kinds="all", scheduler=scheduler)


def _decode(recorded: Run) -> None:
    array = recorded.stored.weights
    rows, columns = array.grid.shard_grid
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda j: [_decode_shard(array, i, j) for i in range(rows)], range(columns)))


def _decode_shard(array: StoredArray, i: int, j: int) -> None:
    shard = array.read_shard(i, j)
    buffer = np.empty(array.chunk, np.float32)
    for c in range(shard.chunk_count):
        shard.decode(c, buffer)


def _save_files(recorded: Run, folder: Path) -> list[Path]:
    folder.mkdir()
    files = []
    layout = recorded.layout
    for step in recorded.steps:
        vector = torch.from_numpy(recorded.snapshot(int(step)))
        state = {
            t.name: vector[t.offset : t.offset + t.size].reshape(t.shape).clone()
            for t in layout.tensors
        }
        files.append(folder / f"{step:06d}.pt")
        torch.save(state, files[-1])
    return files


def _plain_loop(files: list[Path]) -> list[dict[str, tuple[float, ...]]]:
    init = torch.load(files[0], weights_only=True)
    final = torch.load(files[-1], weights_only=True)
    before = init
    rows = []
    for file in files:
        now = torch.load(file, weights_only=True)
        rows.append(
            {name: _eight(w, init[name], final[name], before[name]) for name, w in now.items()}
        )
        before = now
    return rows


def _eight(
    w: torch.Tensor, init: torch.Tensor, final: torch.Tensor, before: torch.Tensor
) -> tuple[float, ...]:
    change = (w - before).norm()
    return (
        (w - init).norm().item(),
        (w - final).norm().item(),
        change.item(),
        (change / w.norm()).item(),
        w.abs().mean().item(),
        torch.cosine_similarity(w.flatten(), init.flatten(), dim=0).item(),
        (torch.sign(w) * torch.sign(init) < 0).float().mean().item(),
        (torch.sign(w) * torch.sign(before) < 0).float().mean().item(),
    )


def _workers(recorded: Run, rounds: int) -> dict[str, Any]:
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(n_workers=1, **options) as one, LocalCluster(n_workers=2, **options) as two:
        variants = {
            "2 worker processes": lambda: _timed(_telemetry, recorded, two.scheduler_address),
            "1 worker process": lambda: _timed(_telemetry, recorded, one.scheduler_address),
        }
        for measure in variants.values():
            measure()
        rows = interleave(variants, rounds, "2 worker processes")
    return ratio_table("Worker processes of a dask cluster", rows)


def _memory(folder: Path, lengths: tuple[int, ...]) -> dict[str, Any]:
    """Measure the peak memory of a process of its own, with runs of several lengths."""
    rows = []
    for steps in lengths:
        path = folder / f"walk-{steps}.zarr"
        _walk(path, steps)
        code = "import sys; from benchmarks.telemetry import peak; print(peak(sys.argv[1]))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        rows.append([str(steps), f"{4 * 272_474 * steps / 2**30:.2f}", done.stdout.strip()])
        shutil.rmtree(path)
    note = "Peak resident memory of `telemetry`, imports included; a walk of ResNet-20's size."
    columns = ["steps", "raw GiB", "peak GiB"]
    return {"title": "Memory", "columns": columns, "rows": rows, "note": note}


def peak(path: str) -> str:
    """Run telemetry in this process and return its peak resident memory in GiB."""
    open_run(path).analyze("telemetry")
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f}"


def _walk(path: Path, steps: int) -> None:
    """Record a path that compresses about as weights under momentum do."""
    model = torch.nn.Linear(272_474, 1, bias=False)
    generator = torch.Generator().manual_seed(0)
    velocity = torch.zeros_like(model.weight)
    with torch.no_grad(), Recorder(path, model, steps="0:", fsync=False) as recorder:
        for _ in range(steps):
            velocity.mul_(0.9).add_(torch.randn(velocity.shape, generator=generator), alpha=1e-3)
            model.weight.add_(velocity, alpha=0.1)
            recorder.step()


def _timed(function: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began
