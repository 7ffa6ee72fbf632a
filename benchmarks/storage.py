"""How small are the weights of a training? Lossless ratio of raw float32 to stored bytes."""

from __future__ import annotations

import io
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from benchmarks.runs import Options
from benchmarks.targets import Target
from ckptlab.store.format.codecs import CODECS
from ckptlab.store.format.shards import encode_shard
from ckptlab.store.read.reader import StoredRun, open_store

WINDOWS = ((0, 512), (512, 1024), (2048, 4000))
COLUMNS = (
    "steps",
    "ckptlab dense",
    "ckptlab fast",
    "Zarr default, a step a chunk",
    "blosc zstd-5, a snapshot",
    "torch.save + zstd-3",
)


def run(options: Options) -> dict[str, Any]:
    """Train ResNet-20 at the paper's settings, and store windows of it in several ways."""
    steps = 64 if options.quick else WINDOWS[-1][1] if options.images else WINDOWS[1][1]
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        stored = open_store(options.run(folder, steps))
        rows = [_row(stored, window, folder) for window in WINDOWS if window[0] < steps]
    finally:
        shutil.rmtree(folder)
    for row in rows:
        print(dict(zip(COLUMNS, row, strict=True)), flush=True)
    cells = [[span, *(f"{ratio:.2f}" for ratio in ratios)] for span, *ratios in rows]
    title = f"ResNet-20 on {options.what}, lr {stored.attributes['config']['optim']['lr']}"
    early, late = rows[0], rows[-1]
    least = min(row[1] / row[3] for row in rows)
    targets = [
        Target(
            f"bytes, raw against stored, steps {early[0]}", ">= 1.65", f"{early[1]:.2f}", "dense"
        ),
        Target(
            f"bytes, raw against stored, steps {late[0]}", "measured", f"{late[1]:.2f}", "dense"
        ),
        Target("bytes, Zarr's default against ours, least", ">= 1.5", f"{least:.2f}", "dense"),
    ]
    return {
        "question": "How small are the weights, lossless (raw / stored)?",
        "tables": [{"title": title, "columns": list(COLUMNS), "rows": cells}],
        "targets": targets,
    }


def _row(stored: StoredRun, window: tuple[int, int], folder: Path) -> list[Any]:
    array = stored.weights
    block = array.shard[1]
    last = min(window[1], len(stored.steps)) // block
    sizes = stored.file_sizes()
    target = folder / "naive.zarr"
    whole = (block * last, array.shape[0])
    naive = zarr.create_array(target, shape=whole, chunks=(1, whole[1]), dtype="f4", overwrite=True)
    blosc = Blosc(cname="zstd", clevel=5, shuffle=Blosc.SHUFFLE)
    sums = dict.fromkeys(("raw", "dense", "fast", "blosc", "saved"), 0)
    shards = range(array.grid.shard_grid[0])
    for j in range(window[0] // block, last):
        values = array.read_block(j)
        sums["raw"] += values.nbytes
        sums["dense"] += sum(sizes[f"weights/c/{i}/{j}"] for i in shards)
        sums["fast"] += sum(len(part) for i in shards for part in _fast(values, stored, i))
        for k, row in enumerate(values):
            naive[block * j + k] = row
            sums["blosc"] += len(blosc.encode(row.copy()))
            sums["saved"] += len(Zstd(level=3).encode(_saved(row)))
    columns = ("dense", "fast", "zarr", "blosc", "saved")
    sums["zarr"] = sum(file.stat().st_size for file in (target / "c").rglob("*") if file.is_file())
    steps = stored.steps
    span = f"{steps[window[0] // block * block]}-{steps[block * last - 1]}"
    return [span, *(sums["raw"] / sums[name] for name in columns)]


def _fast(values: np.ndarray, stored: StoredRun, i: int) -> list[bytes]:
    return encode_shard(values, replace(stored.weights.grid, codec=CODECS["fast"]), i)


def _saved(row: np.ndarray) -> bytes:
    file = io.BytesIO()
    torch.save(torch.from_numpy(row.copy()), file)
    return file.getvalue()
