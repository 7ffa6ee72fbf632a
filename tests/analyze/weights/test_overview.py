"""One read for the network, its layers and the phases gives what the single metrics give."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.analyze.weights.overview import survey
from ckptlab.errors import StepError
from tests.analyze.recordings import Made, record


@pytest.mark.parametrize("kinds", [None, "all"])
def test_it_equals_the_metrics(made: Made, kinds: str | None) -> None:
    run = ckptlab.open_run(made.path)
    found = survey(run, kinds=kinds)
    telemetry = run.analyze("telemetry", kinds=kinds)
    assert set(found.network) == set(telemetry)
    for name, expected in telemetry.items():
        got = found.network[name]
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-15, err_msg=str(name))
        assert got.attrs == expected.attrs
    exact = ("sign_flips_init", "sign_flips_previous", "zeros", "weight_min", "weight_max")
    for name in exact:
        np.testing.assert_array_equal(found.network[name], telemetry[name])
    timeline = run.analyze("timeline", kinds=kinds)
    assert set(found.timeline) == set(timeline)
    for name, expected in timeline.items():
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(found.timeline[name], expected, rtol=1e-12)
        else:
            assert list(found.timeline[name].values) == list(expected.values)
    for name, metric, options in (
        ("sign_flips", "sign-flips", {}),
        ("relative_change", "relative-change", {}),
    ):
        by_layer = run.analyze(metric, by="layer", kinds=kinds, **options)
        np.testing.assert_array_equal(found.layers[name], by_layer)
    gradients = run.analyze("gradient-magnitude", by="layer", kinds=kinds)["gradient_norm"]
    np.testing.assert_array_equal(found.layers["gradient_norm"], gradients)


def test_steps_are_chosen(made: Made) -> None:
    run = ckptlab.open_run(made.path)
    found = survey(run, steps="5:40:5")
    expected = run.analyze("telemetry", steps="5:40:5")
    np.testing.assert_array_equal(found.network["step"], expected["step"])
    np.testing.assert_allclose(
        found.network["weight_distance_init"], expected["weight_distance_init"], rtol=1e-12
    )
    assert found.layers.sizes["step"] == 7


def test_nan_stays_where_it_is(marred: Made) -> None:
    run = ckptlab.open_run(marred.path)
    with pytest.warns(match="NaN in weights"):
        found = survey(run)
    with pytest.warns(match="NaN in weights"):
        expected = run.analyze("telemetry")
    for name in ("weight_magnitude", "sign_flips_previous", "weight_min", "weight_max", "zeros"):
        np.testing.assert_array_equal(
            np.isnan(found.network[name]), np.isnan(expected[name]), err_msg=name
        )
    assert np.isnan(found.layers["relative_change"].sel(layer="big", step=9))
    assert np.isfinite(found.layers["relative_change"].sel(layer="conv", step=9))


def test_the_store_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 5))
    with ckptlab.Recorder(tmp_path / "walk.zarr", model, memory="100kB") as recorder:
        for _ in range(40):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
                    parameter.grad = torch.ones_like(parameter)
            recorder.step()
    run = ckptlab.open_run(tmp_path / "walk.zarr")
    shards = math.prod(run.stored.weights.grid.shard_grid)
    assert shards > 8
    read: list[tuple[int, int]] = []
    array = type(run.stored.weights)
    whole = array.read_shard

    def counted(self: Any, i: int, j: int) -> Any:
        read.append((i, j))
        return whole(self, i, j)

    monkeypatch.setattr(array, "read_shard", counted)
    survey(run, scheduler="synchronous")
    # Besides, three snapshots that are compared with: step 0, step 10 and the last.
    assert len(read) == shards + 3
    assert len(set(read)) == shards


def test_a_later_start_has_no_init(tmp_path: Path) -> None:
    made = record(tmp_path / "late.zarr", steps=21, schedule="5:")
    found = survey(ckptlab.open_run(made.path))
    assert "sign_flips_init" not in found.network
    assert "sign_flips_final" in found.network


def test_one_step_is_too_few(made: Made) -> None:
    with pytest.raises(StepError, match="has 1 committed step among those asked for"):
        survey(ckptlab.open_run(made.path), steps="3")
