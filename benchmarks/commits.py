"""Is this commit slower than another? Whole commands of both, in turn.

Both run on this environment's packages; each reads what it recorded itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import interleave, ratio_table
from benchmarks.runs import Options

HERE = Path(__file__).parent.parent
MLP = ["model.name=mlp", "data.name=synthetic", "data.image_size=28", "data.channels=1"]
OVER = "{run}.over"
"""What a case may write, anew each time."""

CASES: dict[str, tuple[str, ...]] = {
    "step: ResNet-20, digits, one snapshot": (
        *("record", "-o", OVER, "--overwrite", "-S", "train.steps=250"),
        *("-S", "record.steps=0", "-S", "eval.steps=none"),
    ),
    "recording: LeNet-300-100, every step of 6 ms, fast": (
        *("record", "-o", OVER, "--overwrite", "-S", "train.steps=800"),
        *("-S", "train.batch_size=512", "-S", "record.codec=fast", "-S", "eval.steps=none"),
        *(word for setting in MLP for word in ("-S", setting)),
    ),
    "recording: ResNet-20, digits, every step, dense": (
        *("record", "-o", OVER, "--overwrite", "-S", "train.steps=250", "-S", "eval.steps=none"),
    ),
    "telemetry by tensor, 2,001 steps": (
        *("analyze", "telemetry", "{run}", "--by", "tensor", "--kinds", "all", "--json"),
    ),
}


def run(options: Options) -> dict[str, Any]:
    """Check both commits out, and run every case with each."""
    rounds, steps = (1, 100) if options.quick else (5, 2000)
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    base = folder / "base"
    _git("worktree", "add", "--detach", str(base), options.base)
    try:
        sources = {options.base: base, "this commit": HERE}
        for name, source in sources.items():
            settings = ["-S", f"train.steps={steps}", "-S", "eval.steps=none"]
            _ckptlab(source, "record", "-o", str(folder / name / "run.zarr"), *settings)
        tables = []
        for title, words in CASES.items():
            if options.only not in title:
                continue
            variants = {
                name: partial(
                    _ckptlab,
                    source,
                    *(word.format(run=folder / name / "run.zarr") for word in words),
                )
                for name, source in sources.items()
            }
            print(title, flush=True)
            tables.append(ratio_table(title, interleave(variants, rounds, options.base)))
    finally:
        _git("worktree", "remove", "--force", str(base))
        shutil.rmtree(folder)
    note = "Whole processes, start-up included."
    question = f"Is this commit slower than {options.base}?"
    return {"question": question, "tables": [{**table, "note": note} for table in tables]}


def _git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=HERE, check=True, capture_output=True)


def _ckptlab(source: Path, *words: str) -> float:
    command = [sys.executable, "-m", "ckptlab", *words]
    began = time.perf_counter()
    subprocess.run(
        command,
        cwd=source,
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(source)},
    )
    return time.perf_counter() - began
