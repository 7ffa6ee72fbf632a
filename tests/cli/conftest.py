"""A small recorded run, made once through the command line; and the command line, in process."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from ckptlab.cli import main
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


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Call the command line in this process; return exit code, stdout and stderr."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return int(stopped.value.code or 0), *capfd.readouterr()

    return run
