"""Metrics of weights and recorded gradients against plain sums over whole matrices."""

from __future__ import annotations

import numpy as np
import pytest

import ckptlab
from tests.oracles import weights as oracles
from tests.oracles.plain import ORACLES, PlainRun

RUNS = ("dense", "nesterov", "adamw", "masked", "branch", "bf16")
COMPARED = {
    "weight-distance": "init",
    "weight-change": "previous",
    "relative-change": "previous",
    "weight-magnitude": "init",
    "sign-flips": "previous",
    "cosine": "init",
    "effective-std": "init",
    "unchanged": "previous",
}
SPECTRA = ("spectral-norm", "stable-rank", "effective-rank", "condition")


def half(run: PlainRun) -> np.ndarray:
    return np.random.default_rng(8).random(len(run.tensor)) < 0.5


def reference(make, name: str, run: PlainRun, to: str) -> np.ndarray:
    if to == "previous":
        return oracles.with_previous(run.weights)
    if to == "init":
        # A branch shares its step 0 with the run that it left.
        return (PlainRun(make("dense")) if name == "branch" else run).weights[:, [0]]
    return run.weights[:, [-1]] if to == "final" else run.weights[:, [run.column(int(to))]]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("metric", COMPARED)
def test_compared_with_a_snapshot(make, name: str, metric: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    references = {COMPARED[metric]}
    if metric not in ("weight-change", "weight-magnitude"):
        references |= {"init", "final", "previous", str(run.steps[2])}
    for to in sorted(references):
        option = {"relative_to": to} if len(references) > 1 else {}
        against = np.broadcast_to(reference(make, name, run, to), run.weights.shape)
        for mask in (None, half(run)):
            chosen = run.selected if mask is None else run.selected & mask
            wanted = ORACLES["metric", metric].function(run.weights[chosen], against[chosen])
            found = package.analyze(metric, mask=mask, **option)
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
        by_tensor = package.analyze(metric, by="tensor", kinds="all", **option)
        for number, tensor in enumerate(run.tensors):
            own = (run.tensor == number) & run.kept
            wanted = ORACLES["metric", metric].function(run.weights[own], against[own])
            found = by_tensor.sel(tensor=tensor["name"])
            defined = np.isfinite(wanted)
            np.testing.assert_allclose(found[defined], wanted[defined], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_zeros_and_the_shape_of_the_distribution(make, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    for mask in (None, half(run)):
        chosen = run.matrices if mask is None else run.matrices & mask
        # A pruned weight is a zero that is stored.
        np.testing.assert_allclose(
            package.analyze("sparsity", mask=mask), oracles.sparsity(run.weights[chosen])
        )
        wanted = oracles.kurtosis(run.weights[chosen & run.kept])
        np.testing.assert_allclose(package.analyze("kurtosis", mask=mask), wanted, rtol=1e-6)
    layers = package.analyze("kurtosis", by="tensor", kinds="all")
    for number, tensor in enumerate(run.tensors):
        own = run.weights[(run.tensor == number) & run.kept]
        same = np.ptp(own, axis=0) == 0
        found = layers.sel(tensor=tensor["name"]).values
        assert np.isnan(found[same]).all()
        np.testing.assert_allclose(found[~same], oracles.kurtosis(own[:, ~same]), rtol=1e-6)


@pytest.mark.parametrize("name", ["dense", "masked", "branch", "resnet"])
def test_spectra(make, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    found = {metric: package.analyze(metric) for metric in SPECTRA}
    tails = package.analyze("heavy-tail")
    for number, tensor in enumerate(run.tensors):
        if len(tensor["shape"]) < 2:
            assert tensor["name"] not in tails["tensor"]
            continue
        for k in range(0, len(run.steps), 5):
            matrix = run.weights[run.tensor == number, k].reshape(tensor["shape"])
            at = {"tensor": tensor["name"], "step": run.steps[k]}
            for metric in SPECTRA:
                wanted = ORACLES["metric", metric].function(matrix)
                assert float(found[metric].sel(at)) == pytest.approx(wanted, rel=1e-5), metric
            row = tails.sel(at)
            wanted = oracles.heavy_tail(matrix)
            one = [float(row[key]) for key in ("alpha", "distance", "tail_size")]
            np.testing.assert_allclose(one, wanted, rtol=1e-5)


def test_what_a_mask_prunes_is_zero_in_a_matrix(make) -> None:
    path = make("dense")
    run, mask = PlainRun(path), half(PlainRun(path))
    found = ckptlab.open_run(path).analyze("stable-rank", mask=mask, steps="12")
    rows = run.tensor == 0
    matrix = np.where(mask, run.weights[:, -1], 0)[rows].reshape(run.tensors[0]["shape"])
    assert float(found[0, 0]) == pytest.approx(oracles.stable_rank(matrix), rel=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_alignment(make, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    gradients = run["gradients"].astype(np.float64)
    lags = min(4, len(run.steps) - 2)
    wanted = oracles.alignment(run.weights[run.selected], gradients[run.selected], run.steps, lags)
    found = package.analyze("alignment", lags=4)
    for variable, values in wanted.items():
        np.testing.assert_allclose(found[variable], values, atol=1e-6)
    some = package.analyze("alignment", lags=4, steps=f"{run.steps[3]}:", by="tensor")
    for number, tensor in enumerate(run.tensors):
        own = (run.tensor == number) & run.selected
        if own.any():
            one = oracles.alignment(run.weights[own], gradients[own], run.steps, lags)
            np.testing.assert_allclose(
                some["update_cosine"].sel(tensor=tensor["name"]),
                one["update_cosine"][3:],
                atol=1e-6,
            )


@pytest.mark.parametrize("name", RUNS)
def test_gradients(make, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    gradients = run["gradients"].astype(np.float64)
    for mask in (None, half(run)):
        chosen = run.selected if mask is None else run.selected & mask
        norm, mean = oracles.gradient_magnitude(gradients[chosen])
        found = package.analyze("gradient-magnitude", mask=mask)
        np.testing.assert_allclose(found["gradient_norm"], norm, rtol=1e-5)
        np.testing.assert_allclose(found["gradient_mean_abs"], mean, rtol=1e-5)


def test_gradient_noise(make) -> None:
    path = make("dense")
    run = PlainRun(path)
    # Ten batches of 128: the eleventh and the short last one of the epoch are left out.
    signal, variance = oracles.gradient_noise(
        run["gradients"].astype(np.float64)[run.selected, 1:11], 5
    )
    found = ckptlab.open_run(path).analyze("gradient-noise", window=5, steps="0:11")
    np.testing.assert_allclose(found["gradient_signal"], signal, rtol=1e-5)
    np.testing.assert_allclose(found["gradient_variance"], variance, rtol=1e-5)
    wanted = np.where(signal > 0, variance / np.where(signal > 0, signal, 1), np.nan)
    np.testing.assert_allclose(found["gradient_noise_scale"].values[signal > 0], wanted[signal > 0])


@pytest.mark.parametrize("name", RUNS)
def test_paths(make, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    found = package.analyze("trajectories", count=7)
    chosen = found["param"].values
    assert run.selected[chosen].all()
    np.testing.assert_array_equal(found, oracles.trajectories(run.weights, chosen))
    shares, projection, cosine = oracles.subspace(run.weights[run.selected], 3)
    found = package.analyze("subspace", components=3)
    np.testing.assert_allclose(found["explained_variance"], shares, atol=1e-6)
    close = {"atol": 1e-5 * np.abs(projection).max()}
    np.testing.assert_allclose(found["projection"], projection, **close)
    np.testing.assert_allclose(found["cosine"], cosine, atol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_telemetry(make, name: str) -> None:
    path = make(name)
    run = PlainRun(path)
    ends = [
        np.broadcast_to(reference(make, name, run, to), run.weights.shape)[run.selected]
        for to in ("init", "final")
    ]
    wanted = oracles.telemetry(run.weights[run.selected], *ends)
    found = ckptlab.open_run(path).analyze("telemetry")
    for variable, values in wanted.items():
        np.testing.assert_allclose(found[variable], values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["dense", "adamw"])
def test_timeline(make, name: str) -> None:
    path = make(name)
    run = PlainRun(path)
    found = ckptlab.open_run(path).analyze("timeline")
    assert found.sizes["phase"] == 2
    for phase in found["phase"].values:
        row = found.sel(phase=phase)
        ends = int(row["start"]), int(row["stop"])
        wanted = oracles.timeline(run.weights[run.selected], run.steps, *ends)
        for figure, value in wanted.items():
            assert float(row[figure]) == pytest.approx(value, rel=1e-5)
