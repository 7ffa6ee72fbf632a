"""Tell what is chosen for a training where its settings leave it open, and why."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ckptlab.cores import count_cores
from ckptlab.record.defaults import TOGETHER
from ckptlab.record.pipeline.step_capture import encoding_threads
from ckptlab.train.config import Config
from ckptlab.train.layout import resolve_layout
from ckptlab.train.numerics import resolve_device, resolve_threads

QUICK_STEP = 0.3e-3
"""Seconds of a step below which one Python process cannot keep a GPU busy."""


class Choice(NamedTuple):
    """One choice, its value and the reason."""

    what: str
    value: str
    why: str


def choices(config: Config, step_seconds: float) -> list[Choice]:
    """Return what a training that takes so long a step uses on this machine."""
    train = config.train
    device = resolve_device(train)
    gpu = device.type == "cuda"
    layout = resolve_layout(train, device)
    reasons = {
        "fp32": "repeatable between devices of a kind, and what studies report; "
        + ("tf32 and bf16 are faster" if gpu else "bf16 is faster on CPUs that have it"),
        "tf32": "train.precision",
        "bf16": "train.precision",
    }
    name = torch.cuda.get_device_name(device) if gpu else "cpu"
    why = "train.device" if train.device != "auto" else f"there is {'a' if gpu else 'no'} GPU"
    found = [
        Choice("device", name, why),
        Choice("precision", train.precision, reasons[train.precision]),
        Choice("layout", f"images {layout.images}, weights {layout.weights}", layout.why),
    ]
    if gpu:
        graph = "CUDA graphs" if train.graph else "one kernel after another"
        two = step_seconds < QUICK_STEP
        pace = f"a step takes {step_seconds * 1e3:.2g} ms"
        limit = "one process cannot keep up" if two else "one process keeps up"
        encoders = f"{encoding_threads()} of {count_cores()} cores"
        return [
            *found,
            Choice("updates", graph, "train.graph; not where the network draws random numbers"),
            Choice("encoding", encoders, "two are left: to training, and to those that write"),
            Choice("replicas per GPU", str(TOGETHER), "experiments: --together"),
            Choice("workers per GPU", str(1 + two), f"{pace}: {limit} (--workers)"),
        ]
    threads = resolve_threads(train)
    workers = max(count_cores() // threads, 1)
    return [
        *found,
        Choice("threads", str(threads), "train.threads" if train.threads else "torch's own"),
        Choice("encoding", "one core, all while training waits", "training needs the cores"),
        Choice("workers", str(workers), f"experiments: {count_cores()} cores, {threads} for each"),
    ]
