"""Sampled learning coefficients where the answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.analyze.engine.warnings import AnalysisWarning
from ckptlab.errors import ConfigError

N, DIM, GAMMA = 200, 6, 20.0


@pytest.fixture(scope="module")
def quadratic(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A linear regression at its minimum: the loss is a quadratic, its samples are Gaussian."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, DIM, generator=generator)
    y = x @ torch.randn(DIM, 1, generator=generator) + torch.randn(N, 1, generator=generator)
    model = nn.Linear(DIM, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    path = tmp_path_factory.mktemp("quadratic") / "run.zarr"
    with ckptlab.Recorder(path, model, arrays=["weights"]):
        pass
    return path, {"model": model, "data": (x, y), "loss": nn.functional.mse_loss}


def test_a_quadratic_has_the_coefficient_of_its_gaussian(quadratic) -> None:
    path, given = quadratic
    x = given["data"][0].double()
    slopes = torch.linalg.eigvalsh(2 * x.T @ x / N).numpy()
    nbeta, step = N / math.log(N), 2e-3
    # The chain is linear: w ← (1 − ε a / 2) w + √ε noise, whose variance is 1 / (a (1 − ε a / 4)).
    a = nbeta * slopes + GAMMA
    wanted = nbeta * (slopes / 2 / (a * (1 - step * a / 4))).sum()
    found = ckptlab.open_run(path).analyze(
        "learning-coefficient",
        chains=8,
        burn_in=200,
        length=1500,
        step_size=step,
        localization=GAMMA,
        batch_size=N,
        **given,
    )
    value = found["learning_coefficient"].item()
    assert value == pytest.approx(wanted, rel=0.08)
    assert abs(value - wanted) < 5 * found["standard_error"].item()
    assert found.attrs["n"] == N


def test_what_diverges_is_nan_and_said(quadratic) -> None:
    path, given = quadratic
    run = ckptlab.open_run(path)
    with pytest.warns(AnalysisWarning, match="step 0 diverged; take a smaller step_size than 10"):
        found = run.analyze("learning-coefficient", step_size=10, length=400, **given)
    assert np.isnan(found["learning_coefficient"]).all()
    with pytest.raises(ConfigError, match=r"step_size=-1.* must be positive"):
        run.analyze("learning-coefficient", step_size=-1, **given)
