"""Install the wheel and the sdist bare, and use them: ``python -m tests.package dist``.

Without torch, torchvision, distributed and scikit-learn a run can be read, measured, verified and
reported; what needs them says how to install it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

RECORD = ["-S", "model.name=mlp", "-S", "train.steps=20", "-S", "train.threads=1"]

READING = (
    ["info", "RUN"],
    ["verify", "RUN", "--deep"],
    ["analyze", "list"],
    ["analyze", "sign-flips", "RUN", "--by", "layer", "-o", "flips.csv"],
    ["analyze", "telemetry", "RUN", "--plot", "telemetry.html"],
    ["analyze", "subspace", "RUN", "--json"],
    ["analyze", "timeline", "RUN"],
    ["analyze", "trajectories", "RUN"],
    ["analyze", "evaluation", "RUN"],
    ["repack", "RUN", "--codec", "fast", "-o", "fast.zarr"],
    ["report", "RUN", "-o", "report.html"],
)

TRAINING = (["record", "-o", "other.zarr"], ["export", "RUN", "-o", "step.pt"])

# Only what is installed counts, not a checkout that the caller's path names.
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

ABSENT = ("torch", "torchvision", "distributed", "sklearn")


def main(dist: str) -> None:
    """Install each archive in an environment of its own and run the reading commands there."""
    archives = [*Path(dist).glob("*.whl"), *Path(dist).glob("*.tar.gz")]
    assert len(archives) == 2, f"one wheel and one sdist are wanted in {dist}: {archives}"
    with tempfile.TemporaryDirectory() as folder:
        record = [sys.executable, "-m", "ckptlab", "record", "-o", f"{folder}/run.zarr", *RECORD]
        subprocess.run(record, check=True, stdout=subprocess.DEVNULL)
        for archive in archives:
            print(f"{archive.name}: installing it bare, reading a run with it", flush=True)
            check(archive.resolve(), Path(folder) / archive.suffix.strip("."))


def check(archive: Path, place: Path) -> None:
    """Install one archive and use it."""
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", archive], env=ALONE, check=True)
    for module in ABSENT:
        command = [python, "-c", f"import {module}"]
        found = subprocess.run(command, env=ALONE, capture_output=True, check=False)
        assert found.returncode == 1, f"the bare {archive.name} brought {module}"
    for command in READING:
        done = use(place, command)
        assert done.returncode == 0, f"ckptlab {' '.join(command)}: {done.stderr}"
    for command in TRAINING:
        done = use(place, command)
        assert done.returncode == 2, f"ckptlab {' '.join(command)}: {done.stdout} {done.stderr}"
        assert "pip install 'ckptlab[train]'" in done.stderr
        assert "Traceback" not in done.stderr


def use(place: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of the installed ckptlab, away from the checkout."""
    run = str(place.parent / "run.zarr")
    arguments = [run if word == "RUN" else word for word in command]
    return subprocess.run(
        [place / "bin" / "ckptlab", *arguments],
        cwd=place,
        env=ALONE,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


if __name__ == "__main__":
    main(sys.argv[1])
