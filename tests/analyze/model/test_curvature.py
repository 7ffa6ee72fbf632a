"""The Hessian along a run, against the whole Hessian made by torch.func."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, hessian

import ckptlab
from ckptlab.analyze.model import eigen
from ckptlab.analyze.model.curvature import gradient_share, overlap, stability_factor
from ckptlab.errors import ConfigError, LayoutError, MissingExtraError, UnknownNameError
from ckptlab.train.data import load_data
from ckptlab.train.datasets.registry import DataConfig
from ckptlab.train.models.small import MLP
from tests.trained import points, record_own, seeded, tanh_network


def whole_hessian(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Make the Hessian of the mean cross-entropy in float64."""
    model, x = copy.deepcopy(model).double(), x.double()
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def loss(vector: torch.Tensor) -> torch.Tensor:
        parts = torch.split(vector, [s.numel() for s in shapes])
        named = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, named, (x,)), y)

    return hessian(loss)(flat).numpy()


def differenced_hessian(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Make the Hessian by differences of gradients, which no second derivative enters."""
    parameters = list(model.parameters())
    at = nn.utils.parameters_to_vector(parameters).detach().clone()

    def gradient(vector: torch.Tensor) -> torch.Tensor:
        nn.utils.vector_to_parameters(vector, parameters)
        loss = nn.functional.cross_entropy(model(x), y)
        return nn.utils.parameters_to_vector(torch.autograd.grad(loss, parameters))

    columns = []
    for unit in torch.eye(len(at), dtype=at.dtype) * 1e-5:
        columns.append((gradient(at + unit) - gradient(at - unit)) / 2e-5)
    matrix = torch.stack(columns, dim=1).numpy()
    return (matrix + matrix.T) / 2


def top(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1][:k], vectors[:, ::-1][:, :k]


def assert_same_vectors(found: np.ndarray, wanted: np.ndarray, rtol: float = 1e-4) -> None:
    signs = np.sign((found * wanted).sum(axis=0))
    np.testing.assert_allclose(found * signs, wanted, atol=rtol * np.abs(wanted).max())


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory):
    x, y = points()
    model = tanh_network(hidden=40)
    initial = copy.deepcopy(model)
    path = record_own(tmp_path_factory.mktemp("own") / "own.zarr", model, x, y)
    return ckptlab.open_run(path), initial, x, y


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_eigenpairs_equal_those_of_the_whole_hessian(own, precision: torch.dtype) -> None:
    run, model, x, y = own
    given = copy.deepcopy(model).to(precision)
    before = copy.deepcopy(given.state_dict())
    found = run.analyze(
        "hessian-spectrum",
        model=given,
        loss=nn.functional.cross_entropy,
        data=(x.to(precision), y),
        steps="0:7:3",
        eigenvalues=4,
        batch_size=16,
        vectors=True,
    )
    assert found["eigenvalues"].dims == ("step", "eigenvalue")
    assert found.attrs["method"].startswith("Lanczos")
    for step in (0, 3, 6):
        model.load_state_dict(run.state_dict(step))
        values, vectors = top(whole_hessian(model, x, y), 4)
        at = found.sel(step=step)
        np.testing.assert_allclose(at["eigenvalues"], values, rtol=1e-4)
        assert_same_vectors(at["eigenvectors"].values.T, vectors)
        assert float(at["sharpness"]) == float(at["eigenvalues"][0])
        assert (at["residual"] < 1e-3 * at["eigenvalues"]).all()
    # Step 0 too: it is of the update that starts there.
    np.testing.assert_allclose(found["two_over_lr"], 20, rtol=1e-6)
    after = given.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_built_in_run_on_its_recorded_subset(tiny_mlps: list[Path]) -> None:
    run = ckptlab.open_run(tiny_mlps[0])
    found = run.analyze("hessian-spectrum", steps=12, samples=60, seed=3, vectors=True)
    assert found.sizes["eigenvalue"] == 10
    assert "60 of 1437 examples" in found.attrs["data"]
    data = load_data(DataConfig())
    index = np.sort(np.random.default_rng(3).permutation(1437)[:60])
    x, y = data.normalise(data.train[index]), data.train_labels[index]
    model = MLP(64, 6, 2, 10)
    model.load_state_dict(run.state_dict(12))
    values, vectors = top(whole_hessian(model, x, y), 10)
    np.testing.assert_allclose(found["eigenvalues"][0], values, rtol=1e-4, atol=1e-6)
    assert_same_vectors(found["eigenvectors"].values[0, :2].T, vectors[:, :2])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x.view(-1, 2, 3)
        return self.inner(z, z, z, need_weights=False)[0].reshape(-1, 6)


LAYERS = {
    "batch norm, eval": lambda: nn.BatchNorm1d(6),
    "batch norm, train": lambda: nn.BatchNorm1d(6),
    "layer norm": lambda: nn.LayerNorm(6),
    "group norm": lambda: nn.GroupNorm(2, 6),
    "attention": Attention,
    "silu": nn.SiLU,
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_whose_forward_derivatives_torch_gets_wrong(tmp_path: Path, layer: str) -> None:
    x, y = points()
    middle = LAYERS[layer]
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 6), middle(), nn.Tanh(), nn.Linear(6, 3)))
    run = ckptlab.open_run(record_own(tmp_path / "run.zarr", model, x, y))
    mode = "train" if "train" in layer else "eval"
    found = run.analyze(
        "hessian-spectrum", model=model, data=(x, y), steps=4, eigenvalues=3, batch_norm=mode
    )
    assert found.attrs["batch_norm"] == (mode if "batch norm" in layer else "none in the model")
    model.load_state_dict(run.state_dict(4))
    model.train(mode == "train")
    wanted = top(differenced_hessian(model.double(), x.double(), y), 3)[0]
    np.testing.assert_allclose(found["eigenvalues"][0], wanted, rtol=1e-4)


def test_lanczos_and_dense_agree(own, monkeypatch: pytest.MonkeyPatch) -> None:
    run, model, x, y = own
    options = {"model": model, "data": (x, y), "steps": "6", "eigenvalues": 5}
    lanczos = run.analyze("hessian-spectrum", **options)
    monkeypatch.setattr(eigen, "DENSE_UP_TO", 10_000)
    dense = run.analyze("hessian-spectrum", **options)
    assert dense.attrs["method"].startswith("dense")
    np.testing.assert_allclose(dense["eigenvalues"], lanczos["eigenvalues"], rtol=1e-4)


def test_gradient_share_is_one_in_the_whole_space(tmp_path: Path) -> None:
    x, y = points()
    model = seeded(lambda: nn.Linear(5, 3))
    run = ckptlab.open_run(record_own(tmp_path / "linear.zarr", model, x, y))
    found = run.analyze("gradient-subspace", model=model, data=(x, y), steps="0:", eigenvalues=18)
    np.testing.assert_allclose(found["gradient_share"], 1, rtol=1e-6)
    np.testing.assert_allclose(found["overlap_last"], 1, rtol=1e-6)
    assert float(found["baseline"]) == 1


def test_gradient_subspace_equals_brute_force(own) -> None:
    run, model, x, y = own
    found = run.analyze(
        "gradient-subspace", model=model, data=(x, y), steps="0:7:3", eigenvalues=3, batch_size=7
    )
    bases, gradients = [], []
    for step in (0, 3, 6):
        model.load_state_dict(run.state_dict(step))
        bases.append(top(whole_hessian(model, x, y), 3)[1])
        loss = nn.functional.cross_entropy(model(x), y)
        parts = torch.autograd.grad(loss, list(model.parameters()))
        gradients.append(torch.cat([p.reshape(-1) for p in parts]).double().numpy())
    shares = [((b.T @ g) ** 2).sum() / (g @ g) for b, g in zip(bases, gradients, strict=True)]
    np.testing.assert_allclose(found["gradient_share"], shares, rtol=1e-3)
    lengths = [np.linalg.norm(g) for g in gradients]
    np.testing.assert_allclose(found["gradient_norm"], lengths, rtol=1e-5)

    def brute(one: np.ndarray, other: np.ndarray) -> float:
        return np.trace(one @ one.T @ other @ other.T) / 3

    previous = [np.nan, brute(bases[0], bases[1]), brute(bases[1], bases[2])]
    np.testing.assert_allclose(found["overlap_previous"], previous, rtol=1e-3)
    last = [brute(basis, bases[2]) for basis in bases]
    np.testing.assert_allclose(found["overlap_last"], last, rtol=1e-3)
    np.testing.assert_array_equal(found["drift_last"], 1 - found["overlap_last"])
    assert float(found["baseline"]) == 3 / len(gradients[0])


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_overlap_laws(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 13
    whole, _ = np.linalg.qr(rng.standard_normal((size, size)))
    one, rest = whole[:, :k], whole[:, k : 2 * k]
    other, _ = np.linalg.qr(rng.standard_normal((size, k)))
    turn, _ = np.linalg.qr(rng.standard_normal((k, k)))
    assert overlap(one, one @ turn) == pytest.approx(1)
    assert overlap(one, rest) == pytest.approx(0, abs=1e-12)
    assert overlap(one, other) == pytest.approx(overlap(other, one))
    assert 0 <= overlap(one, other) <= 1
    vector = rng.standard_normal(size)
    shares = [gradient_share(vector, whole[:, i : i + 1]) for i in range(size)]
    assert sum(shares) == pytest.approx(1)
    assert gradient_share(vector, one @ turn) == pytest.approx(sum(shares[:k]))


def test_random_subspaces_overlap_as_the_baseline_says() -> None:
    rng = np.random.default_rng(0)
    pairs = [np.linalg.qr(rng.standard_normal((40, 4)))[0] for _ in range(400)]
    mean = np.mean([overlap(a, b) for a, b in zip(pairs[::2], pairs[1::2], strict=True)])
    assert mean == pytest.approx(4 / 40, rel=0.1)


def test_nan_weights_give_nan(tmp_path: Path) -> None:
    x, y = points()
    model = tanh_network()
    with ckptlab.Recorder(tmp_path / "nan.zarr", model, fsync=False) as recorder:
        with torch.no_grad():
            model[0].bias[0] = float("nan")
        recorder.step()
    run = ckptlab.open_run(tmp_path / "nan.zarr")
    found = run.analyze("hessian-spectrum", model=model, data=(x, y), steps="0:")
    assert np.isfinite(found["eigenvalues"][0]).all()
    assert np.isnan(found["eigenvalues"][1]).all()


def test_a_flat_loss_has_eigenvalues_of_zero(own) -> None:
    run, model, x, y = own
    found = run.analyze(
        "hessian-spectrum",
        model=model,
        loss=lambda outputs, targets: 0 * outputs.sum(),
        data=(x, y),
        steps=0,
    )
    np.testing.assert_allclose(found["eigenvalues"], 0, atol=1e-12)


def test_errors_say_what_to_do(own, monkeypatch: pytest.MonkeyPatch) -> None:
    run, model, x, y = own
    with pytest.raises(ConfigError, match=r"model and data.*run\.analyze\('hessian-spectrum'"):
        run.analyze("hessian-spectrum")
    with pytest.raises(LayoutError, match=r"'0\.weight' \(40, 5\).*\(7, 5\)"):
        run.analyze("hessian-spectrum", model=tanh_network(7), data=(x, y))
    with pytest.raises(ConfigError, match="has 363 trained parameters"):
        run.analyze("hessian-spectrum", model=model, data=(x, y), eigenvalues=364)
    with pytest.raises(UnknownNameError, match="batch_norm 'evla'"):
        run.analyze("hessian-spectrum", model=model, data=(x, y), batch_norm="evla")
    with pytest.raises(ConfigError, match="one row for each example"):
        run.analyze("hessian-spectrum", model=model, data=(x, y[:3]))
    with pytest.raises(ConfigError, match="two tensors"):
        run.analyze("hessian-spectrum", model=model, data=7)
    monkeypatch.setitem(sys.modules, "curvlinops", None)
    monkeypatch.delitem(sys.modules, "ckptlab.analyze.model.hessian", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'ckptlab\[curvature\]'"):
        run.analyze("hessian-spectrum", model=model, data=(x, y))


def test_frozen_parameters_are_left_out(tmp_path: Path) -> None:
    x, y = points()
    model = tanh_network()
    model[0].requires_grad_(requires_grad=False)
    run = ckptlab.open_run(record_own(tmp_path / "frozen.zarr", model, x, y))
    found = run.analyze(
        "hessian-spectrum", model=model, data=(x, y), steps=3, eigenvalues=2, vectors=True
    )
    assert found["param"].values.tolist() == list(range(72, 111))
    model.load_state_dict(run.state_dict(3))
    values = top(whole_hessian(model, x, y)[72:, 72:], 2)[0]
    np.testing.assert_allclose(found["eigenvalues"][0], values, rtol=1e-4)


def radius(curvature: float, momentum: float, nesterov: bool) -> float:
    """Spectral radius of an update of PyTorch's SGD with rate 1 on ½ c w², found by doing it."""
    columns = []
    for start in ((1.0, 0.0), (0.0, 1.0)):
        weight, velocity = start
        gradient = curvature * weight
        velocity = momentum * velocity + gradient
        step = gradient + momentum * velocity if nesterov else velocity
        columns.append((weight - step, velocity))
    return float(np.abs(np.linalg.eigvals(np.array(columns).T)).max())


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_updates_are_stable_up_to_the_bound(momentum: float, nesterov: bool) -> None:
    optim = {"name": "sgd", "momentum": momentum, "nesterov": nesterov}
    bound, _ = stability_factor(optim)
    assert radius(0.999 * bound, momentum, nesterov) < 1
    assert radius(1.001 * bound, momentum, nesterov) > 1


def test_bounds_stand_beside_the_sharpness(tiny_mlps: list[Path]) -> None:
    run = ckptlab.open_run(tiny_mlps[0])
    found = run.analyze("hessian-spectrum", steps="0,12", samples=24, eigenvalues=1)
    np.testing.assert_allclose(found["two_over_lr"], 20, rtol=1e-6)
    np.testing.assert_allclose(found["stability_bound"], 38, rtol=1e-6)
    assert found["stability_bound"].attrs["bound"] == "2 (1 + b) / lr: SGD with momentum b = 0.9"
    # Adam's update is preconditioned: no bound on the sharpness itself.
    assert stability_factor({"name": "adamw"}) is None
