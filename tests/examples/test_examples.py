"""The examples run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import ckptlab

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "explore.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    # Stored as it is read: outputs would be megabytes that change with every run.
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    client = NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = [output for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    data = [output.data for output in shown if "data" in output]
    assert any("application/vnd.plotly.v1+json" in part for part in data)
    assert data[-1]["text/plain"].endswith("children.html'")


def test_the_loop_of_one_s_own_learns_and_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "own.zarr"
    done = subprocess.run(
        [sys.executable, EXAMPLES / "own_loop.py", "-o", path, "--steps", "40"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, last = map(float, re.findall(r"([\d.]+) -> ([\d.]+) nats", done.stdout)[0])
    assert last < first
    run = ckptlab.open_run(path)
    assert run.steps.tolist() == list(range(41))
    state = run.state_dict(step=40)
    assert state["head.weight"].data_ptr() == state["embed.weight"].data_ptr()
    assert "of signs changed in blocks.1.mlp.2" in done.stdout
