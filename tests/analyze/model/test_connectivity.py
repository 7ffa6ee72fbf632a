"""The line between two snapshots, against direct evaluation and brute force."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.builtin import rebuild
from ckptlab.errors import ConfigError, LayoutError, MissingStepError, StoreError
from ckptlab.train.models.build import build_model
from tests.trained import normed_network, points, record_own, tanh_network


def evaluated(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    with torch.no_grad():
        outputs = model.double().eval()(x.double())
    loss = float(nn.functional.cross_entropy(outputs, y))
    return loss, float((outputs.argmax(1) != y).double().mean())


def test_average_ends_are_the_snapshots(tiny_resnet: Path) -> None:
    run = ckptlab.open_run(tiny_resnet)
    found = run.analyze(
        "connectivity", other=f"{tiny_resnet}@4", at=12, alphas=3, statistics="average"
    )
    for alpha, step in ((1, 12), (0, 4)):
        one = run.analyze("evaluation", steps=step)
        assert float(found["loss"].sel(alpha=alpha)) == float(one["eval_loss"][0])
        assert float(found["error"].sel(alpha=alpha)) == 1 - float(one["eval_accuracy"][0])
    errors = found["error"].values
    assert float(found["instability"]) == errors.max() - (errors[0] + errors[-1]) / 2
    assert found.attrs["other"].endswith("@4")
    assert "averaged" in found.attrs["batch_norm"]


def test_between_the_ends_weights_and_statistics_are_averaged(tmp_path: Path) -> None:
    x, y = points()
    test_x, test_y = points(seed=5)
    models = [normed_network(), normed_network()]
    runs = []
    for i, (model, count) in enumerate(zip(models, (20, 40), strict=True)):
        path = record_own(tmp_path / f"{i}.zarr", model, x[:count], y[:count])
        runs.append(ckptlab.open_run(path))
    found = runs[0].analyze(
        "connectivity",
        model=normed_network(),
        data=(test_x, test_y),
        other=runs[1],
        alphas=5,
        statistics="average",
    )
    ends = [run.state_dict(6) for run in runs]
    for alpha in found["alpha"].values:
        state = {
            name: alpha * ends[0][name].double() + (1 - alpha) * ends[1][name].double()
            for name in ends[0]
        }
        model = normed_network().double()
        model.load_state_dict(state)
        loss, error = evaluated(model, test_x, test_y)
        assert float(found["loss"].sel(alpha=alpha)) == pytest.approx(loss, rel=1e-5)
        assert float(found["error"].sel(alpha=alpha)) == pytest.approx(error)


def test_recomputed_statistics_equal_brute_force(tiny_resnet: Path) -> None:
    run = ckptlab.open_run(tiny_resnet)
    found = run.analyze("connectivity", other="@0", alphas=2, samples=120, seed=1, batch_size=50)
    _, problem = rebuild(run.attributes)
    index = np.sort(np.random.default_rng(1).permutation(1437)[:120])
    x, _ = problem.train.take(index)
    test = problem.test
    test_x, test_y = test.take(np.arange(len(test)))
    model = build_model(problem.model, 0)
    model.load_state_dict(run.state_dict(12))
    statistics: dict[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].detach().double().transpose(0, 1).flatten(1)
        statistics.setdefault(module, []).append((values.mean(1), values.var(1)))

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    model.train()
    for batch in (x[:50], x[50:100]):
        model(batch)
    for handle, norm in zip(handles, norms, strict=True):
        handle.remove()
        means, variances = zip(*statistics[norm], strict=True)
        norm.running_mean.copy_(torch.stack(means).mean(0))
        norm.running_var.copy_(torch.stack(variances).mean(0))
    loss, error = evaluated(copy.deepcopy(model), test_x, test_y)
    assert float(found["loss"].sel(alpha=1)) == pytest.approx(loss, rel=1e-4)
    assert float(found["error"].sel(alpha=1)) == pytest.approx(error, abs=1e-9)
    assert "120 of 1437" in found.attrs["batch_norm"]


def test_other_snapshots(tiny_mlps: list[Path]) -> None:
    one, two = map(ckptlab.open_run, tiny_mlps)
    named = one.analyze("connectivity", other=str(tiny_mlps[1]), alphas=3)
    assert named.attrs["other"].endswith("seed1.zarr@12")
    for other in (two, (two, 12), (two, "final"), f"{tiny_mlps[1]}@12it", tiny_mlps[1]):
        again = one.analyze("connectivity", other=other, alphas=3)
        np.testing.assert_array_equal(again["loss"], named["loss"])
    same = one.analyze("connectivity", other="@final", alphas=4)
    np.testing.assert_allclose(same["loss"], float(same["loss"][0]), rtol=1e-6)
    assert float(same["instability"]) == 0
    dataset = one.dataset.ckpt.connectivity(other=two.dataset, alphas=3)
    np.testing.assert_array_equal(dataset["loss"], named["loss"])


def test_errors_say_what_to_do(tiny_mlps: list[Path], tiny_resnet: Path, tmp_path: Path) -> None:
    run = ckptlab.open_run(tiny_mlps[0])
    with pytest.raises(ConfigError, match=r"other=RUN\[@STEP\]"):
        run.analyze("connectivity")
    with pytest.raises(LayoutError, match="not of the same model"):
        run.analyze("connectivity", other=str(tiny_resnet))
    with pytest.raises(MissingStepError, match=r"^other=@99: step 99 .* Use other=@12"):
        run.analyze("connectivity", other="@99")
    with pytest.raises(MissingStepError, match=r"^other=.*seed1\.zarr@99: .* Use other=.*@12"):
        run.analyze("connectivity", other=f"{tiny_mlps[1]}@99")
    with pytest.raises(MissingStepError, match=r"^at=99: step 99 .* Use at=12"):
        run.analyze("connectivity", other="@0", at=99)
    with pytest.raises(ConfigError, match=r"^at=previous names no single snapshot"):
        run.analyze("connectivity", other="@0", at="previous")
    with pytest.raises(StoreError, match="does not exist"):
        run.analyze("connectivity", other=str(tmp_path / "none.zarr"))
    x, y = points()
    own = ckptlab.open_run(record_own(tmp_path / "own.zarr", normed_network(), x, y))
    with pytest.raises(ConfigError, match="training_data"):
        own.analyze("connectivity", model=normed_network(), data=(x, y), other="@0")
    plain = ckptlab.open_run(record_own(tmp_path / "plain.zarr", tanh_network(), x, y))
    found = plain.analyze("connectivity", model=tanh_network(), data=(x, y), other="@0", alphas=2)
    assert found.attrs["batch_norm"] == "no running statistics in the model"
