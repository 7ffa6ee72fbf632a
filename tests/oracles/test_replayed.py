"""Representations, landscapes and learning coefficients against plain float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ckptlab
from tests.oracles import replayed as oracles
from tests.oracles.networks import Network, batch_statistics
from tests.oracles.plain import PlainRun
from tests.oracles.test_networks import BATCH, COUNT, SAMPLES, survivors, train_part


@pytest.mark.parametrize("name", ["dense", "masked", "branch"])
def test_representation(make, data, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    x, _ = train_part(data)
    steps = run.steps[[0, 3, -1]]
    outputs = {s: oracles.mlp_outputs(run.state(int(s)), x) for s in (*steps, run.steps[2])}
    options = {"steps": ",".join(map(str, steps)), "samples": COUNT, "seed": 3}
    final = package.analyze("representation", **options)
    assert final["layer"].values.tolist() == ["fc1", "fc2", "fc"]
    before = package.analyze("representation", relative_to="previous", layers="fc?", **options)
    assert before["layer"].values.tolist() == ["fc1", "fc2"]
    assert np.isnan(before[:, 0]).all()
    for layer in ("fc1", "fc2", "fc"):
        for step in steps:
            wanted = oracles.representation(outputs[step][layer], outputs[steps[-1]][layer])
            found = final.sel(layer=layer, step=step).item()
            assert found == pytest.approx(wanted, abs=1e-5)
        if layer != "fc":
            wanted = oracles.representation(outputs[steps[1]][layer], outputs[run.steps[2]][layer])
            assert before.sel(layer=layer, step=steps[1]).item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("name", ["dense", "masked", "resnet"])
def test_landscape(make, data, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    x, y = train_part(data)
    network = Network(run, int(run.steps[-1]), batch_statistics)
    options = {"grid": 3, "samples": COUNT, "seed": 3, "batch_size": BATCH}
    found = package.analyze("landscape", **options)
    directions, places = oracles.landscape(run.weights)
    sign = np.sign(places[0]) * np.sign([found["path_x"][0], found["path_y"][0]])
    at = np.stack([found["path_x"], found["path_y"]], axis=1)
    close = {"atol": 1e-4 * np.abs(places).max()}
    np.testing.assert_allclose(at, places * sign, **close)
    for i in range(3):
        for j in range(3):
            point = np.array([found["x"].values[j], found["y"].values[i]]) * sign
            vector = network.at + torch.from_numpy(directions @ point)
            wanted = float(network.loss(vector, x, y, BATCH))
            assert found["loss"][i, j].item() == pytest.approx(wanted, rel=1e-4)
    line = package.analyze(
        "landscape", through="init,final" if name != "masked" else "0,12", **options
    )
    ends = run.weights[:, 0], run.weights[:, -1]
    length = np.linalg.norm(ends[1] - ends[0])
    np.testing.assert_allclose(line["path_x"][[0, -1]], [0, length], atol=1e-5 * length)
    middle = float(network.loss(torch.from_numpy((ends[0] + ends[1]) / 2), x, y, BATCH))
    # The grid is even about the middle where the path stays between its ends.
    if line["path_x"].max() <= length * (1 + 1e-9) and line["path_x"].min() >= -1e-9 * length:
        assert line["loss"][1].item() == pytest.approx(middle, rel=1e-4)


@pytest.mark.parametrize("name", ["dense", "masked", "resnet"])
def test_learning_coefficient(make, data, name: str) -> None:
    path = make(name)
    run, package = PlainRun(path), ckptlab.open_run(path)
    x, y = train_part(data)
    step, settings = int(run.steps[-1]), {"step_size": 1e-5, "localization": 50.0}
    found = package.analyze(
        "learning-coefficient", steps=step, chains=2, burn_in=5, length=20, **settings, **SAMPLES
    )
    batches = [(x[a : a + BATCH], y[a : a + BATCH]) for a in range(0, COUNT, BATCH)]
    network = Network(run, step, batch_statistics)
    for chain in range(2):
        seed = int(np.random.SeedSequence([3, step, chain]).generate_state(1)[0])
        wanted = oracles.learning_coefficient(
            network, batches, survivors(run), seed, 5, 20, **settings
        )
        assert found["by_chain"][0, chain].item() == pytest.approx(wanted, rel=1e-2)
