"""Recorded runs that the tests of analyze share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.analyze.recordings import Made, record

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Several blocks of 8 steps, the last steps 7 apart, two chunks of parameters."""
    return record(tmp_path_factory.mktemp("made") / "made.zarr", memory="4MB")


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Blocks of 32 steps, of which the last is partial; no gradients."""
    path = tmp_path_factory.mktemp("wide") / "wide.zarr"
    return record(path, steps=75, schedule="0:", arrays=("weights",), seed=5)


@pytest.fixture(scope="session")
def marred(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """NaN in two tensors at some steps."""
    nan = {("conv.weight", 0): 1, ("big.weight", 9): 3, ("big.weight", 16): 2}
    path = tmp_path_factory.mktemp("marred") / "marred.zarr"
    return record(path, steps=20, schedule="0:", memory="4MB", arrays=("weights",), nan=nan)


@pytest.fixture(scope="session")
def mask(made: Made) -> np.ndarray:
    """Keeps about a third; no weight of the network's output."""
    keep = np.random.default_rng(9).random(len(made.tensor)) < 0.35
    keep[made.tensor == made.names.index("out.weight")] = False
    return keep


@pytest.fixture
def mask_file(mask: np.ndarray, tmp_path: Path) -> Path:
    """The mask as a file."""
    path = tmp_path / "mask.npy"
    np.save(path, mask)
    return path
