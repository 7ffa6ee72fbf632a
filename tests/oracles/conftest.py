"""The matrix of runs that oracles are compared on: small, one thread, digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from ckptlab.cli import _run
from tests.oracles.matrix import RUNS
from tests.oracles.plain import PlainRun, digits


def record(path: Path, settings: list[str], *flags: str) -> None:
    common = ["train.threads=1", "train.steps=12", "record.fsync=false", "eval.steps=0:25:4"]
    words = ["record", "-o", str(path), *flags]
    for setting in [*common, *settings]:
        words += ["-S", setting]
    assert _run(words, debug=True) == 0


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Record a run of the matrix when it is first asked for."""
    folder = tmp_path_factory.mktemp("matrix")

    def run(name: str) -> Path:
        path = folder / f"{name}.zarr"
        if path.exists():
            return path
        torch.set_num_threads(1)
        row = RUNS[name]
        flags: list[str] = []
        if row.parent is not None:
            parent = run(row.parent[0])
            flags += ["--from", f"{parent}@{row.parent[1]}"]
        if row.masked:
            size = zarr.open_group(str(parent), mode="r")["weights"].shape[0]
            mask = folder / f"{name}.npy"
            keep = np.random.default_rng(4).random(size) < 0.5
            np.save(mask, keep | ~PlainRun(parent).matrices)
            flags += ["--mask", str(mask), "--fresh-optimizer"]
        record(path, list(row.settings), *flags)
        return path

    return run


@pytest.fixture(scope="session")
def data() -> dict[str, np.ndarray]:
    return digits()
