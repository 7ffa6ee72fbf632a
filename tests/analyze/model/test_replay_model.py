"""Loaded steps: no weight of the step before lingers, and pruned weights are no parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.errors import LayoutError
from ckptlab.train.config import load_config
from ckptlab.train.trainer import train
from tests.analyze.model.test_curvature import top, whole_hessian
from tests.trained import normed_network, points, record_own, tanh_network, train_tiny

LOW = ["model.width=4", "train.steps=24", "train.precision=bf16", "eval.steps=0:25:12"]


@pytest.fixture(scope="module")
def low(tmp_path_factory: pytest.TempPathFactory) -> ckptlab.Run:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("low")
    return ckptlab.open_run(train_tiny(folder / "bf16.zarr", "model.name=resnet8", *LOW))


def test_bf16_steps_are_evaluated_as_each_alone_and_as_recorded(low: ckptlab.Run) -> None:
    together = low.analyze("evaluation", steps="0,12,24")
    alone = [low.analyze("evaluation", steps=step)["eval_loss"].item() for step in (0, 12, 24)]
    np.testing.assert_allclose(together["eval_loss"], alone, rtol=1e-7)
    np.testing.assert_allclose(together["eval_loss"], low.analyze("evaluation")["eval_loss"])
    assert together.attrs["precision"] == "bfloat16"


def test_bf16_lines_end_at_their_snapshots(low: ckptlab.Run) -> None:
    line = low.analyze("connectivity", other="@0", alphas=3, statistics="average")
    for alpha, step in ((0, 0), (1, 24)):
        wanted = low.analyze("evaluation", steps=step)["eval_loss"].item()
        assert line["loss"].sel(alpha=alpha).item() == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("name", ["evaluation", "fisher-trace", "gradient-magnitude"])
def test_an_autocast_of_the_caller_keeps_no_weights(tmp_path: Path, name: str) -> None:
    x, y = points()
    model = tanh_network()
    run = ckptlab.open_run(record_own(tmp_path / "own.zarr", model, 3 * x, y))
    given = {"model": model, "data": (x, y)}
    with torch.autocast("cpu", torch.bfloat16):
        together = run.analyze(name, steps="0:7:3", **given)
    alone = []
    for step in (0, 3, 6):
        with torch.autocast("cpu", torch.bfloat16):
            alone.append(run.analyze(name, steps=step, **given))
    pick = {"evaluation": "eval_loss", "gradient-magnitude": "gradient_norm"}.get(name)
    values = [(one if pick is None else one[pick]).item() for one in alone]
    np.testing.assert_array_equal(together if pick is None else together[pick], values)
    assert len(set(values)) == 3


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An MLP of which half of each weight matrix is pruned, and its mask."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("sparse") / "sparse.zarr"
    settings = ["model.name=mlp", "model.width=4", "train.steps=12", "train.threads=1"]
    config = load_config(overrides=[*settings, "record.fsync=false"])
    dense = ckptlab.open_run(train_tiny(path.with_name("dense.zarr"), *settings))
    keep = np.random.default_rng(2).random(dense.layout.parameters) < 0.5
    for row in dense.layout.tensors:
        if row.kind == "bias":
            keep[row.offset : row.offset + row.size] = True
    train(config, str(path), mask=keep)
    return path, keep


def digits(run: ckptlab.Run, step: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    from ckptlab.builtin import rebuild
    from ckptlab.train.models.build import build_model

    _, problem = rebuild(run.attributes)
    model = build_model(problem.model, 0)
    model.load_state_dict(run.state_dict(step))
    index = np.sort(np.random.default_rng(0).permutation(1437)[:60])
    return model, *problem.train.take(index)


SUBSET = {"samples": 60, "steps": 12}


@pytest.mark.parametrize("whose", ["the run's", "given"])
def test_hessian_of_a_sub_network_is_over_its_survivors(sparse, whose: str) -> None:
    path, keep = sparse
    run = ckptlab.open_run(path if whose == "the run's" else path.with_name("dense.zarr"))
    mask = None if whose == "the run's" else keep
    model, x, y = digits(run, 12)
    matrix = whole_hessian(model, x, y)[np.ix_(keep, keep)]
    values, vectors = top(matrix, 4)
    found = run.analyze("hessian-spectrum", mask=mask, eigenvalues=4, vectors=True, **SUBSET)
    np.testing.assert_allclose(found["eigenvalues"][0], values, rtol=1e-4)
    np.testing.assert_array_equal(found["param"], np.flatnonzero(keep))
    assert found.attrs["parameters"] == keep.sum()
    share = run.analyze("gradient-subspace", mask=mask, eigenvalues=4, **SUBSET)
    loss = nn.functional.cross_entropy(model(x), y)
    parts = torch.autograd.grad(loss, list(model.parameters()))
    gradient = torch.cat([p.reshape(-1) for p in parts]).double().numpy()[keep]
    inside = ((vectors.T @ gradient) ** 2).sum() / (gradient @ gradient)
    assert share["gradient_share"].item() == pytest.approx(inside, rel=1e-3)
    assert share["gradient_norm"].item() == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert float(share["baseline"]) == 4 / keep.sum()


@pytest.mark.parametrize("whose", ["the run's", "given"])
def test_gradients_of_a_sub_network_are_over_its_survivors(sparse, whose: str) -> None:
    path, keep = sparse
    run = ckptlab.open_run(path if whose == "the run's" else path.with_name("dense.zarr"))
    mask = None if whose == "the run's" else keep
    model, x, y = digits(run, 12)
    loss = nn.functional.cross_entropy(model(x), y)
    parts = torch.autograd.grad(loss, list(model.parameters()))
    gradient = torch.cat([p.reshape(-1) for p in parts]).double().numpy()[keep]
    options = {"mask": mask, "kinds": "all", **SUBSET}
    full = run.analyze("gradient-magnitude", full=True, **options)
    assert full["gradient_norm"].item() == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert full["gradient_mean_abs"].item() == pytest.approx(np.abs(gradient).mean(), rel=1e-5)
    squares = []
    for image, label in zip(x, y, strict=True):
        loss = nn.functional.cross_entropy(model(image[None]), label[None])
        parts = torch.autograd.grad(loss, list(model.parameters()))
        squares.append(torch.cat([p.reshape(-1) for p in parts]).double().numpy()[keep] ** 2)
    trace = run.analyze("fisher-trace", labels="empirical", **options)
    assert trace.item() == pytest.approx(np.mean(np.sum(squares, axis=1)), rel=1e-5)
    by_tensor = run.analyze("fisher-trace", labels="empirical", by="tensor", **options)
    assert float(by_tensor.sum()) == pytest.approx(trace.item(), rel=1e-6)


def test_the_run_s_mask_applies_to_its_dataset_and_beside_a_given_one(sparse) -> None:
    path, keep = sparse
    run = ckptlab.open_run(path)
    own = run.analyze("fisher-trace", **SUBSET)
    assert own.attrs["mask"] == "of the run"
    np.testing.assert_array_equal(run.dataset.ckpt.fisher_trace(**SUBSET), own)
    first = np.arange(len(keep)) < 100
    both = run.analyze("fisher-trace", mask=first, **SUBSET)
    np.testing.assert_array_equal(both, run.analyze("fisher-trace", mask=first & keep, **SUBSET))
    assert both.attrs["weights"] == (first & keep).sum()
    with pytest.raises(LayoutError, match="keeps no trained parameter"):
        run.analyze("hessian-spectrum", mask=~keep, **SUBSET)


def test_a_group_without_a_survivor_is_nan(sparse) -> None:
    path, keep = sparse
    run = ckptlab.open_run(path.with_name("dense.zarr"))
    keep = keep.copy()
    row = run.layout["fc2.weight"]
    keep[row.offset : row.offset + row.size] = False
    for name in ("fisher-trace", "gradient-magnitude"):
        extra = {"full": True} if name == "gradient-magnitude" else {}
        found = run.analyze(name, mask=keep, by="tensor", kinds="linear", **SUBSET, **extra)
        for values in [found] if name == "fisher-trace" else found.data_vars.values():
            missing = np.isnan(values.squeeze("step"))
            assert missing["tensor"].values[missing].tolist() == ["fc2.weight"]


def test_curvature_is_of_the_function_that_is_trained(tmp_path: Path) -> None:
    x, y = points()
    model = normed_network()
    run = ckptlab.open_run(record_own(tmp_path / "own.zarr", model, x, y))
    options = {"model": model, "data": (x, y), "steps": 3, "eigenvalues": 2, "batch_size": 20}
    found = run.analyze("hessian-spectrum", **options)
    assert found.attrs["batch_norm"] == "train"
    assert "each batch of 20, as in training" in found.attrs["batch_norm_statistics"]
    by_train = run.analyze("hessian-spectrum", batch_norm="train", **options)
    np.testing.assert_array_equal(found["eigenvalues"], by_train["eigenvalues"])
    by_eval = run.analyze("gradient-subspace", batch_norm="eval", **options)
    assert by_eval.attrs["batch_norm_statistics"] == "running statistics as recorded"
