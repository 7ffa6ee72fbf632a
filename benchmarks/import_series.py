"""Import of a series larger than memory: speed against reading alone, peak memory, bytes."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import apart
from benchmarks.runs import Options
from benchmarks.targets import Target

HIDDEN, LAYERS, VOCABULARY, STEPS = 2048, 7, 16384, 8
"""A model of some 350 million parameters: 1.4 GB in float32."""

NOTE = (
    "A walk with the tensors of a decoder. Reading: the files alone; each import before it leaves "
    "other files in the page cache. Cores: seconds of both. Peak: resident memory, imports of "
    "modules included."
)


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
    """Import a series, and print seconds, those of the cores, peak memory in GiB, stored bytes."""
    from benchmarks.memory import peak
    from ckptlab.record.convert.import_checkpoints import import_checkpoints

    began, worked = time.perf_counter(), time.process_time()
    import_checkpoints(folder, output, codec=codec, memory="512MiB", overwrite=True)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    stored = sum(path.stat().st_size for path in Path(output).rglob("*") if path.is_file())
    print(json.dumps([seconds, worked, peak(), stored]))


def read_alone(folder: str) -> None:
    """Read every file, and print seconds."""
    began = time.perf_counter()
    for path in sorted(Path(folder).iterdir()):
        with path.open("rb", buffering=0) as file:
            buffer = bytearray(2**24)
            while file.readinto(buffer):
                pass
    print(time.perf_counter() - began)


COLUMNS = ("type", "codec", "GB", "reading, s", "import, s", "cores, s", "peak GiB", "stored / raw")


def run(options: Options) -> dict[str, Any]:
    """Import series of both types."""
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as place:
        for dtype in ("F32", "BF16"):
            folder = Path(place) / dtype
            folder.mkdir()
            raw = write_series(folder, dtype, 8 if options.quick else 1)
            rows += measured(folder, Path(place) / "run", dtype, raw)
            shutil.rmtree(folder)
    return result(rows)


def measured(folder: Path, output: Path, dtype: str, raw: int) -> list[list[str]]:
    """Import the series in a folder by both codecs, each in a process of its own."""
    module, rows = "benchmarks.import_series", []
    read = float(apart(module, "read_alone", str(folder)))
    for codec in ("dense", "fast"):
        found = apart(module, "import_alone", str(folder), str(output), codec)
        seconds, worked, memory, stored = json.loads(found)
        figures = f"{raw / 1e9:.1f}", f"{read:.1f}", f"{seconds:.1f}", f"{worked:.1f}"
        rows.append([dtype, codec, *figures, f"{memory:.2f}", f"{stored / raw:.2f}"])
        print(rows[-1], flush=True)
    return rows


def result(rows: list[list[str]]) -> dict[str, Any]:
    """Return the table, and what was promised."""
    title = f"{STEPS} checkpoints in safetensors, `--memory 512MiB`"
    most = max(float(row[6]) for row in rows)
    promised = "peak memory of an import, 1.4 GB x 8 steps"
    return {
        "question": "How fast is an import of a series larger than memory?",
        "tables": [{"title": title, "columns": [*COLUMNS], "rows": rows, "note": NOTE}],
        "targets": [Target(promised, "< 1 GiB", f"{most:.2f} GiB", title)],
    }
