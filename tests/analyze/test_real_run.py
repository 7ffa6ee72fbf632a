"""Every metric of the weights on a real training, against brute force in float64.

The long version is what the claims are about: ResNet-20, 300 steps. The quick one is the same
network, narrower and shorter.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import xarray as xr

import ckptlab
from ckptlab.analyze.registry.metrics import METRICS
from tests.analyze import brute
from tests.trained import train_tiny

LENGTHS = [
    pytest.param(("model.name=resnet20", "model.width=4", "train.steps=40"), id="quick"),
    pytest.param(("train.steps=300",), id="300-steps", marks=pytest.mark.slow),
]


class Trained:
    """A run, its weights as plain xarray reads them, and the rows of each group."""

    def __init__(self, path: Path) -> None:
        self.run = ckptlab.open_run(path)
        dataset = xr.open_zarr(path)
        self.weights = dataset["weights"].values.astype(float)
        self.steps = dataset["step"].values
        self.table = dataset.attrs["tensors"]
        self.tensor = dataset["tensor_index"].values

    def rows(self, by: str, keep: np.ndarray) -> list[np.ndarray]:
        """Rows of each group of convolutions and linear layers that a mask keeps."""
        chosen = [t for t, row in enumerate(self.table) if row["kind"] in ("conv", "linear")]
        if by == "network":
            return [np.flatnonzero(np.isin(self.tensor, chosen) & keep)]
        return [np.flatnonzero((self.tensor == t) & keep) for t in chosen]


@pytest.fixture(scope="module", params=LENGTHS)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    path = tmp_path_factory.mktemp("real") / "run.zarr"
    return Trained(train_tiny(path, *request.param, "eval.steps=none"))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("by", ["network", "tensor"])
def test_metrics_equal_brute_force(trained: Trained, by: str, masked: bool) -> None:
    keep = np.ones(len(trained.tensor), bool)
    if masked:
        keep = np.random.default_rng(0).random(len(keep)) < 0.4
    groups = trained.rows(by, keep)
    for name, (function, _) in brute.METRICS.items():
        against = [None]
        if "relative_to" in METRICS[name].options:
            against = ["init", "final", "previous", "17"]
        for relative_to in against:
            options = {} if relative_to is None else {"relative_to": relative_to}
            found = trained.run.analyze(name, by=by, mask=keep if masked else None, **options)
            got = np.atleast_2d(found.values)
            for line, rows in zip(got, groups, strict=True):
                w = trained.weights[rows]
                reference = relative_to or ("previous" if "change" in name else "init")
                with np.errstate(all="ignore"):
                    r = brute.reference_columns(w, trained.steps, reference)
                    wanted = function(w, r)
                if name == "sign-flips":
                    np.testing.assert_array_equal(np.isnan(line), np.isnan(wanted))
                    counts = np.nan_to_num(line * len(rows)), np.nan_to_num(wanted * len(rows))
                    np.testing.assert_array_equal(counts[0].round(6), counts[1].round(6))
                else:
                    np.testing.assert_allclose(line, wanted, rtol=1e-6, atol=1e-12)


def test_components_equal_the_svd(trained: Trained) -> None:
    found = trained.run.analyze("subspace", components=5)
    path = trained.weights[trained.rows("network", np.ones(len(trained.tensor), bool))[0]]
    path = path - path.mean(axis=1, keepdims=True)
    _, values, vectors = scipy.linalg.svd(path, full_matrices=False)
    shares = values**2 / (values**2).sum()
    np.testing.assert_allclose(found["explained_variance"], shares[:5], rtol=1e-6)
    projection = values[:5, None] * vectors[:5]
    projection *= np.where(projection[:, -1:] < 0, -1, 1)
    scale = np.abs(projection).max()
    np.testing.assert_allclose(found["projection"], projection, rtol=1e-6, atol=1e-8 * scale)


def test_gradient_norms_are_those_of_the_updates(trained: Trained) -> None:
    """Plain SGD: w₁ − w₀ = −lr·(g + decay·w₀), so the first gradient is known from the weights."""
    config = trained.run.attributes["config"]["optim"]
    first, second = trained.weights[:, 0], trained.weights[:, 1]
    gradient = (first - second) / config["lr"] - config["weight_decay"] * first
    found = trained.run.analyze("gradient-magnitude", by="tensor", steps=1)
    for t, rows in enumerate(trained.rows("tensor", np.ones(len(trained.tensor), bool))):
        norm = found["gradient_norm"].values[t, 0]
        assert norm == pytest.approx(np.linalg.norm(gradient[rows]), rel=1e-4)
        mean = found["gradient_mean_abs"].values[t, 0]
        assert mean == pytest.approx(np.abs(gradient[rows]).mean(), rel=1e-3)
