"""Permutations are found again, leave functions the same, and are the best there are."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import ckptlab
from ckptlab.analyze.model.symmetries import symmetries
from ckptlab.analyze.model.weight_matching import Symmetry
from ckptlab.errors import ConfigError
from ckptlab.plugins import load_plugin
from ckptlab.record.state.model_tensors import capture
from ckptlab.train.models.build import build_model, build_network
from ckptlab.train.models.registry import ModelConfig
from tests.train.tasks.samples import SHAPE
from tests.trained import points, record_own, seeded

NETWORKS = {
    "mlp": ModelConfig(name="mlp", width=12),
    "lenet": ModelConfig(name="lenet"),
    "resnet8": ModelConfig(name="resnet8", width=8),
    "vgg11": ModelConfig(name="vgg11", width=4),
    "wrn-10-1": ModelConfig(name="wrn-10-1"),
    "resnet18": ModelConfig(name="resnet18"),
}


def vectors_of(model: nn.Module) -> dict[str, np.ndarray]:
    live = capture(model)
    parts = {"weights": live.parameters, **live.buffers}
    return {
        name: torch.cat([t.detach().reshape(-1) for t in tensors]).numpy()
        for name, tensors in parts.items()
    }


def loaded(model: nn.Module, vectors: dict[str, np.ndarray]) -> nn.Module:
    live = capture(model)
    with torch.no_grad():
        for name, tensors in {"weights": live.parameters, **live.buffers}.items():
            offset = 0
            for tensor in tensors:
                part = vectors[name][offset : offset + tensor.numel()]
                tensor.copy_(torch.from_numpy(part.copy()).view(tensor.shape))
                offset += tensor.numel()
    return model


def drawn(symmetry: Symmetry, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.permutation(units) for name, units in symmetry.units.items()}


def is_recovered(model: nn.Module, symmetry: Symmetry, x: torch.Tensor) -> None:
    one = vectors_of(model)
    other = symmetry.apply(one, drawn(symmetry, 1))
    assert any((one[name] != other[name]).any() for name in one)
    with torch.no_grad():
        wanted = model.eval()(x)
        found = loaded(model, other).eval()(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    again = symmetry.apply(other, symmetry.match(one, other))
    for name in one:
        np.testing.assert_array_equal(again[name], one[name])


@pytest.mark.parametrize("name", NETWORKS)
def test_shuffled_units_of_built_in_networks_are_found_again(name: str) -> None:
    model = build_model(partial(build_network, NETWORKS[name], SHAPE), 3)
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.ndim:
                buffer.uniform_(0.5, 1.5)
    symmetry = Symmetry(symmetries(model), capture(model).layout)
    assert sum(symmetry.units.values()) > 10
    is_recovered(model, symmetry, torch.randn(3, 1, 8, 8))


def test_declared_permutations_of_a_transformer() -> None:
    example = load_plugin(__file__.rpartition("/tests/")[0] + "/examples/transformer.py")
    problem = example.transformer(width=8, layers=2, context=6, windows=20)
    model = seeded(problem.model)
    symmetry = Symmetry(problem.permutations, capture(model).layout)
    assert symmetry.units == {"stream": 8, "heads0": 2, "hidden0": 32, "heads1": 2, "hidden1": 32}
    is_recovered(model, symmetry, problem.train.take(np.arange(4)).inputs)


def test_it_is_the_best_of_all_permutations_of_one_hidden_layer() -> None:
    for seed in range(5):
        nets = [
            seeded(lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), seed + k)
            for k in (0, 100)
        ]
        one, other = (vectors_of(net) for net in nets)
        symmetry = Symmetry(symmetries(nets[0]), capture(nets[0]).layout)
        best = min(
            np.linalg.norm(
                one["weights"] - symmetry.apply(other, {"0": np.array(order)})["weights"]
            )
            for order in itertools.permutations(range(5))
        )
        found = symmetry.apply(other, symmetry.match(one, other))
        assert np.linalg.norm(one["weights"] - found["weights"]) == pytest.approx(best)


def test_weight_matching_as_in_the_paper() -> None:
    """Against algorithm 1 written out for two hidden layers, from every order of its turns."""
    make = partial(
        lambda: nn.Sequential(
            nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)
        )
    )
    from scipy.optimize import linear_sum_assignment

    nets = [seeded(make, seed) for seed in (0, 1)]
    a, b = ({n: p.detach().double().numpy() for n, p in net.named_parameters()} for net in nets)
    ends = []
    for turns in ((0, 1), (1, 0)):
        p, q = np.eye(6), np.eye(7)
        for _ in range(50):
            for turn in turns:
                if turn == 0:
                    gain = a["0.weight"] @ b["0.weight"].T + np.outer(a["0.bias"], b["0.bias"])
                    gain = gain + a["2.weight"].T @ q @ b["2.weight"]
                    p = np.eye(6)[linear_sum_assignment(gain, maximize=True)[1]]
                else:
                    gain = a["2.weight"] @ p @ b["2.weight"].T + np.outer(a["2.bias"], b["2.bias"])
                    gain = gain + a["4.weight"].T @ b["4.weight"]
                    q = np.eye(7)[linear_sum_assignment(gain, maximize=True)[1]]
        ends.append((p.argmax(1).tolist(), q.argmax(1).tolist()))
    symmetry = Symmetry(symmetries(nets[0]), capture(nets[0]).layout)
    found = symmetry.match(*map(vectors_of, nets))
    assert (found["0"].tolist(), found["2"].tolist()) in ends


def test_a_barrier_of_shuffled_units_goes_away(tmp_path) -> None:
    def make() -> nn.Module:
        return seeded(lambda: nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3)))

    x, y = points()
    run = ckptlab.open_run(record_own(tmp_path / "a.zarr", make(), x, y, steps=30))
    symmetry = Symmetry(symmetries(make()), run.layout)
    moved = symmetry.apply({"weights": run.snapshot(30)}, drawn(symmetry, 2))
    other = loaded(make(), moved)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with ckptlab.Recorder(tmp_path / "b.zarr", other, optimizer) as recorder:
        recorder.evaluate(loss=0.0, accuracy=0.0)
    given = {"model": make(), "data": (x, y), "other": str(tmp_path / "b.zarr"), "alphas": 5}
    apart = run.analyze("connectivity", **given)
    near = run.analyze("connectivity", align="weights", **given)
    assert float(apart["loss_barrier"]) > 0.02
    assert float(near["loss_barrier"]) == pytest.approx(0, abs=1e-6)
    assert near.attrs["units_moved"] > 5
    declared = {"0.weight": ("h", None), "0.bias": ("h",), "2.weight": (None, "h")}
    same = run.analyze("connectivity", align="weights", permutations=declared, **given)
    np.testing.assert_array_equal(same["loss"], near["loss"])


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"0.wight": ("h", None)}, "no tensor of that name"),
        ({"0.weight": ("h",)}, r"has 1 axes, the network has the shape \(5, 3\)"),
        ({"0.weight": ("h", "h")}, "has 3 units, axis 0.*5 entries"),
    ],
)
def test_permutations_that_do_not_fit(axes: dict, said: str) -> None:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(ConfigError, match=said):
        Symmetry(axes, capture(model).layout)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)),
        nn.Sequential(nn.Conv1d(3, 4, 2), nn.ReLU()),
        nn.LSTM(3, 4),
    ],
)
def test_networks_of_unknown_parts_ask_for_a_declaration(model: nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"Problem\(permutations="):
        symmetries(model)
