"""The Fisher trace, against its closed form for logistic regression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.analyze.model import fisher
from ckptlab.errors import ConfigError, LayoutError, UnknownNameError
from tests.trained import normed_network, points, record_own, seeded, tanh_network


@pytest.fixture(scope="module")
def logistic(tmp_path_factory: pytest.TempPathFactory):
    x, y = points(count=200)
    model = seeded(lambda: nn.Linear(5, 3))
    path = record_own(tmp_path_factory.mktemp("fisher") / "logistic.zarr", model, x, y)
    return ckptlab.open_run(path), model, x, y


def probabilities(run: ckptlab.Run, step: int, x: torch.Tensor) -> np.ndarray:
    state = {name: value.double() for name, value in run.state_dict(step).items()}
    return torch.softmax(x.double() @ state["weight"].T + state["bias"], 1).numpy()


def test_exact_expectation_is_the_closed_form(logistic) -> None:
    run, model, x, y = logistic
    found = run.analyze(
        "fisher-trace", model=model, data=(x, y), labels="exact", steps="0:7:3", batch_size=33
    )
    assert found.dims == ("step",)
    lengths = 1 + (x.double().numpy() ** 2).sum(1)
    for step in (0, 3, 6):
        p = probabilities(run, step, x)
        wanted = np.mean(lengths * (1 - (p**2).sum(1)))
        assert float(found.sel(step=step)) == pytest.approx(wanted, rel=1e-5)


def squares(p: np.ndarray, x: torch.Tensor) -> np.ndarray:
    """Return ‖∇ log p(y|x)‖² of each example and label."""
    lengths = 1 + (x.double().numpy() ** 2).sum(1)
    errors = np.eye(p.shape[1])[None] - p[:, None, :]
    return lengths[:, None] * (errors**2).sum(2)


@pytest.mark.parametrize("draws", [1, 20])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sampled_labels_are_within_their_error(logistic, seed: int, draws: int) -> None:
    run, model, x, y = logistic
    given = {"model": model, "data": (x, y), "steps": 6}
    found = run.analyze("fisher-trace", draws=draws, seed=seed, **given)
    p = probabilities(run, 6, x)
    values = squares(p, x)
    mean = (p * values).sum(1)
    variance = (p * values**2).sum(1) - mean**2
    error = np.sqrt(variance.sum() / draws) / len(x)
    assert abs(float(found[0]) - mean.mean()) < 3.5 * error
    again = run.analyze("fisher-trace", draws=draws, seed=seed, batch_size=77, **given)
    assert float(again[0]) == pytest.approx(float(found[0]), rel=1e-5)


def test_empirical_labels_are_those_of_the_data(logistic) -> None:
    run, model, x, y = logistic
    found = run.analyze("fisher-trace", model=model, data=(x, y), labels="empirical", steps=6)
    values = squares(probabilities(run, 6, x), x)
    assert float(found[0]) == pytest.approx(values[np.arange(len(x)), y].mean(), rel=1e-5)
    assert "empirical" in found.attrs["long_name"]


def test_gradients_in_small_chunks(logistic, monkeypatch: pytest.MonkeyPatch) -> None:
    run, model, x, y = logistic
    options = {"model": model, "data": (x, y), "steps": 3}
    whole = run.analyze("fisher-trace", **options)
    monkeypatch.setattr(fisher, "GRADIENT_BYTES", 4 * 18 * 7)
    np.testing.assert_allclose(run.analyze("fisher-trace", **options), whole, rtol=1e-6)


class Counting(nn.Linear):
    """Writes to a buffer in its forward, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__(5, 3)
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


def test_a_model_that_cannot_be_vectorised_is_taken_example_by_example(logistic) -> None:
    run, model, x, y = logistic
    path = run.path + "-counting"
    counting = seeded(Counting)
    other = ckptlab.open_run(record_own(Path(path), counting, x, y))
    options = {"data": (x, y), "labels": "exact", "steps": "0:7:3", "by": "tensor"}
    found = other.analyze("fisher-trace", model=counting, **options)
    np.testing.assert_allclose(
        found, run.analyze("fisher-trace", model=model, **options), rtol=1e-5
    )


def test_batch_norm_uses_the_recorded_statistics_and_layers_add_up(tmp_path: Path) -> None:
    x, y = points()
    model = normed_network()
    run = ckptlab.open_run(record_own(tmp_path / "normed.zarr", model, x, y))
    options = {"data": (x, y), "labels": "empirical", "steps": 5}
    found = run.analyze("fisher-trace", model=model, by="tensor", **options)
    model.load_state_dict(run.state_dict(5))
    model.eval()
    sums = np.zeros(6)
    for one, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(model(one[None]), label[None])
        sums += [float(g.square().sum()) for g in torch.autograd.grad(loss, model.parameters())]
    np.testing.assert_allclose(found.sel(step=5), sums / len(x), rtol=1e-4)
    total = run.analyze("fisher-trace", model=model, **options)
    assert float(total[0]) == pytest.approx(float(found.sum()), rel=1e-6)
    some = run.analyze("fisher-trace", model=model, kinds="norm", **options)
    assert float(some[0]) == pytest.approx(float(found[2:4].sum()), rel=1e-6)


def test_errors(logistic, tmp_path: Path) -> None:
    run, model, x, y = logistic
    with pytest.raises(UnknownNameError, match=r"labels 'sample'.*'sampled'"):
        run.analyze("fisher-trace", model=model, data=(x, y), labels="sample")
    with pytest.raises(ConfigError, match="needs cross-entropy, the loss is MSELoss"):
        run.analyze("fisher-trace", model=model, data=(x, y), loss=nn.MSELoss())
    frozen = tanh_network()
    frozen[0].requires_grad_(requires_grad=False)
    other = ckptlab.open_run(record_own(tmp_path / "frozen.zarr", frozen, x, y, steps=1))
    with pytest.raises(LayoutError, match=r"no trained parameter is of kinds embedding|selects no"):
        other.analyze("fisher-trace", model=frozen, data=(x, y), kinds="embedding")
