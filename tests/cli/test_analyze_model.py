"""Metrics that need a model, on a built-in run, by the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import xarray as xr

from ckptlab.cli import _run
from tests.trained import points, record_own, tanh_network

SMALL = ["--samples", "24", "--batch-size", "24"]

COMMANDS = {
    "hessian-spectrum": (["--steps", "0,12", "--eigenvalues", "3", *SMALL], "sharpness"),
    "gradient-subspace": (["--steps", "0,12", "--eigenvalues", "3", *SMALL], "drift_last"),
    "fisher-trace": (["--steps", "0,12", "--labels", "exact", *SMALL], "fisher_trace"),
    "gradient-magnitude": (["--full", "--steps", "0,12", *SMALL], "gradient_norm"),
    "connectivity": (["--with", "@6", "--alphas", "3", *SMALL], "instability"),
    "ggn-spectrum": (["--steps", "0,12", "--eigenvalues", "3", *SMALL], "eigenvalues"),
    "hessian-trace": (["--steps", "0,12", "--products", "9", *SMALL], "hessian_trace"),
    "hessian-density": (["--steps", "0,12", "--iterations", "9", *SMALL], "density"),
    "representation": (["--steps", "0,12", "--samples", "24", "--layers", "fc*"], "representation"),
    "landscape": (["--grid", "3", *SMALL], "explained_variance"),
    "learning-coefficient": (
        ["--steps", "12", "--chains", "2", "--length", "5", "--step-size", "1e-6", *SMALL],
        "learning_coefficient",
    ),
    "evaluation": (["--steps", "0:13:4", "--correct"], "eval_accuracy"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_table_figure_file_and_json(
    name: str, tiny_mlps: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, shown = COMMANDS[name]
    arguments = ["analyze", name, str(tiny_mlps[0]), *options]
    figure, table = tmp_path / "figure.html", tmp_path / "result.nc"
    assert _run([*arguments, "--plot", str(figure), "-o", str(table)], debug=True) == 0
    assert shown in capsys.readouterr().out
    assert "Plotly.newPlot" in figure.read_text()
    saved = xr.open_dataset(table)
    assert shown in saved
    assert saved.attrs["metric"] == name
    assert _run([*arguments, "--json"], debug=True) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["attrs"]["metric"] == name


def test_several_runs_side_by_side(
    tiny_mlps: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = str(tmp_path / "figure.html")
    pattern = str(tiny_mlps[0].parent / "seed*.zarr")
    for runs in ([str(path) for path in tiny_mlps], [pattern]):
        command = ["analyze", "weight-distance", *runs, "--by", "layer", "--plot", figure]
        assert _run([*command, "--overwrite"], debug=True) == 0
        assert "seed1 fc1" in capsys.readouterr().out
    assert "seed0, fc2" in Path(figure).read_text()


def test_a_run_of_ones_own_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record_own(tmp_path / "own.zarr", tanh_network(), *points())
    assert _run(["analyze", "fisher-trace", str(path)], debug=False) == 2
    assert "run.analyze('fisher-trace', model=model" in capsys.readouterr().err
