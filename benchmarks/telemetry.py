"""How fast is one pass over a run? Telemetry against decoding alone, and against a plain loop.

The plain loop is what one would write over a folder of `torch.save` files: it loads each snapshot
and computes the same eight metrics per tensor with torch.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from distributed import LocalCluster

from benchmarks.measure import interleave, ratio_table
from benchmarks.memory import apart
from benchmarks.runs import RESNET20, Options, walk
from benchmarks.targets import Target
from ckptlab.run import Run, open_run
from ckptlab.store.read.reader import StoredArray

THREADS = 2

OURS, DECODE, PLAIN = "telemetry by tensor", "decode only", "plain loop over torch.save files"


def run(options: Options) -> dict[str, Any]:
    """Train ResNet-20 at the paper's settings, then measure its run in several ways."""
    steps, rounds = (96, 2) if options.quick else (4000, 7)
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        recorded = open_run(options.run(folder, steps))
        files = _save_files(recorded, folder / "files", steps)
        one_pass = _against_decoding(recorded, files, rounds)
        workers = _workers(recorded, steps, rounds)
        memory = _memory(folder, (64, 128) if options.quick else (2000, 4000, 8000))
    finally:
        shutil.rmtree(folder)
    raw = 4 * recorded.layout.parameters * steps
    speeds = [f"{name}: {raw / row['seconds'] / 1e9:.2f} GB/s" for name, row in one_pass.items()]
    note = f"{THREADS} threads, {rounds} rounds; raw float32 read: {', '.join(speeds)}."
    settings = f"dense, {THREADS} threads, by tensor, eight metrics"
    peaks = [float(row[2]) for row in memory["rows"]]
    return {
        "question": f"How fast is telemetry of a run? ResNet-20 on {options.what}, {steps} steps",
        "tables": [
            ratio_table("Time relative to telemetry", one_pass, note),
            ratio_table("Worker processes of a dask cluster", workers),
            memory,
        ],
        "targets": [
            Target(
                "telemetry against decoding alone (throughput)",
                ">= 0.7",
                f"{one_pass[DECODE]['ratio']:.2f}",
                settings,
            ),
            Target(
                "telemetry against a plain loop over torch.save files",
                ">= 8",
                f"{one_pass[PLAIN]['ratio']:.1f}",
                settings,
            ),
            Target(
                "two dask worker processes against one",
                ">= 1.6",
                f"{workers['1 worker process']['ratio']:.2f}",
                "dense, a thread each",
            ),
            Target(
                f"peak memory of telemetry, {memory['rows'][-2][0]} steps",
                "< 1 GiB",
                f"{peaks[-2]:.2f} GiB; {peaks[-1]:.2f} for twice the steps",
                "the process, imports included",
            ),
        ],
    }


def _against_decoding(recorded: Run, files: list[Path], rounds: int) -> dict[str, Any]:
    steps = len(files)
    variants = {
        OURS: lambda: _timed(_telemetry, recorded, steps),
        DECODE: lambda: _timed(_decode, recorded, steps),
        PLAIN: lambda: _timed(_plain_loop, files),
    }
    for measure in variants.values():
        measure()  # compiles, and fills the page cache for all alike
    torch.set_num_threads(THREADS)
    return interleave(variants, rounds, OURS, fewer={PLAIN: 3})


def _telemetry(recorded: Run, steps: int, scheduler: str | None = None) -> None:
    span = f"0:{steps}"
    recorded.analyze("telemetry", by="tensor", kinds="all", steps=span, scheduler=scheduler)


def _decode(recorded: Run, steps: int) -> None:
    array = recorded.stored.weights
    rows, columns = array.grid.shard_grid[0], -(-steps // array.shard[1])
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda j: [_decode_shard(array, i, j) for i in range(rows)], range(columns)))


def _decode_shard(array: StoredArray, i: int, j: int) -> None:
    shard = array.read_shard(i, j)
    buffer = np.empty(array.chunk, np.float32)
    for c in range(shard.chunk_count):
        shard.decode(c, buffer)


def _save_files(recorded: Run, folder: Path, count: int) -> list[Path]:
    folder.mkdir()
    files = []
    layout = recorded.layout
    for step in recorded.steps[:count]:
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


def _workers(recorded: Run, steps: int, rounds: int) -> dict[str, Any]:
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(n_workers=1, **options) as one, LocalCluster(n_workers=2, **options) as two:
        variants = {
            "2 worker processes": lambda: _timed(
                _telemetry, recorded, steps, two.scheduler_address
            ),
            "1 worker process": lambda: _timed(_telemetry, recorded, steps, one.scheduler_address),
        }
        for measure in variants.values():
            measure()
        return interleave(variants, rounds, "2 worker processes")


def _memory(folder: Path, lengths: tuple[int, ...]) -> dict[str, Any]:
    """Measure the peak memory of a process of its own, with runs of several lengths."""
    rows = []
    for steps in lengths:
        path = folder / f"walk-{steps}.zarr"
        walk(path, steps)
        peak = float(apart("benchmarks.memory", "telemetry", str(path)).split()[1])
        rows.append([str(steps), f"{4 * RESNET20 * steps / 2**30:.2f}", f"{peak:.2f}"])
        shutil.rmtree(path)
    note = "Peak resident memory of `telemetry`, imports included; a walk of ResNet-20's size."
    columns = ["steps", "raw GiB", "peak GiB"]
    return {"title": "Memory", "columns": columns, "rows": rows, "note": note}


def _timed(function: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began
