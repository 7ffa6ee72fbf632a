import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ckptlab.errors import CorruptError, LayoutError, UnsupportedTensorError
from ckptlab.record.state.model_tensors import capture
from ckptlab.record.state.optimizer import copy_state, read_row, restore_state
from ckptlab.record.state.packing import pack, unpack
from ckptlab.store.read.optimizer_state import present_states
from tests.record.loops import Everything, everything, same_state, small, update

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "sgd without state": (torch.optim.SGD, {"lr": 0.1}),
    "adam": (torch.optim.Adam, {"lr": 1e-3, "amsgrad": True}),
    "adamw with a tensor": (torch.optim.AdamW, {"lr": torch.tensor(1e-3)}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 1e-3, "centered": True, "momentum": 0.5}),
    "adagrad": (torch.optim.Adagrad, {"lr": 1e-2}),
    "adadelta": (torch.optim.Adadelta, {}),
    "adafactor": (torch.optim.Adafactor, {}),
    "asgd": (torch.optim.ASGD, {}),
    "nadam": (torch.optim.NAdam, {}),
    "rprop": (torch.optim.Rprop, {}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_comes_back_bit_by_bit(name):
    kind, options = OPTIMIZERS[name]
    model, optimizer = everything(kind, **options)
    for step in range(3):
        update(model, optimizer, step)
    anchor = copy_state(optimizer, capture(model), 3).to_anchor()

    other, restored = everything(kind, **options)
    other.load_state_dict(model.state_dict())
    restore_state(restored, capture(other), anchor)
    assert same_state(restored.state_dict(), optimizer.state_dict())
    for step in range(3, 6):
        update(model, optimizer, step)
        update(other, restored, step)
    assert same_state(other.state_dict(), model.state_dict())


def test_states_are_vectors_over_the_parameters_absent_ones_nan():
    model, optimizer = everything()
    update(model, optimizer, 0)
    captured = capture(model)
    anchor = copy_state(optimizer, captured, 1).to_anchor()
    assert set(anchor.states) == {"exp_avg", "exp_avg_sq"}
    assert present_states(anchor.row) == tuple(anchor.states)
    for tensor in captured.layout.tensors:
        stretch = anchor.states["exp_avg"][tensor.offset : tensor.offset + tensor.size]
        parameter = dict(model.named_parameters())[tensor.name]
        if tensor.shape == () or not tensor.trainable:
            assert np.isnan(stretch).all()
        else:
            expected = optimizer.state[parameter]["exp_avg"].float().reshape(-1).numpy()
            assert np.array_equal(stretch, expected)


def test_the_copy_shares_nothing_with_the_optimizer():
    model, optimizer = everything()
    update(model, optimizer, 0)
    state = copy_state(optimizer, capture(model), 1)
    before = state.to_anchor()
    update(model, optimizer, 1)
    after = state.to_anchor()
    assert before.row == after.row
    assert all(
        np.array_equal(before.states[k], after.states[k], equal_nan=True) for k in before.states
    )


def test_lists_of_tensors_come_back():
    def build():
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        return model, torch.optim.LBFGS(model.parameters(), max_iter=3)

    def step(model, optimizer, number):
        x = torch.randn(20, 5, generator=torch.Generator().manual_seed(number))

        def closure():
            optimizer.zero_grad()
            loss = (model(x) - x[:, :3]).abs().mean()
            loss.backward()
            return loss

        optimizer.step(closure)

    model, optimizer = build()
    for number in range(4):
        step(model, optimizer, number)
    anchor = copy_state(optimizer, capture(model), 4).to_anchor()
    other, restored = build()
    other.load_state_dict(model.state_dict())
    restore_state(restored, capture(other), anchor)
    assert same_state(restored.state_dict(), optimizer.state_dict())
    step(model, optimizer, 4)
    step(other, restored, 4)
    assert same_state(other.state_dict(), model.state_dict())


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(plain)
def test_any_plain_state_survives_json(value):
    tensors: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(pack({"tensor": value}, "s", tensors)))
    assert unpack(packed, tensors) == {"tensor": value}


