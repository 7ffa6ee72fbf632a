"""Snapshots evaluated afterwards, against what the training itself found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import ckptlab
from ckptlab.errors import ConfigError
from tests.trained import points, record_own, tanh_network


@pytest.mark.parametrize("which", ["tiny_resnet", "tiny_mlp"])
def test_recorded_evaluations_are_found_again(
    which: str, tiny_resnet: Path, tiny_mlps: list[Path]
) -> None:
    run = ckptlab.open_run(tiny_resnet if which == "tiny_resnet" else tiny_mlps[0])
    recorded = run.analyze("evaluation")
    assert recorded.attrs["evaluated"] == "as recorded"
    every = run.analyze("evaluation", steps="0:")
    assert every.attrs["evaluated"] == "afterwards"
    assert every["eval_step"].values.tolist() == list(range(13))
    again = every.sel(eval_step=recorded["eval_step"])
    np.testing.assert_array_equal(again["eval_accuracy"], recorded["eval_accuracy"])
    np.testing.assert_allclose(again["eval_loss"], recorded["eval_loss"], rtol=1e-6)


def test_verdict_on_every_example(tiny_mlps: list[Path]) -> None:
    run = ckptlab.open_run(tiny_mlps[0])
    found = run.analyze("evaluation", steps="0:13:6", correct=True, batch_size=50)
    assert found["correct"].dims == ("eval_step", "example")
    assert found["correct"].dtype == bool
    np.testing.assert_allclose(found["correct"].mean("example"), found["eval_accuracy"])


def test_any_model_with_any_data(tmp_path: Path) -> None:
    x, y = points()
    model = tanh_network()
    run = ckptlab.open_run(record_own(tmp_path / "own.zarr", model, x, y))
    dataset = torch.utils.data.TensorDataset(x, y)
    found = run.analyze("evaluation", model=model, data=dataset, steps="2:5")
    pair = run.analyze("evaluation", model=model, data=(x.numpy(), y.numpy()), steps="2:5")
    for step in (2, 3, 4):
        model.load_state_dict(run.state_dict(step))
        right = float((model(x).argmax(1) == y).double().mean())
        assert float(found["eval_accuracy"].sel(eval_step=step)) == pytest.approx(right)
    np.testing.assert_array_equal(pair["eval_loss"], found["eval_loss"])
    with pytest.raises(ConfigError, match="needs model and data"):
        run.analyze("evaluation", correct=True)
    summed = torch.nn.CrossEntropyLoss(reduction="sum")
    again = run.analyze("evaluation", model=model, data=dataset, steps="2:5", loss=summed)
    np.testing.assert_allclose(again["eval_loss"], found["eval_loss"], rtol=1e-6)


def test_targets_that_are_no_classes(tmp_path: Path) -> None:
    x, y = points()
    model = tanh_network()
    run = ckptlab.open_run(record_own(tmp_path / "own.zarr", model, x, y))
    options = {"model": model, "data": (x, torch.randn(40, 3)), "loss": torch.nn.MSELoss()}
    found = run.analyze("evaluation", steps=3, **options)
    assert np.isfinite(found["eval_loss"]).all()
    assert np.isnan(found["eval_accuracy"]).all()
    with pytest.raises(ConfigError, match="whole-number targets"):
        run.analyze("evaluation", steps=3, correct=True, **options)
