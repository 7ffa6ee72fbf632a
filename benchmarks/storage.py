"""How small are the weights of a training? Lossless ratio of raw float32 to stored bytes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs.zstd import Zstd

from ckptlab.store.reader import StoredRun, open_store
from ckptlab.train.config import load_config
from ckptlab.train.trainer import train

WINDOWS = ((0, 500), (500, 1000))


def run(*, images: str | None, quick: bool) -> dict[str, Any]:
    """Train ResNet-20 at the paper's settings, and store windows of it in several ways."""
    data = ["data.name=imagefolder", f"data.root={images}"] if images else []
    steps = 40 if quick else WINDOWS[-1][1]
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        path = str(folder / "run.zarr")
        config = load_config(overrides=[*data, f"train.steps={steps}", "eval.steps=none"])
        train(config, path)
        stored = open_store(path)
        rows = [_row(stored, window, folder) for window in WINDOWS if window[0] < steps]
    finally:
        shutil.rmtree(folder)
    what = "images of 32x32 (JPEG)" if images else "digits"
    columns = ["steps", "ckptlab dense", "Zarr default, a step a chunk", "zstd-3 a snapshot"]
    for row in rows:
        print(dict(zip(columns, row, strict=True)))
    table = {"title": f"ResNet-20 on {what}, lr 0.1", "columns": columns, "rows": rows}
    return {"question": "How small are the weights, lossless (raw / stored)?", "tables": [table]}


def _row(stored: StoredRun, window: tuple[int, int], folder: Path) -> list[str]:
    block = stored.weights.shard[1]
    blocks = range(
        window[0] // block, min(-(-window[1] // block), stored.weights.grid.shard_grid[1])
    )
    sizes = stored.file_sizes()
    raw = ours = zstd = 0
    rows = []
    for j in blocks:
        values = stored.weights.read_block(j)
        raw += values.nbytes
        ours += sum(sizes[f"weights/c/{i}/{j}"] for i in range(stored.weights.grid.shard_grid[0]))
        zstd += sum(len(Zstd(level=3).encode(row.copy())) for row in values)
        rows.append(values)
    whole = np.concatenate(rows)
    target = folder / "naive.zarr"
    array = zarr.create_array(target, data=whole, chunks=(1, whole.shape[1]), overwrite=True)
    naive = array.nbytes_stored()
    span = f"{blocks.start * block}-{blocks.start * block + len(whole) - 1}"
    return [span, *(f"{raw / size:.2f}" for size in (ours, naive, zstd))]