class Naming(torch.optim.SGD):
    """Gives its states names that are no names of folders."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["../escape"] = parameter.detach().clone()
                state["state"] = parameter.detach() * 2
                state["dotted.name"] = parameter.detach() * 3
                state["a/b"] = torch.ones(3)


def test_states_of_any_name_come_back_and_none_becomes_a_path():
    model, optimizer = everything(Naming, lr=0.1, momentum=0.9)
    update(model, optimizer, 0)
    anchor = copy_state(optimizer, capture(model), 1).to_anchor()
    assert set(anchor.states) == {"momentum_buffer"}
    other, restored = everything(Naming, lr=0.1, momentum=0.9)
    restore_state(restored, capture(other), anchor)
    assert same_state(restored.state_dict(), optimizer.state_dict())


def test_what_cannot_be_stored_is_named():
    model, optimizer = everything()
    update(model, optimizer, 0)
    next(iter(optimizer.state.values()))["secret"] = object()
    with pytest.raises(UnsupportedTensorError, match=r"secret' is of type object"):
        copy_state(optimizer, capture(model), 1)


def test_an_optimizer_over_other_parameters_is_refused():
    model, optimizer = everything()
    update(model, optimizer, 0)
    captured = capture(model)
    anchor = copy_state(optimizer, captured, 1).to_anchor()
    groups = torch.optim.AdamW([{"params": [p]} for p in list(model.parameters())[:2]])
    with pytest.raises(LayoutError, match="2 parameter groups, the recording 1"):
        restore_state(groups, captured, anchor)
    stranger = torch.optim.AdamW(nn.Linear(2, 2).parameters())
    with pytest.raises(LayoutError, match="not recorded"):
        restore_state(stranger, captured, anchor)


def test_no_optimizer_is_an_empty_state():
    model = Everything()
    anchor = copy_state(None, capture(model), 5).to_anchor()
    assert (anchor.step, anchor.states) == (5, {})
    assert present_states(anchor.row) == ()
    restore_state(None, capture(model), anchor)
    other, optimizer = everything()
    restore_state(optimizer, capture(other), anchor)
    assert optimizer.state_dict()["state"] == {}


def test_settings_that_changed_on_the_way_come_back():
    model, optimizer = everything()
    update(model, optimizer, 0)
    optimizer.param_groups[0]["lr"] = 0.123
    anchor = copy_state(optimizer, capture(model), 1).to_anchor()
    other, restored = everything()
    restore_state(restored, capture(other), anchor)
    assert restored.param_groups[0]["lr"] == 0.123
    assert restored.param_groups[0]["betas"] == (0.9, 0.999)


@pytest.mark.parametrize("row", [b"xyz", b"\xff" * 100, (2).to_bytes(8, "little") + b"[]"])
def test_a_row_of_something_else_is_damage(row):
    with pytest.raises(CorruptError, match="safetensors"):
        read_row(row)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_states_copied_on_another_stream_are_whole_in_another_thread():
    model, optimizer = small()
    model.cuda()
    captured = capture(model)
    x = torch.randn(8, 3, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(500_000_000)  # some tenths of a second, in which nothing is ready
        model(x).square().mean().backward()
        optimizer.step()
        state = copy_state(optimizer, captured, 1)
    with ThreadPoolExecutor(1) as pool:
        anchor = pool.submit(state.to_anchor).result()
    torch.cuda.synchronize()
    found = anchor.states["momentum_buffer"]
    for tensor, parameter in zip(captured.layout.tensors, captured.parameters, strict=True):
        expected = optimizer.state[parameter]["momentum_buffer"].cpu().numpy().reshape(-1)
        assert np.array_equal(found[tensor.offset : tensor.offset + tensor.size], expected)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_how_an_optimizer_computes_is_up_to_the_process_that_restores_it(kind):
    """A branch on a GPU from a run on a CPU must not become one that a graph cannot hold."""
    model, plain = everything(kind, lr=0.1, foreach=True)
    update(model, plain, 0)
    anchor = copy_state(plain, capture(model), 1).to_anchor()
    other, fused = everything(kind, lr=torch.tensor(0.1), fused=True)
    restore_state(fused, capture(other), anchor)
    for group in fused.param_groups:
        assert group["fused"] is True
        assert not group["foreach"]
    update(other, fused, 1)


def test_a_state_lies_in_memory_as_its_parameter_does():
    """Which fused optimizers ask for; the bits do not tell how they lay when they were stored."""

    def convolution(memory_format):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3).to(memory_format=memory_format)
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    model, optimizer = convolution(torch.contiguous_format)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    anchor = copy_state(optimizer, capture(model), 1).to_anchor()
    other, restored = convolution(torch.channels_last)
    restore_state(restored, capture(other), anchor)
    found = restored.state[other.weight]["momentum_buffer"]
    assert found.stride() == other.weight.stride()
    assert torch.equal(found, optimizer.state[model.weight]["momentum_buffer"])
