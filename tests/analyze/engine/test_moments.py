"""The engine: NaN, unfinished runs, schedulers, laziness, and what it reads."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import ckptlab
from ckptlab.analyze.engine.blocks import StoredBlock
from ckptlab.analyze.engine.moments import _spans
from ckptlab.analyze.engine.source import BlockGrid
from ckptlab.analyze.engine.warnings import NaNWarning, UnfinishedRunWarning
from ckptlab.analyze.registry.metrics import compute
from ckptlab.store.format.shards import Shard
from tests.analyze import brute
from tests.analyze.recordings import RUN_IS_ENOUGH, Made


def test_nan_makes_its_cells_nan_and_is_named(marred: Made) -> None:
    run = ckptlab.open_run(marred.path)
    with pytest.warns(NaNWarning) as caught:
        flips = run.analyze("sign-flips", by="tensor")
    text = str(caught[0].message)
    assert "'conv.weight' at step 0 (1 values)" in text
    assert "'big.weight' at steps 9 to 16 (5 values)" in text
    nan = {
        name: np.flatnonzero(np.isnan(flips.sel(tensor=name))).tolist()
        for name in ("conv.weight", "big.weight", "out.weight")
    }
    assert nan == {"conv.weight": [0, 1], "big.weight": [0, 9, 10, 16, 17], "out.weight": [0]}
    for chosen in ("conv.weight", "big.weight"):
        rows = marred.tensor == marred.names.index(chosen)
        w = marred.weights[rows].astype(float)
        reference = brute.reference_columns(w, marred.steps, "previous")
        got = flips.sel(tensor=chosen).values
        np.testing.assert_allclose(got, brute.sign_flips(w, reference), rtol=1e-12)


@pytest.mark.parametrize("name", ["weight-distance", "cosine", "weight-magnitude", "telemetry"])
def test_no_cell_with_nan_is_averaged_away(marred: Made, name: str) -> None:
    with pytest.warns(NaNWarning, match=r"big\.weight"):
        result = compute(ckptlab.open_run(marred.path), name)
    variables = result.data_vars.values() if isinstance(result, xr.Dataset) else [result]
    for variable in variables:
        if "weights" in variable.attrs and not str(variable.name).startswith("gradient"):
            assert np.isnan(variable.sel(step=[9, 16])).all(), variable.name


def test_only_selected_steps_are_warned_about(marred: Made) -> None:
    run = ckptlab.open_run(marred.path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NaNWarning)
        result = run.analyze("weight-magnitude", steps="10:16")
        assert not np.isnan(result).any()
        assert np.isnan(run.analyze("sign-flips", kinds="norm")[0])


def test_nan_in_the_reference_is_named_though_its_step_is_not_selected(marred: Made) -> None:
    run = ckptlab.open_run(marred.path)
    with pytest.warns(NaNWarning) as caught:
        distance = run.analyze("weight-distance", relative_to="9", steps="1:9", by="tensor")
    assert np.isnan(distance.sel(tensor="big.weight")).all()
    assert not np.isnan(distance.sel(tensor="conv.weight")).any()
    text = "'big.weight' at step 9 (3 values)"
    assert [text in str(w.message) and "conv" not in str(w.message) for w in caught] == [True]


@pytest.mark.parametrize("scheduler", ["threads", "synchronous", "processes"])
def test_schedulers_of_dask_agree(made: Made, scheduler: str) -> None:
    run = ckptlab.open_run(made.path)
    expected = run.analyze("telemetry", by="layer")
    xr.testing.assert_allclose(run.analyze("telemetry", by="layer", scheduler=scheduler), expected)


def test_reads_every_chunk_once(wide: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = Shard.decode

    def counted(self: Shard, c: int, out=None):
        decoded.append(c)
        return decode(self, c, out)

    monkeypatch.setattr(Shard, "decode", counted)
    run = ckptlab.open_run(wide.path)
    chunks = 3 * 2  # three blocks, two chunks of parameters
    run.analyze("sign-flips", scheduler="synchronous")
    assert len(decoded) == chunks
    decoded.clear()
    run.analyze("telemetry", scheduler="synchronous")
    assert len(decoded) == chunks + 2 * 2  # and the blocks of the first and the last snapshot
    decoded.clear()
    run.analyze("sign-flips", steps="40:50", scheduler="synchronous")
    assert len(decoded) == 2


def test_nothing_is_computed_before_a_metric_is_asked_for(wide: Made) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("computed")

    with dask.config.set(scheduler=refuse):
        dataset = xr.open_zarr(wide.path)
        accessor = dataset.isel(step=slice(3, 50)).ckpt
        assert "weight_distance" in dir(accessor)
        # The default scheduler is dask's own setting, so this one would have been used.
        with pytest.raises(AssertionError, match="computed"):
            accessor.weight_change()


def test_metrics_need_no_torch() -> None:
    code = (
        "import sys, ckptlab.analyze.registry.metrics\n"
        "heavy = {'torch', 'numba', 'dask', 'xarray', 'numpy', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", RUN_IS_ENOUGH)
def test_unfinished_runs_are_measured_and_said_so(made: Made, tmp_path: Path, name: str) -> None:
    path = _unfinished(made, tmp_path)
    with pytest.warns(UnfinishedRunWarning, match="interrupted: measured on the 77 steps"):
        result = ckptlab.open_run(path).analyze(name)
    assert result.attrs["run_state"] == "interrupted"
    assert result.attrs["final"] == "step 100, the last committed"


def test_a_run_that_was_not_closed_may_be_recorded_still_or_killed(
    made: Made, tmp_path: Path
) -> None:
    path = _unfinished(made, tmp_path, "recording")
    with pytest.warns(UnfinishedRunWarning, match="still being recorded, or was killed"):
        ckptlab.open_run(path).analyze("weight-magnitude")


def _unfinished(made: Made, tmp_path: Path, state: str = "interrupted") -> Path:
    """Copy a run and mark it as the writer would have, had it been interrupted or killed."""
    import json

    from ckptlab.store.format.zarr_metadata import root_metadata

    path = tmp_path / "unfinished.zarr"
    shutil.copytree(made.path, path)
    root = json.loads((path / "zarr.json").read_text())
    attributes = {**root["attributes"], "state": state}
    metadata = root["consolidated_metadata"]["metadata"]
    (path / "zarr.json").write_text(json.dumps(root_metadata(attributes, metadata)))
    return path


@pytest.mark.parametrize(
    ("held", "tasks", "lengths"),
    [
        (range(64), 12, [6] * 4 + [5] * 8),  # not twelve of five and one of four
        (range(64), 1, [16] * 4),
        (range(5), 12, [1] * 5),
        ([*range(3), *range(10, 20)], 4, [3, 4, 3, 3]),
        ([7], 3, [1]),
    ],
)
def test_tasks_take_as_many_blocks_each(held, tasks, lengths):
    blocks = [StoredBlock(None, 0, j) for j in range(70)]
    columns = tuple(slice(32 * j, 32 * j + 32) for j in range(70))
    grid = BlockGrid((slice(0, 100),), columns, [blocks])
    spans = _spans(grid, np.array([32 * j + 5 for j in held]), tasks)
    assert [j for span in spans for j in span] == list(held)
    assert [len(span) for span in spans] == lengths
