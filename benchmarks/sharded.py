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

WIDTH = 2048
LAYERS = {100_000_000: 24, 500_000_000: 120}
"""Layers of WIDTH² weights that make so many parameters."""

STEPS = 8
RANKS = 2
BLOCK_MEMORY = {100_000_000: "6GiB", 500_000_000: "8GiB"}
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
    sizes = {2_000_000: 1} if options.quick else LAYERS
    for parameters, layers in sizes.items():
        title = f"{parameters / 1e6:,.0f} M"
        if options.only and options.only not in title:
            continue
        for name, ranks, how in VARIANTS:
            print(f"  {title}: {name}", flush=True)
            found = _measure(ranks, how, layers, BLOCK_MEMORY.get(parameters, "1GiB"))
            stored = f"{found['bytes'] / 1e9:.2f}" if found["bytes"] else ""
            rows.append([title, name, f"{found['step']:.2f}", f"{found['all']:.1f}", stored])
            rows[-1].append(" / ".join(f"{peak:.2f}" for peak in found["peaks"]))
    table = {
        "title": "Recording a sharded model",
        "columns": ["parameters", "what", "s a step, median", "s in all", "GB", "peak GiB a rank"],
        "rows": rows,
        "note": f"{STEPS} updates of SGD at {WIDTH} wide linear layers under fully_shard, each "
        "stored; codec `fast`, gloo on loopback, every commit synced; all ranks on one machine.",
    }
    return {"question": "What does recording a sharded model cost?", "tables": [table]}


def _measure(ranks: int, how: str, layers: int, memory: str) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    words = [how, str(layers), memory, str(folder)]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    try:
        done = subprocess.run(
            [sys.executable, *launch, "-m", "benchmarks.sharded", *words],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        found["bytes"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        return found
    finally:
        shutil.rmtree(folder)


def _train(how: str, layers: int, memory: str, folder: str) -> None:
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
        layer = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        model.append(fully_shard(layer, mesh=mesh) if ranks > 1 else layer)
    if ranks > 1:
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = torch.randn(1, WIDTH)
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
            f"{folder}/run.zarr", model, optimizer, steps=f"1:{STEPS + 1}", codec="fast",
            memory=memory, sync_seconds=0,
        )  # fmt: skip
        with recorder:
            for _ in range(STEPS):
                start = time.perf_counter()
                recorder.step(loss=update())
                seconds.append(time.perf_counter() - start)
    for step in range(STEPS if how != "record" else 0):
        start = time.perf_counter()
        update()
        if how == "dcp":
            from torch.distributed import checkpoint

            checkpoint.save(model.state_dict(), checkpoint_id=f"{folder}/{step}")
        seconds.append(time.perf_counter() - start)
    dist.barrier()
    found = {"step": sorted(seconds)[STEPS // 2], "all": time.perf_counter() - began}
    peaks: list[Any] = [None] * ranks
    dist.all_gather_object(peaks, peak())
    if dist.get_rank() == 0:
        print(json.dumps({**found, "peaks": peaks}), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    _train(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
