"""The gradient over all the data, against autograd on one big batch."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.builtin import rebuild
from ckptlab.errors import ConfigError, LayoutError
from ckptlab.train.models.build import build_model
from tests.trained import normed_network, points, record_own


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory):
    x, y = points()
    model = normed_network()
    initial = copy.deepcopy(model)
    path = record_own(tmp_path_factory.mktemp("full") / "own.zarr", model, x, y)
    return ckptlab.open_run(path), initial, x, y


def gradients(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> list[np.ndarray]:
    loss = nn.functional.cross_entropy(model(x), y)
    return [g.double().numpy().ravel() for g in torch.autograd.grad(loss, model.parameters())]


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_equals_autograd_by_tensor(own, batch_norm: str) -> None:
    run, model, x, y = own
    found = run.analyze(
        "gradient-magnitude",
        model=model,
        data=(x, y),
        steps="0:7:3",
        batch_norm=batch_norm,
        by="tensor",
        kinds="all",
    )
    for step in (0, 3, 6):
        model.load_state_dict(run.state_dict(step))
        parts = gradients(model.train(batch_norm == "train"), x, y)
        at = found.sel(step=step)
        norms = [np.linalg.norm(part) for part in parts]
        np.testing.assert_allclose(at["gradient_norm"], norms, rtol=1e-4, atol=1e-7)
        means = [np.abs(part).mean() for part in parts]
        np.testing.assert_allclose(at["gradient_mean_abs"], means, rtol=1e-4, atol=1e-7)
    assert "at the step" in found.attrs["gradient"]
    assert found.attrs["batch_norm"] == batch_norm
    assert found["gradient_norm"].attrs["long_name"] == "L2 norm of the full gradient"


def test_a_step_of_full_batch_descent_is_the_gradient_before_it(own) -> None:
    """The loop trained on all the data at once, so its mini-batch gradient is the full one."""
    run, model, x, y = own
    recorded = run.analyze("gradient-magnitude", steps="1:")
    found = run.analyze("gradient-magnitude", model=model, data=(x, y), steps="0:6", full=True)
    np.testing.assert_allclose(found["gradient_norm"], recorded["gradient_norm"], rtol=1e-5)


def test_a_mask_needs_no_recorded_gradients(own) -> None:
    run, model, x, y = own
    keep = np.random.default_rng(0).random(run.layout.parameters) < 0.5
    options = {"model": model, "data": (x, y), "steps": 4, "kinds": "all"}
    found = run.analyze("gradient-magnitude", mask=keep, **options)
    model.load_state_dict(run.state_dict(4))
    chosen = np.concatenate(gradients(model.train(), x, y))[keep]
    assert found["gradient_norm"].item() == pytest.approx(np.linalg.norm(chosen), rel=1e-5)
    assert found["gradient_mean_abs"].item() == pytest.approx(np.abs(chosen).mean(), rel=1e-5)
    with pytest.raises(LayoutError, match="selects no tensor"):
        run.analyze("gradient-magnitude", **{**options, "kinds": "conv"})


def test_a_built_in_run_takes_its_training_data(tiny_mlps: list[Path]) -> None:
    run = ckptlab.open_run(tiny_mlps[0])
    found = run.analyze("gradient-magnitude", full=True)
    assert found["step"].values.tolist() == [0, 1, 3, 10]
    assert found["gradient_norm"].attrs["weights"] == 64 * 6 + 6 * 2 + 2 * 10
    assert "all 1437 examples" in found.attrs["data"]
    _, problem = rebuild(run.attributes)
    model = build_model(problem.model, 0)
    x, y = problem.train.take(np.arange(1437))
    model.load_state_dict(run.state_dict(3))
    parts = gradients(model, x, y)[::2]
    norm = found["gradient_norm"].sel(step=3).item()
    assert norm == pytest.approx(np.linalg.norm(np.concatenate(parts)), rel=1e-4)
    some = run.analyze("gradient-magnitude", full=True, steps=3, samples=50, seed=2)
    assert "50 of 1437 examples" in some.attrs["data"]
    with pytest.raises(ConfigError, match="samples=50 is of the full gradient"):
        run.analyze("gradient-magnitude", samples=50)
