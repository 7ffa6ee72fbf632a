"""Replicates side by side, against numpy on the single results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS
from ckptlab.cli.results import print_result
from ckptlab.errors import LayoutError, StepError, StoreError, UnknownNameError
from ckptlab.report.plotly_figures import figure
from tests.trained import points, record_own, tanh_network


def test_mean_and_std_equal_numpy(tiny_mlps: list[Path]) -> None:
    runs = ckptlab.open_runs(str(tiny_mlps[0].parent / "seed*.zarr"))
    assert runs.names == ["seed0", "seed1"]
    options = {"by": "layer", "steps": "1:"}
    single = [ckptlab.open_run(path).analyze("weight-distance", **options) for path in tiny_mlps]
    both = runs.analyze("weight-distance", **options)
    assert both.dims == ("run", "layer", "step")
    assert both["run"].values.tolist() == ["seed0", "seed1"]
    values = np.stack([result.values for result in single])
    np.testing.assert_array_equal(both.values, values)
    np.testing.assert_allclose(runs.mean("weight-distance", **options), values.mean(0))
    spread = runs.std("weight-distance", **options)
    np.testing.assert_allclose(spread, values.std(0, ddof=1))
    assert spread.attrs["std_ddof"] == 1
    np.testing.assert_allclose(runs.std("weight-distance", ddof=0, **options), values.std(0))
    assert spread.attrs["units"] == "weight"


@pytest.mark.parametrize("name", ["evaluation", "telemetry", "fisher-trace"])
def test_datasets_and_metrics_of_a_model(tiny_mlps: list[Path], name: str) -> None:
    runs = ckptlab.open_runs(tiny_mlps)
    both = runs.analyze(name)
    for path, label in zip(tiny_mlps, runs.names, strict=True):
        one = ckptlab.open_run(path).analyze(name)
        for variable in getattr(one, "data_vars", [None]):
            wanted, found = (one, both) if variable is None else (one[variable], both[variable])
            np.testing.assert_array_equal(found.sel(run=label), wanted)


@pytest.mark.parametrize("name", ["timeline", "subspace", "trajectories"])
def test_every_metric_of_several_runs_is_printed_and_drawn(
    tiny_mlps: list[Path], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"count": 2} if name == "trajectories" else {}
    result = ckptlab.open_runs(tiny_mlps).analyze(name, **options)
    drawn = figure(result, METRICS[name])
    text = str(drawn.to_dict())
    print_result(result)
    printed = capsys.readouterr().out
    for run in ("seed0", "seed1"):
        assert run in text
        assert run in printed
    if name == "timeline":
        assert len(drawn.data) == result.sizes["run"] * result.sizes["phase"]
        assert f"seed1: {result['text'].values[1, 0]}"[:60] in printed


def test_dataset_is_lazy_and_has_the_runs_first(tiny_mlps: list[Path]) -> None:
    runs = ckptlab.open_runs(tiny_mlps)
    weights = runs.dataset["weights"]
    assert weights.dims == ("run", "param", "step")
    assert weights.chunks is not None
    np.testing.assert_array_equal(weights[1, :, 5], runs[1].snapshot(5))


def test_one_run_and_nan(tiny_mlps: list[Path]) -> None:
    runs = ckptlab.open_runs(tiny_mlps[0])
    assert len(runs) == 1
    flips = runs.mean("sign-flips")
    assert np.isnan(flips[0])
    np.testing.assert_array_equal(flips, runs[0].analyze("sign-flips"))


def test_differences_are_errors(tiny_mlps: list[Path], tiny_resnet: Path, tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match=r"not of the same network: 'fc1\.weight'"):
        ckptlab.open_runs([*tiny_mlps, tiny_resnet])
    with pytest.raises(StoreError, match="matches no run"):
        ckptlab.open_runs(str(tmp_path / "none*.zarr"))
    with pytest.raises(StoreError, match="at least one"):
        ckptlab.open_runs([])
    x, y = points()
    paths = [record_own(tmp_path / f"{n}.zarr", tanh_network(), x, y, steps=n) for n in (4, 6)]
    runs = ckptlab.open_runs(paths)
    with pytest.raises(StepError, match="differ along 'step': 5 from 0 to 4, 7 from 0 to 6"):
        runs.analyze("weight-distance")
    with pytest.raises(StepError, match="differ along 'step'"):
        _ = runs.dataset
    assert runs.analyze("weight-distance", steps="0:5").sizes == {"run": 2, "step": 5}


def test_a_run_is_found_by_position_and_by_name(tiny_mlps: list[Path]) -> None:
    runs = ckptlab.open_runs(tiny_mlps)
    assert runs["seed1"] is runs[1]
    with pytest.raises(UnknownNameError, match=r"unknown run 'seed2'. Did you mean"):
        runs["seed2"]
