"""Training loops as people write them, and what should have been recorded of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ckptlab.record.pipeline.buffers import bytes_per_step
from ckptlab.record.recorder import Recorder
from ckptlab.record.state.model_tensors import capture


class Everything(nn.Module):
    """Tied weights, a frozen layer, batch norm, a bfloat16 layer, a scalar, an odd buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.first = nn.Linear(16, 16)
        self.frozen = nn.Linear(16, 16)
        self.frozen.requires_grad_(False)
        self.norm = nn.BatchNorm1d(16)
        self.low = nn.Linear(16, 16, dtype=torch.bfloat16)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("big", torch.tensor([2**53 + 1], dtype=torch.int64))
        self.register_buffer("cache", torch.zeros(3), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.frozen(self.first(self.embedding(tokens)).relu()))
        hidden = self.low(hidden.to(torch.bfloat16)).float()
        return self.head(hidden) * self.scale


def batch(step: int) -> torch.Tensor:
    """The same tokens at the same step, whatever came before."""
    return torch.randint(0, 50, (32,), generator=torch.Generator().manual_seed(step))


def everything(optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW, **options):
    """A seeded model and its optimizer."""
    torch.manual_seed(0)
    model = Everything()
    options = options or {"lr": 1e-2}
    return model, optimizer((p for p in model.parameters() if p.requires_grad), **options)


def small(lr: float = 0.1):
    """A model of 13 parameters with momentum."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1), nn.BatchNorm1d(1))
    return model, torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> torch.Tensor:
    """One update from `step` to the next; returns the loss."""
    if isinstance(model, Everything):
        tokens = batch(step)
        loss = functional.cross_entropy(model(tokens), tokens)
    else:
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(8, 3, generator=generator)
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def vector(model: nn.Module) -> np.ndarray:
    """The parameter vector, by torch's own means."""
    parts = [p.detach().float().reshape(-1) for p in model.parameters()]
    return torch.cat(parts).numpy().copy()


def run(recorder, model, optimizer, steps: int) -> dict[int, np.ndarray]:
    """Train to `steps` under an open recorder; returns the vector at every step."""
    seen = {recorder.step_number: vector(model)}
    while recorder.step_number < steps:
        loss = update(model, optimizer, recorder.step_number)
        recorder.step(loss=loss)
        seen[recorder.step_number] = vector(model)
    return seen


def train_alone(model, optimizer, steps: int, start: int = 0) -> None:
    """The same training without a recorder."""
    for step in range(start, steps):
        update(model, optimizer, step)


def same_state(a, b) -> bool:
    """Compare state dicts of modules or optimizers bit by bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_state, a, b))
    return bool(a == b)


def assert_same_run(path, reference, *, upto: int | None = None, rounded: bool = False) -> None:
    """What is recorded at `path` is, bit by bit, what an uninterrupted run recorded.

    With `upto` it may be shorter: only its own steps are compared, and there are at least `upto`.
    Times are excepted, and where anchors lie: an interruption leaves one more. The norms of
    gradients may be `rounded` otherwise, where they are sums over the parts of ranks.
    """
    from ckptlab.store.format.shards import is_sharded
    from ckptlab.store.read.reader import open_store

    a, b = open_store(path), open_store(reference)
    n = len(a.steps)
    assert n >= (len(b.steps) if upto is None else upto)
    assert a.steps.tolist() == b.steps[:n].tolist()
    assert set(a.arrays) <= set(b.arrays)
    for name, document in a.metadata.items():
        axis = document["dimension_names"][-1]
        if axis == "step" and is_sharded(document):
            for j in range(a.array(name).grid.shard_grid[1]):
                mine, theirs = a.array(name).read_block(j), b.array(name).read_block(j)
                assert _same_bits(mine, theirs[: len(mine)]), (name, j)
        elif axis in ("step", "eval_step", "observed_step") and not name.endswith("l_time"):
            mine = a.small(name)
            theirs = b.small(name)[..., : mine.shape[-1]]
            if rounded and name.startswith("gradient_"):
                assert np.allclose(mine, theirs, rtol=1e-5, atol=0, equal_nan=True), name
            else:
                assert _same_bits(mine, theirs), name
    if upto is None:
        assert set(b.anchors.tolist()) <= set(a.anchors.tolist())
    for step in sorted({*a.anchors.tolist()} & {*b.anchors.tolist()}):
        mine, theirs = a.anchor(step), b.anchor(step)
        assert mine.row == theirs.row
        assert mine.states.keys() == theirs.states.keys()
        assert all(_same_bits(mine.states[k], theirs.states[k]) for k in mine.states)


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def memory_for(model, block, gradients=False):
    """The memory that makes blocks of this size."""
    return 3 * block * bytes_per_step(capture(model).layout, gradients=gradients)


def record(path, model, optimizer, block=4, **options):
    gradients = "gradients" in options.get("arrays", ())
    options.setdefault("memory", memory_for(model, block, gradients))
    # Durability has tests of its own.
    options.setdefault("fsync", False)
    # Chosen by times, it would not be the same in each process.
    options.setdefault("codec", "dense")
    return Recorder(path, model, optimizer, **options)


class Oops(Exception):
    pass


def train_and_raise(path, model, optimizer, stop, error=Oops, *, first=lambda _: None, **options):
    """Train to `stop`, do `first`, then leave by an exception."""
    with record(path, model, optimizer, **options) as recorder:
        run(recorder, model, optimizer, stop)
        first(recorder)
        raise error
