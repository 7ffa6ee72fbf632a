from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import ckptlab
from ckptlab.errors import MissingStepError, StepError, UnknownNameError


class Tied(nn.Module):
    """Embedding tied to the output, batch norm, a frozen layer, a bf16 layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.frozen = nn.Linear(8, 8).requires_grad_(requires_grad=False)
        self.norm = nn.BatchNorm1d(8)
        self.low = nn.Linear(8, 8).to(torch.bfloat16)
        self.out = nn.Linear(8, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norm(self.frozen(self.embed(x)))
        return self.out(self.low(z.to(torch.bfloat16)).float())


@pytest.fixture(scope="module")
def recorded(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[dict[str, torch.Tensor]]]:
    path = tmp_path_factory.mktemp("run") / "own.zarr"
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    states = [{k: v.clone() for k, v in model.state_dict().items()}]
    with ckptlab.Recorder(path, model, optimizer) as recorder:
        for step in range(40):
            x = torch.randint(0, 20, (16,), generator=torch.Generator().manual_seed(step))
            loss = nn.functional.cross_entropy(model(x), x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recorder.step(loss=loss)
            states.append({k: v.clone() for k, v in model.state_dict().items()})
    return path, states


def test_state_dict_is_exact_at_every_step(recorded) -> None:
    path, states = recorded
    run = ckptlab.open_run(path)
    for step in (0, 1, 17, 31, 32, 40):
        state = run.state_dict(step)
        assert sorted(state) == sorted(states[step])
        for name, value in states[step].items():
            assert state[name].dtype == value.dtype
            assert torch.equal(state[name], value), name
        assert state["out.weight"] is state["embed.weight"]
        Tied().load_state_dict(state)


def test_item_is_the_lazy_history_of_one_tensor(recorded) -> None:
    path, states = recorded
    run = ckptlab.open_run(path)
    history = run["low.weight"]
    assert history.dims == ("step", "out", "in")
    assert history.chunks is not None
    expected = np.stack([s["low.weight"].float().numpy() for s in states])
    np.testing.assert_array_equal(history.values, expected)
    np.testing.assert_array_equal(run["out.weight"].values, run["embed.weight"].values)
    counted = run["norm.num_batches_tracked"]
    assert counted.dims == ("step",)
    assert counted.values.tolist() == list(range(41))


def test_unknown_names_and_steps_suggest_the_nearest(recorded) -> None:
    run = ckptlab.open_run(recorded[0])
    with pytest.raises(UnknownNameError, match=r"low\.weight"):
        run["low.weights"]
    with pytest.raises(MissingStepError, match="step=40"):
        run.state_dict(41)


def test_opens_a_zarr_store(recorded) -> None:
    from zarr.storage import LocalStore

    run = ckptlab.open_run(LocalStore(recorded[0], read_only=True))
    assert run.layout == ckptlab.open_run(recorded[0]).layout


def test_accessor_equals_the_method(recorded) -> None:
    path, _ = recorded
    run = ckptlab.open_run(path)
    options = {"by": "tensor", "kinds": "all"}
    expected = run.analyze("sign-flips", **options)
    xr.testing.assert_identical(run.dataset.ckpt.sign_flips(**options), expected)
    opened = xr.open_zarr(path)
    xr.testing.assert_allclose(opened.ckpt.analyze("sign-flips", **options), expected)


def test_init_and_final_name_steps(recorded) -> None:
    run = ckptlab.open_run(recorded[0])
    np.testing.assert_array_equal(run.snapshot("init"), run.snapshot(0))
    last = int(run.steps[-1])
    for name, value in run.state_dict("final").items():
        assert torch.equal(value, run.state_dict(last)[name])
    with pytest.raises(StepError, match=r"step='last' .* accepted: a number, 'init', 'final'"):
        run.snapshot("last")
