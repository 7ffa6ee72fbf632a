"""What needs no torch works without it; the rest names the extra that brings it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.package import READING

# Everything in one process: what is asked for is that nothing imports these, not how they fail.
WITHOUT = """
import sys, json
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
sys.meta_path.insert(0, Absent())
from ckptlab.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        print(end.code, *arguments, file=sys.stderr)
"""

ABSENT = ("torch", "torchvision", "distributed", "sklearn", "safetensors", "obstore", "curvlinops")


def run_without(commands: list[list[str]], folder: Path) -> subprocess.CompletedProcess[str]:
    import json

    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(absent=ABSENT), json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )


def test_a_run_is_read_measured_and_reported_without_torch(tiny_mlps, tmp_path):
    commands = [[str(tiny_mlps[0]) if w == "RUN" else w for w in c] for c in READING]
    done = run_without(commands, tmp_path)
    ends = [line for line in done.stderr.splitlines() if line[:2] in ("0 ", "1 ", "2 ")]
    assert ends == [" ".join(["0", *command]) for command in commands], done.stderr


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("record -o other.zarr", "train"),
        ("export RUN -o step.pt", "train"),
        ("analyze hessian-spectrum RUN", "train"),
        ("imp RUN --rewind 0", "train"),
        ("info s3://bucket/run.zarr", "cloud"),
    ],
)
def test_a_missing_extra_is_named(tiny_mlps, tmp_path, command, extra):
    words = [str(tiny_mlps[0]) if word == "RUN" else word for word in command.split()]
    done = run_without([words], tmp_path)
    error, end = done.stderr.splitlines()[-2:]
    assert end.startswith("2 ")
    assert error.startswith("Error: ")
    assert f"pip install 'ckptlab[{extra}]'" in error
