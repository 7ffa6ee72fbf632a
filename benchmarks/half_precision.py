"""How small are series of 16-bit weights? Bytes a weight by codec, beside the two raw ones.

ZipNN takes part where it is installed: ``pip install zipnn``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from numcodecs.zstd import Zstd
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn

from benchmarks.runs import Options
from ckptlab.record.convert.import_checkpoints import import_checkpoints

CODECS = ("dense", "fast", "raw")
KEPT = 32
"""Checkpoints of a series."""

CASES = (
    ("float32, rounded to bfloat16", torch.float32, torch.bfloat16),
    ("float32, rounded to float16", torch.float32, torch.float16),
    ("bfloat16", torch.bfloat16, torch.bfloat16),
)
"""What is trained, in which type, and in which it is saved."""


def network(width: int) -> nn.Module:
    """Build a network for digits."""
    parts = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(width, 10))


def write_series(
    folder: Path, trained: torch.dtype, saved: torch.dtype, every: int, width: int
) -> int:
    """Train on digits, and save a checkpoint every so many updates; return the weights of one."""
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=trained)
    y = torch.tensor(digits.target)
    model = network(width).to(trained)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(every * (KEPT - 1) + 1):
        if step % every == 0:
            tensors = {name: value.to(saved) for name, value in model.state_dict().items()}
            save_file(tensors, folder / f"step_{step}.safetensors")
        batch = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(model(x[batch]).float(), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sum(parameter.numel() for parameter in model.parameters())


def stored_bytes(folder: Path, codec: str) -> int:
    """Import a series, and return the bytes of its weights."""
    with tempfile.TemporaryDirectory() as place:
        import_checkpoints(folder, Path(place) / "run", codec=codec)
        weights = Path(place) / "run" / "weights"
        return sum(file.stat().st_size for file in (weights / "c").rglob("*") if file.is_file())


def zipnn_bytes(folder: Path, dtype: torch.dtype) -> int | None:
    """Return the bytes that ZipNN makes of each file; None if it is not installed."""
    try:
        from zipnn import ZipNN
    except ImportError:
        return None
    name = str(dtype).removeprefix("torch.")
    packer = ZipNN(bytearray_dtype=name, input_format="byte")
    return sum(len(packer.compress(file.read_bytes())) for file in folder.iterdir())


def zstd_bytes(folder: Path) -> int:
    """Return the bytes of each file under zstd."""
    return sum(len(Zstd(level=3).encode(file.read_bytes())) for file in folder.iterdir())


def run(options: Options) -> dict[str, Any]:
    """Store series of two types, of neighbouring and of distant steps."""
    rows = []
    width = 256 if options.quick else 1024
    for case, trained, saved in CASES:
        for every in (1, 16):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / "series"
                folder.mkdir()
                count = KEPT * write_series(folder, trained, saved, every, width)
                packed = zipnn_bytes(folder, saved)
                sizes = [stored_bytes(folder, codec) for codec in CODECS]
                sizes += [packed or 0, zstd_bytes(folder)]
            rows.append([case, every, *(f"{size / count:.2f}" if size else "" for size in sizes)])
            print(rows[-1], flush=True)
    columns = ["trained", "steps apart", *CODECS, "ZipNN, a file", "zstd-3, a file"]
    return {
        "question": "How small are series of 16-bit weights? (bytes a weight; raw is 2)",
        "tables": [
            {
                "title": f"A network on digits, {KEPT} checkpoints, AdamW",
                "columns": columns,
                "rows": rows,
                "note": "`weights` holds them as float32, exactly.",
            }
        ],
    }
