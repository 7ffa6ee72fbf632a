"""What does recording a sharded model cost? Beside one process, and torch's own checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.runs import Options

RANKS = 2
MEMORY = 6 * 2**30
SIZES = (("100 M", 24, 2048, 8), ("500 M", 30, 4096, 4))
"""Parameters, layers of width² weights that make as many, their width, and updates."""

VARIANTS = (
    ("training alone, one process", 1, "alone"),
    ("Recorder, one process", 1, "record"),
    (f"training alone, {RANKS} ranks", RANKS, "alone"),
    (f"Recorder, {RANKS} ranks", RANKS, "record"),
    (f"torch.distributed.checkpoint, {RANKS} ranks", RANKS, "dcp"),
)


def run(options: Options) -> dict[str, Any]:
    """Train a stack of linear layers, and store every step in each way."""
    rows: list[list[str]] = []
    sizes = (("4 M", 1, 2048, 4),) if options.quick else SIZES
    sizes = tuple(size for size in sizes if not options.only or options.only in size[0])
    for title, layers, width, steps in sizes:
        for name, ranks, how in VARIANTS:
            print(f"  {title}: {name}", flush=True)
            found = _measure(ranks, how, layers, width, steps)
            print(f"  {found}", flush=True)
            stored = f"{found['bytes'] / 1e9:.2f}" if found["bytes"] else ""
            rows.append([title, name, f"{found['step']:.2f}", f"{found['all']:.1f}", stored])
            rows[-1].append(" / ".join(f"{peak:.2f}" for peak in found["peaks"]))
    table = {
        "title": "Recording a sharded model",
        "columns": ["parameters", "what", "s a step, median", "s in all", "GB", "peak GiB a rank"],
        "rows": rows,
        "note": "SGD of linear layers, every update stored: "
        + "; ".join(f"{steps} of {n} layers, {width} wide" for _, n, width, steps in sizes)
        + ". Codec `fast`, one thread a rank, gloo on loopback, every commit synced; "
        f"{MEMORY >> 30} GiB of buffers for all ranks together.",
    }
    return {"question": "What does recording a sharded model cost?", "tables": [table]}


def _measure(ranks: int, how: str, layers: int, width: int, steps: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    words = [how, str(folder), str(layers), str(width), str(steps)]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    try:
        done = subprocess.run(
            [sys.executable, *launch, "-m", "benchmarks.sharded", *words],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        found["bytes"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        return found
    finally:
        shutil.rmtree(folder)


def _train(how: str, folder: str, layers: int, width: int, steps: int) -> None:
    """Train as one rank, and print what it took."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    import ckptlab
    from benchmarks.memory import peak

    dist.init_process_group("gloo")
    ranks = dist.get_world_size()
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    mesh = init_device_mesh("cpu", (ranks,))
    for _ in range(layers):  # one by one, so that no rank ever holds the whole
        layer = torch.nn.Linear(width, width, bias=False)
        model.append(fully_shard(layer, mesh=mesh) if ranks > 1 else layer)
    if ranks > 1:
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = torch.randn(1, width)
    seconds = []

    def update() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    update()
    dist.barrier()
    began = time.perf_counter()
    if how == "record":
        recorder = ckptlab.Recorder(
            f"{folder}/run.zarr", model, optimizer, steps=f"1:{steps + 1}", codec="fast",
            memory=MEMORY // ranks, sync_seconds=0,
        )  # fmt: skip
        with recorder:
            for _ in range(steps):
                start = time.perf_counter()
                recorder.step(loss=update())
                seconds.append(time.perf_counter() - start)
    for step in range(steps if how != "record" else 0):
        start = time.perf_counter()
        update()
        if how == "dcp":
            from torch.distributed import checkpoint

            checkpoint.save(model.state_dict(), checkpoint_id=f"{folder}/{step}")
        seconds.append(time.perf_counter() - start)
    dist.barrier()
    found = {"step": sorted(seconds)[steps // 2], "all": time.perf_counter() - began}
    peaks: list[Any] = [None] * ranks
    dist.all_gather_object(peaks, peak())
    if dist.get_rank() == 0:
        print(json.dumps({**found, "peaks": peaks}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    _train(*sys.argv[1:3], *map(int, sys.argv[3:]))
