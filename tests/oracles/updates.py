"""Oracles of the trainer: learning rates and updates, one weight vector at a time in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.oracles.plain import PlainRun, oracle

Array = np.ndarray


def rate(optim: dict[str, Any], step: int, steps: int) -> float:
    """The rate of the update from `step` to `step` + 1, as docs/training.md says."""
    warmup = int(optim.get("warmup") or 0)
    base = optim["lr"] * (min(1, (step + 1) / warmup) if warmup else 1)
    if optim["schedule"] == "multistep":
        return base * optim["gamma"] ** sum(step >= int(m) for m in optim["milestones"])
    if optim["schedule"] == "cosine":
        return base * (1 + math.cos(math.pi * max(step - warmup, 0) / (steps - warmup))) / 2
    return base


@oracle("optimizer", "sgd", "absolute 2e-6", "arXiv:1609.04747; torch.optim.SGD's documentation")
def sgd(run: PlainRun, steps: int) -> Iterator[tuple[int, Array]]:
    """w_{k+1} from w_k and the recorded gradient: momentum, Nesterov's too, and weight decay."""
    optim = run.config["optim"]
    beta, nesterov, decay = optim["momentum"], optim["nesterov"], optim["weight_decay"]
    weights, gradients = run.weights, run["gradients"].astype(np.float64)
    velocity = np.zeros(len(weights))
    for k in range(consecutive(run)):
        g = gradients[:, k + 1] + decay * weights[:, k]
        velocity = beta * velocity + g
        move = g + beta * velocity if nesterov else velocity
        yield k + 1, weights[:, k] - rate(optim, k, steps) * move


@oracle("optimizer", "adamw", "absolute 2e-6", "arXiv:1711.05101, algorithm 2")
def adamw(run: PlainRun, steps: int) -> Iterator[tuple[int, Array]]:
    """The same with adaptive moments and decoupled weight decay."""
    optim = run.config["optim"]
    (b1, b2), eps, decay = optim["betas"], optim["eps"], optim["weight_decay"]
    weights, gradients = run.weights, run["gradients"].astype(np.float64)
    first, second = np.zeros(len(weights)), np.zeros(len(weights))
    for k in range(consecutive(run)):
        g, lr = gradients[:, k + 1], rate(optim, k, steps)
        first = b1 * first + (1 - b1) * g
        second = b2 * second + (1 - b2) * g**2
        unbiased = first / (1 - b1 ** (k + 1))
        scale = np.sqrt(second / (1 - b2 ** (k + 1))) + eps
        yield k + 1, weights[:, k] * (1 - lr * decay) - lr * unbiased / scale


def consecutive(run: PlainRun) -> int:
    """How many steps from the first one follow each other without a gap."""
    gaps = np.flatnonzero(np.diff(run.steps) != 1)
    return int(gaps[0]) if len(gaps) else len(run.steps) - 1
