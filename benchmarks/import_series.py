"""Import of a series larger than memory: speed against reading alone, peak memory, bytes."""

from __future__ import annotations

import json
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import apart
from benchmarks.runs import Options

HIDDEN, LAYERS, VOCABULARY, STEPS = 2048, 7, 16384, 8
"""A model of some 350 million parameters: 1.4 GB in float32."""


def shapes(scale: int = 1) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a decoder, by name."""
    width, found = HIDDEN // scale, {"wte.weight": (VOCABULARY // scale, HIDDEN // scale)}
    for layer in range(LAYERS):
        found[f"h.{layer}.attn.qkv.weight"] = (3 * width, width)
        found[f"h.{layer}.attn.out.weight"] = (width, width)
        found[f"h.{layer}.mlp.up.weight"] = (4 * width, width)
        found[f"h.{layer}.mlp.down.weight"] = (width, 4 * width)
        found[f"h.{layer}.norm.weight"] = (width,)
    return found


def write_series(folder: Path, dtype: str, scale: int = 1, steps: int = STEPS) -> int:
    """Write checkpoints of a walk, one tensor in memory at a time; return their bytes."""
    item = {"F32": 4, "BF16": 2}[dtype]
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes(scale).items():
        size = int(np.prod(shape)) * item
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    files = [(folder / f"step_{step}.safetensors").open("wb") for step in range(steps)]
    for file in files:
        file.write(struct.pack("<Q", len(text)) + text)
    for index, shape in enumerate(shapes(scale).values()):
        rng = np.random.default_rng(index)
        start = 0.02 * rng.standard_normal(shape, np.float32)
        drift = 1e-4 * np.roll(start, 7919)
        for step, file in enumerate(files):
            # Most of a step leads on, as momentum has it; the rest is another each time.
            values = start + np.float32(step) * drift + 1e-3 * np.roll(start, 104729 * (step + 1))
            if dtype == "BF16":
                bits = values.view(np.uint32)
                # Rounded as torch does: to the nearest, ties to even.
                file.write(((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes())
            else:
                file.write(values.tobytes())
    for file in files:
        file.close()
    return end * steps


def import_alone(folder: str, output: str, codec: str) -> None:
    """Import a series, and print seconds, peak memory in GiB and stored bytes."""
    from benchmarks.memory import peak
    from ckptlab.record.convert.import_checkpoints import import_checkpoints

    began = time.perf_counter()
    import_checkpoints(folder, output, codec=codec, memory="512MiB", overwrite=True)
    seconds = time.perf_counter() - began
    stored = sum(path.stat().st_size for path in Path(output).rglob("*") if path.is_file())
    print(json.dumps([seconds, peak(), stored]))


def read_alone(folder: str) -> None:
    """Read every file, and print seconds."""
    began = time.perf_counter()
    for path in sorted(Path(folder).iterdir()):
        with path.open("rb", buffering=0) as file:
            buffer = bytearray(2**24)
            while file.readinto(buffer):
                pass
    print(time.perf_counter() - began)


def zipnn_alone(folder: str) -> float | None:
    """Return the bytes that ZipNN stores of a series of bfloat16; None if it is not installed."""
    try:
        from zipnn import ZipNN
    except ImportError:
        return None
    packer = ZipNN(bytearray_dtype="bfloat16", input_format="byte")
    return float(sum(len(packer.compress(p.read_bytes())) for p in Path(folder).iterdir()))


def run(options: Options) -> dict[str, Any]:
    """Measure both types and codecs."""
    scale = 8 if options.quick else 1
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for dtype in ("F32", "BF16"):
            folder = Path(place) / dtype
            folder.mkdir()
            raw = write_series(folder, dtype, scale)
            read = float(apart("benchmarks.import_series", "read_alone", str(folder)))
            packed = zipnn_alone(str(folder)) if dtype == "BF16" and options.quick else None
            for codec in ("dense", "fast"):
                output = str(Path(place) / "run")
                found = apart(
                    "benchmarks.import_series", "import_alone", str(folder), output, codec
                )
                seconds, memory, stored = json.loads(found)
                rows.append(
                    {
                        "dtype": dtype,
                        "codec": codec,
                        "gigabytes": raw / 1e9,
                        "seconds": seconds,
                        "reading alone": read,
                        "peak GiB": memory,
                        "stored of raw": stored / raw,
                        "ZipNN of raw": packed and packed / raw,
                    }
                )
                print(rows[-1], flush=True)
            for path in folder.iterdir():
                path.unlink()
    return {"rows": rows}


if __name__ == "__main__":
    run(Options(images=None, recorded=None, quick="--quick" in sys.argv, only=""))
