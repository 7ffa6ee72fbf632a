"""Metrics of a model against plain float64 forward passes and their derivatives."""

from __future__ import annotations

import numpy as np
import pytest

import ckptlab
from tests.oracles import networks as oracles
from tests.oracles.networks import Network, batch_statistics
from tests.oracles.plain import PlainRun, subset


def slow(name: str):
    return pytest.param(name, marks=pytest.mark.slow)


RUNS = ("dense", "nesterov", "adamw", "masked", "branch", "resnet", "bf16")
TOLERANCE = {"bf16": 3e-2}
COUNT, BATCH = 24, 12
SAMPLES = {"samples": COUNT, "seed": 3, "batch_size": BATCH}


def train_part(data) -> tuple[np.ndarray, np.ndarray]:
    index = subset(1437, COUNT, 3)
    return data["x"][index], data["y"][index]


def survivors(run: PlainRun) -> np.ndarray:
    return run["mask"].astype(bool) if "mask" in run.group else np.ones(len(run.tensor), bool)


@pytest.mark.parametrize("name", RUNS)
def test_evaluation(make, data, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    x, y = data["test_x"], data["test_y"]
    steps = [int(s) for s in run.steps[[0, 2, -1]]]
    wanted = [oracles.evaluation(Network(run, step), x, y) for step in steps]
    found = package.analyze("evaluation", steps=",".join(map(str, steps)))
    recorded = package.analyze("evaluation")
    rtol = TOLERANCE.get(name, 1e-5)
    np.testing.assert_allclose(found["eval_loss"], [loss for loss, _ in wanted], rtol=rtol)
    # One image in bf16 may lie on the border of two classes.
    slack = 0.02 if name == "bf16" else 1e-9
    np.testing.assert_allclose(found["eval_accuracy"], [a for _, a in wanted], atol=slack)
    last = recorded.sel(eval_step=steps[-1])
    assert float(last["eval_loss"]) == pytest.approx(wanted[-1][0], rel=rtol)


@pytest.mark.parametrize("name", ["dense", "masked", "branch", "bf16"])
def test_connectivity(make, data, name: str) -> None:
    path = make(name)
    run = PlainRun(path)
    near, far = int(run.steps[-1]), int(run.steps[0])
    found = ckptlab.open_run(path).analyze(
        "connectivity", other=f"@{far}", alphas=3, statistics="average"
    )
    for alpha in (0, 0.5, 1):
        wanted = oracles.connectivity(run, near, far, alpha, data["test_x"], data["test_y"])
        rtol = TOLERANCE.get(name, 1e-5)
        assert float(found["loss"].sel(alpha=alpha)) == pytest.approx(wanted, rel=rtol)


@pytest.mark.parametrize("name", ["dense", "masked", slow("branch"), slow("resnet"), "bf16"])
def test_full_gradients_and_the_top_subspace(make, data, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    x, y = train_part(data)
    keep, step, k = survivors(run), int(run.steps[-1]), 2
    network = Network(run, step, batch_statistics)
    gradient = network.gradient(x, y, BATCH)
    full = package.analyze("gradient-magnitude", full=True, steps=step, kinds="all", **SAMPLES)
    assert full["gradient_norm"].item() == pytest.approx(np.linalg.norm(gradient[keep]), rel=1e-4)
    values, vectors = oracles.hessian_spectrum(network, x, y, BATCH, keep, k)
    spectrum = package.analyze("hessian-spectrum", steps=step, eigenvalues=k, **SAMPLES)
    np.testing.assert_allclose(spectrum["eigenvalues"][0], values, rtol=1e-3)
    share, baseline = oracles.gradient_subspace(gradient[keep], vectors)
    found = package.analyze("gradient-subspace", steps=step, eigenvalues=k, **SAMPLES)
    assert found["gradient_share"].item() == pytest.approx(share, abs=2e-3)
    assert float(found["baseline"]) == pytest.approx(baseline)


@pytest.mark.parametrize("name", ["masked", slow("dense"), slow("branch")])
def test_curvature_against_the_whole_matrix(make, data, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    x, y = train_part(data)
    keep, step = survivors(run), int(run.steps[-1])
    network = Network(run, step, batch_statistics)
    options = {"steps": step, **SAMPLES}
    wanted = oracles.ggn_spectrum(network, x, BATCH, keep, 3)
    found = package.analyze("ggn-spectrum", eigenvalues=3, **options)
    np.testing.assert_allclose(found["eigenvalues"][0], wanted, rtol=1e-3)
    matrix = oracles.hessian(network, x, y, BATCH, keep)
    trace = package.analyze("hessian-trace", products=2000, **options)
    assert trace.item() == pytest.approx(oracles.hessian_trace(matrix), rel=1e-4)
    trace = package.analyze("hessian-trace", products=240, **options)
    assert trace.item() == pytest.approx(oracles.hessian_trace(matrix), rel=0.03)
    for products, tolerance in ((2000, 1e-4), (240, 0.05)):
        blocks = package.analyze("hessian-trace", products=products, by="tensor", **options)[:, 0]
        wanted = oracles.hessian_blocks(matrix, run.tensor[keep], len(blocks))
        scale = np.abs(wanted).sum()
        np.testing.assert_allclose(blocks, wanted, atol=tolerance * scale, rtol=0)
        whole = package.analyze("hessian-trace", products=products, **options)
        assert float(blocks.sum()) == pytest.approx(whole.item(), rel=1e-6)
        some = package.analyze("hessian-trace", products=products, kinds="bias", **options)
        biases = blocks.sel(tensor=[n for n in blocks["tensor"].values if n.endswith("bias")])
        assert some.item() == pytest.approx(float(biases.sum()), rel=1e-6)
    found = package.analyze("hessian-density", iterations=60, probes=8, **options)
    nodes, weights = found["node"].values[0], found["weight"].values[0]
    ends = np.linalg.eigvalsh(matrix)[[0, -1]]
    np.testing.assert_allclose([nodes.min(), nodes.max()], ends, rtol=1e-3)
    at = found["value"].values[0]
    cumulative = np.mean(
        [(w[:, None] * (n[:, None] <= at)).sum(0) for n, w in zip(nodes, weights, strict=True)], 0
    )
    # Between two nodes the quadrature knows no more than their weights.
    width = at[1] - at[0]
    low, high = (oracles.hessian_density(matrix, at + move * 4 * width) for move in (-1, 1))
    assert (cumulative > low - 0.05).all()
    assert (cumulative < high + 0.05).all()
    assert np.trapezoid(found["density"][0], at) == pytest.approx(1, abs=0.02)


def test_a_flat_loss_has_a_flat_spectrum(make) -> None:
    run = ckptlab.open_run(make("dense"))
    options = {"steps": 0, "loss": lambda outputs, _: 0 * outputs.sum(), **SAMPLES}
    found = run.analyze("hessian-density", **options)
    assert (found["node"] == 0).all()
    assert np.isfinite(found["density"]).all()
    assert run.analyze("hessian-trace", **options).item() == 0
    assert (run.analyze("ggn-spectrum", eigenvalues=2, **options)["eigenvalues"] == 0).all()


@pytest.mark.parametrize("name", [slow("dense"), "masked", slow("adamw")])
def test_fisher_trace(make, data, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    x, _ = train_part(data)
    step = int(run.steps[-1])
    wanted = oracles.fisher_trace(Network(run, step), x, survivors(run))
    options = {"steps": step, **SAMPLES}
    exact = package.analyze("fisher-trace", labels="exact", **options)
    assert exact.item() == pytest.approx(wanted, rel=1e-4)
    sampled = package.analyze("fisher-trace", draws=60, **options)
    assert sampled.item() == pytest.approx(wanted, rel=0.15)
    keep = survivors(run) & (np.arange(len(run.tensor)) % 3 > 0)
    masked = package.analyze("fisher-trace", labels="exact", mask=keep, **options)
    wanted = oracles.fisher_trace(Network(run, step), x, keep)
    assert masked.item() == pytest.approx(wanted, rel=1e-4)
