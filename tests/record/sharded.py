"""Ranks that train and record one network of which each holds a part; run in forked processes."""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional

from ckptlab.record import distributed, session
from ckptlab.record.pipeline import buffers
from ckptlab.record.recorder import Recorder
from ckptlab.store.format import schema, zarr_metadata
from tests.record.storages import FailingStorage


def cut_finely() -> None:
    """Shards of 384 parameters and 4 steps, so that a small network has several."""
    zarr_metadata.CHUNK_PARAMETERS, zarr_metadata.SHARD_PARAMETERS = 128, 384
    schema.OPTIMIZER_ROW_CHUNK = 8192
    buffers.USUAL_BLOCK = 4


class Net(nn.Module):
    """Tied weights, batch norm, a bfloat16 layer, sizes that no number of ranks divides."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.first = nn.Linear(16, 24)
        self.second = nn.Linear(24, 16)
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.norm = nn.BatchNorm1d(16)
        self.low = nn.Linear(16, 16, dtype=torch.bfloat16)
        self.odd = nn.Linear(16, 3)
        self.head = nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.second(self.first(self.embedding(tokens)).relu())
        hidden = self.norm(self.frozen(hidden))
        hidden = self.low(hidden.to(torch.bfloat16)).float()
        return self.head(hidden) + self.odd(hidden).sum(1, keepdim=True)


def build(kind: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network and AdamW: whole, or sharded over all ranks."""
    torch.manual_seed(0)
    model = Net()
    ranks = dist.get_world_size() if kind != "whole" else 1
    if kind in ("fsdp", "hsdp"):
        shape = (ranks,) if kind == "fsdp" else (2, ranks // 2)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("copies", "parts")[-len(shape) :])
        for layer in (model.first, model.second, model.low):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    if kind in ("tp", "2d"):
        names = ("dp", "tp")
        shape = (1, ranks) if kind == "tp" else (2, ranks // 2)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
        parallelize_module(
            model, mesh["tp"], {"first": ColwiseParallel(), "second": RowwiseParallel()}
        )
        if kind == "2d":
            fully_shard(model.low, mesh=mesh["dp"])
            fully_shard(model, mesh=mesh["dp"])
    trained = [p for p in model.parameters() if p.requires_grad]
    return model, torch.optim.AdamW(trained, lr=1e-2)


def whole(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as float32, gathered by torch's own means."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().float().reshape(-1).numpy().copy()


def vector(model: nn.Module) -> np.ndarray:
    return np.concatenate([whole(p) for p in model.parameters()])


def state(model: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> np.ndarray:
    """A parameter-shaped state, NaN where there is none."""
    return np.concatenate(
        [
            whole(optimizer.state[p][key]) if p in optimizer.state else np.full(p.numel(), np.nan)
            for p in model.parameters()
        ]
    )


def forward(model: nn.Module, step: int) -> torch.Tensor:
    tokens = torch.randint(0, 50, (32,), generator=torch.Generator().manual_seed(step))
    return functional.cross_entropy(model(tokens), tokens)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> torch.Tensor:
    optimizer.zero_grad()
    loss = forward(model, step)
    loss.backward()
    optimizer.step()
    return loss


def recorder(path, model: nn.Module, optimizer, **options) -> Recorder:
    options = {"steps": "0:40", "arrays": ("weights", "gradients"), "observe": "0:", **options}
    options = {"codec": "dense", "fsync": False, **options}
    return Recorder(path, model, optimizer, **options)


def call(target, rank: int, ranks: int, folder: str, *rest) -> None:
    """Run a function as one rank; what it raises goes to its queue."""
    try:
        meet(rank, ranks, folder)
        target(rank, folder, *rest)
    except BaseException:
        rest[-1].put((rank, traceback.format_exc()))
        raise


def meet(rank: int, ranks: int, folder: str) -> None:
    warnings.simplefilter("ignore")  # torch's own
    for ours in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("error", category=ours, module="ckptlab")
    cut_finely()
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet-{ranks}", rank=rank, world_size=ranks
    )


def train(path, kind: str, stop: int, **options) -> dict:
    """Record up to a step; return what torch says that should be there."""
    model, optimizer = build(kind)
    seen = {"weights": {}, "gradients": {}}
    with recorder(path, model, optimizer, **options) as recording:
        began = recording.step_number
        seen["weights"][began] = vector(model)
        while recording.step_number < stop:
            loss = update(model, optimizer, recording.step_number)
            gradients = [
                np.full(p.numel(), np.nan, np.float32) if p.grad is None else whole(p.grad)
                for p in model.parameters()
            ]
            forward(model.eval(), 0)  # leaves gathered weights in the modules under FSDP
            model.train()
            if recording.step_number == 1:
                recording.evaluate(loss=0.5)
            recording.step(loss=loss)
            seen["gradients"][recording.step_number] = np.concatenate(gradients)
            seen["weights"][recording.step_number] = vector(model)
    seen["exp_avg"] = state(model, optimizer, "exp_avg")
    seen["final"] = vector(model)
    return {"began": began, **seen}


def record_to_bucket(rank: int, folder: str, url: str, variables: dict[str, str], queue) -> None:
    os.environ |= variables  # forked processes have those of their server
    queue.put((rank, train(url, "fsdp", 6)))


def record_kinds(rank: int, folder: str, kinds: tuple[str, ...], queue) -> None:
    """Each kind in turn."""
    found = {kind: train(f"{folder}/{kind}.zarr", kind, 6) for kind in kinds}
    queue.put((rank, found if rank == 0 else {k: v["final"] for k, v in found.items()}))


def resume(rank: int, folder: str, kind: str, stop: int, queue) -> None:
    found = train(f"{folder}/resumed.zarr", kind, stop, resume="auto")
    queue.put((rank, (found["began"], found["final"])))


def problem_of(work) -> str:
    try:
        work()
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def meet_trouble(rank: int, folder: str, queue) -> None:
    """What is refused, what fails on one rank, and a signal that only one rank gets."""
    found = {}
    path = f"{folder}/refused"
    for name, options in {
        "path": {},
        "steps": {"steps": f"0:{10 + rank}"},
        "each": {"ranks": "each"},
    }.items():
        end = str(rank) if name == "path" else ""
        opened = partial(recorder, path + end, *build("fsdp"), **options)
        found[name] = problem_of(lambda opened=opened: opened().open())
    found["taken"] = problem_of(lambda: recorder(f"{folder}/taken", *build("fsdp")).open())

    def differ() -> None:
        model, optimizer = build("tp")
        nn.init.constant_(model.odd.bias, float(rank))
        recorder(path, model, optimizer).open()

    found["copies"] = problem_of(differ)
    found["left"] = sorted(p.name for p in Path(folder).glob("refused*"))

    def fill() -> None:
        storage = FailingStorage(f"{folder}/full", 3 if rank else 10**6)
        train(storage, "fsdp", 20)

    found["full"] = problem_of(fill)

    def stop() -> None:
        model, optimizer = build("fsdp")
        with recorder(f"{folder}/stopped", model, optimizer) as recording:
            while True:
                loss = update(model, optimizer, recording.step_number)
                if recording.step_number == 2 and rank:
                    os.kill(os.getpid(), signal.SIGTERM)
                recording.step(loss=loss)

    found["signal"] = problem_of(stop)

    def fail() -> None:
        model, optimizer = build("fsdp")
        with recorder(f"{folder}/failed", model, optimizer) as recording:
            for step in range(3):
                recording.step(loss=update(model, optimizer, step))
            raise ValueError("of all ranks")

    found["error"] = problem_of(fail)
    queue.put((rank, found))


class FatalStorage(FailingStorage):
    """Kills its process at a put."""

    def put_all(self, objects) -> None:
        self.left -= len(objects)
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        super(FailingStorage, self).put_all(objects)


def lose_a_rank(rank: int, folder: str, path: str, dies: int, how: str, queue) -> None:
    """Train until a rank is killed: before an update, or while it writes."""
    model, optimizer = build("fsdp")
    storage = FatalStorage(path, int(how) if rank == dies and how.isdigit() else 10**9)

    distributed.MEETING_SECONDS = 20.0
    session.LEAVING_SECONDS = 1.0 if how in ("raise", "closed") else 20.0
    Path(folder, f"here-{rank}").touch()

    def run() -> None:
        with recorder(storage, model, optimizer, observe=None, resume="auto") as recording:
            while recording.step_number < 39:
                if rank == dies and recording.step_number == 6:
                    while how in ("raise", "closed") and recording.stats.committed < 4:
                        time.sleep(0.05)  # the block before is written beside
                    if how == "raise":
                        raise ValueError("of one rank")
                    if how == "closed":  # as the loop's own exchange of parameters says it
                        raise RuntimeError("[/gloo/transport/tcp/pair.cc:538] Connection closed")
                    if how == "update":
                        os.kill(os.getpid(), signal.SIGKILL)
                recording.step(loss=update(model, optimizer, recording.step_number))
                if how == "time":
                    time.sleep(0.1)

    queue.put((rank, problem_of(run)))
