"""A small recorded run, made once through the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import SMALL, ckptlab


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "small.zarr"
    done = ckptlab(
        "record", "-o", path, *SMALL, "-S", "train.steps=40", "--arrays", "weights,gradients"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(path)
    return path
