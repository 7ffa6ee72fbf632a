"""Nineteen kinds of training loop, each bit-exact against an independent copy of the parameters.

Those that other libraries run (Trainer of transformers, of Lightning) are in tests/callbacks.
"""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.record.loops import record, vector

LOOPS = {}


def loop(function):
    LOOPS[function.__name__.replace("_", " ")] = function
    return function


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 1))


def batch(step, size=8):
    x = torch.randn(size, 3, generator=torch.Generator().manual_seed(step))
    return x, x.sum(1, keepdim=True)


def loss_of(model, step):
    x, y = batch(step)
    return (model(x) - y).square().mean()


def descend(model, optimizer, step):
    optimizer.zero_grad()
    loss = loss_of(model, step)
    loss.backward()
    optimizer.step()
    return loss


@loop
def plain(train):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    train(model, optimizer, lambda k: descend(model, optimizer, k))


@loop
def gan(train):
    nets = nn.ModuleDict({"g": nn.Linear(3, 3), "d": nn.Linear(3, 1)})
    g, d = (torch.optim.Adam(nets[name].parameters(), lr=0.1) for name in "gd")

    def update(k):
        fake = nets["g"](batch(k)[0])
        for _ in range(2):
            d.zero_grad()
            (nets["d"](fake.detach()).mean() - nets["d"](batch(k)[0]).mean()).backward()
            d.step()
        g.zero_grad()
        (-nets["d"](fake).mean()).backward()
        g.step()

    train(nets, {"g": g, "d": d}, update)


@loop
def accumulation(train):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)

    def update(k):
        optimizer.zero_grad()
        for micro in range(3):
            (loss_of(model, 3 * k + micro) / 3).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()

    train(model, optimizer, update)


@loop
def lbfgs(train):
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)

    def update(k):
        def closure():
            optimizer.zero_grad()
            loss = loss_of(model, k)
            loss.backward()
            return loss

        optimizer.step(closure)

    train(model, optimizer, update)


@loop
def lora(train):
    import peft

    config = peft.LoraConfig(r=2, target_modules=["0", "3"])
    model = peft.get_peft_model(net(), config)
    own = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(own, lr=0.1)
    train(model, optimizer, lambda k: descend(model, optimizer, k))


@loop
def ema(train):
    model = net()
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), use_buffers=True
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def update(k):
        descend(model, optimizer, k)
        average.update_parameters(model)

    # What is recorded is the average, which no optimizer knows.
    train(average, None, update)


@loop
def weight_norm(train):
    model = net()
    parametrizations.weight_norm(model[0])
    parametrizations.spectral_norm(model[3])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, optimizer, lambda k: descend(model, optimizer, k))


@loop
def compiled_submodule(train):
    model = net()
    model[0] = torch.compile(model[0], backend="eager")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    train(model, optimizer, lambda k: descend(model, optimizer, k))


@loop
def amp_with_a_scaler(train):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def update(k):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, k) * (torch.inf if k == 2 else 1)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    train(model, optimizer, update)


@loop
def low_precision(train):
    model = net().bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def update(k):
        optimizer.zero_grad()
        model(batch(k)[0].bfloat16()).square().mean().backward()
        optimizer.step()

    train(model, optimizer, update)


@loop
def accelerate(train):
    import accelerate as library

    accelerator = library.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)

    def update(k):
        for micro in range(2):
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, 2 * k + micro))
                optimizer.step()
                optimizer.zero_grad()

    train(model, optimizer, update)


@loop
def distributed_data_parallel(train, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(net())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        train(model, optimizer, lambda k: descend(model, optimizer, k))
    finally:
        torch.distributed.destroy_process_group()


@loop
def gradual_unfreezing(train):
    model = net()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)

    def update(k):
        model[0].requires_grad_(k >= 3)
        descend(model, optimizer, k)

    train(model, optimizer, update)


@loop
def sparse_gradients(train):
    torch.manual_seed(0)
    model = nn.EmbeddingBag(20, 3, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.1)

    def update(k):
        optimizer.zero_grad()
        tokens = torch.randint(0, 20, (4, 2), generator=torch.Generator().manual_seed(k))
        model(tokens).square().sum().backward()
        optimizer.step()

    train(model, optimizer, update)


@loop
def sharpness_aware(train):
    """Weights are moved, gradients taken there, weights put back: one update."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def update(k):
        optimizer.zero_grad()
        loss_of(model, k).backward()
        before = deepcopy(model.state_dict())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(parameter.grad, alpha=0.05)
        optimizer.zero_grad()
        loss_of(model, k).backward()
        model.load_state_dict(before)
        optimizer.step()

    train(model, optimizer, update)


@loop
def by_hand(train):
    model = net()

    def update(k):
        loss_of(model, k).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad

    def after():
        model.zero_grad()

    train(model, None, update, after=after)


@loop
def masked(train):
    model = net()
    mask = torch.rand(4, 3, generator=torch.Generator().manual_seed(1)) < 0.5
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def update(k):
        descend(model, optimizer, k)
        with torch.no_grad():
            model[0].weight.mul_(mask)

    train(model, optimizer, update)


@loop
def optimizer_in_backward(train):
    """Every parameter has an optimizer of its own, which steps while gradients still come."""
    model = net()
    own = {str(i): torch.optim.Adam([p], lr=0.1) for i, p in enumerate(model.parameters())}

    def hook(optimizer):
        def step(_):
            optimizer.step()
            optimizer.zero_grad()

        return step

    for parameter, optimizer in zip(model.parameters(), own.values(), strict=True):
        parameter.register_post_accumulate_grad_hook(hook(optimizer))
    train(model, own, lambda k: loss_of(model, k).backward())


@loop
def recurrent(train):
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.GRU(3, 4, batch_first=True), "head": nn.Linear(4, 1)})
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.01)
    state = torch.zeros(1, 2, 4)

    def update(k):
        nonlocal state
        optimizer.zero_grad()
        out, state = model["rnn"](batch(k, 10)[0].view(2, 5, 3), state.detach())
        model["head"](out).square().mean().backward()
        optimizer.step()

    train(model, optimizer, update)


@pytest.mark.filterwarnings("ignore:no gradient was there")
@pytest.mark.parametrize("name", LOOPS)
def test_every_loop_is_recorded_bit_by_bit(tmp_path, name):
    seen = []

    def train(model, optimizer, update, *, after=lambda: None):
        with record(tmp_path / "run.zarr", model, optimizer) as recorder:
            seen.append(vector(model))
            for step in range(6):
                update(step)
                seen.append(vector(model))
                recorder.step()
                after()

    arguments = (train, tmp_path) if name == "distributed data parallel" else (train,)
    LOOPS[name](*arguments)
    stored = open_store(tmp_path / "run.zarr")
    assert stored.steps.tolist() == list(range(7))
    for step, expected in enumerate(seen):
        assert np.array_equal(stored.snapshot(step), expected), step
    assert not np.array_equal(seen[0], seen[-1])
    assert not any("_orig_mod" in tensor for tensor in stored.layout.names)
    assert verify(tmp_path / "run.zarr", deep=True).ok


def test_there_are_nineteen():
    assert len(LOOPS) == 19
