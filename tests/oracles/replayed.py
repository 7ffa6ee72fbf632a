"""Oracles of what is looked at around a snapshot: outputs of layers, a plane, sampled weights."""

from __future__ import annotations

import math

import numpy as np
import torch

from tests.oracles.networks import Network
from tests.oracles.plain import oracle

Array = np.ndarray


def mlp_outputs(state: dict[str, Array], x: Array) -> dict[str, Array]:
    """Outputs of each linear layer of `mlp`, before its activation."""
    found, rows = {}, x.reshape(len(x), -1)
    for name in ("fc1", "fc2", "fc"):
        found[name] = rows @ state[f"{name}.weight"].T + state[f"{name}.bias"]
        rows = np.maximum(found[name], 0)
    return found


@oracle("metric", "representation", "absolute 1e-5", "arXiv:1905.00414")
def representation(x: Array, y: Array) -> float:
    """‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖) of centred features: products of features, not of examples."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms)


@oracle("metric", "landscape", "relative 1e-4", "arXiv:1712.09913, section 7")
def landscape(w: Array) -> tuple[Array, Array]:
    """Directions of the plane of a path, shape (param, 2), and where its columns lie."""
    left, _, _ = np.linalg.svd(w - w.mean(axis=1, keepdims=True), full_matrices=False)
    return left[:, :2], (w - w[:, -1:]).T @ left[:, :2]


@oracle("metric", "learning-coefficient", "relative 1e-2", "arXiv:2308.12108")
def learning_coefficient(
    network: Network,
    batches: list[tuple[Array, Array]],
    keep: Array,
    seed: int,
    burn_in: int,
    length: int,
    step_size: float,
    localization: float,
) -> float:
    """One chain in float64, with torch's order of batches and noise of that seed."""
    n = sum(len(y) for _, y in batches)
    nbeta = n / math.log(n)
    generator = torch.Generator().manual_seed(seed)
    start = network.at.clone()
    w, rises, order = start.clone(), [], []
    for _ in range(burn_in + length):
        order = order or torch.randperm(len(batches), generator=generator).tolist()
        x, y = batches[order.pop(0)]
        rises.append(float(network.loss(w, x, y, len(y)) - network.loss(start, x, y, len(y))))
        slope = torch.from_numpy(network.gradient(x, y, len(y), w))
        noise = torch.randn(len(w), generator=generator).double() * math.sqrt(step_size)
        move = -step_size / 2 * (nbeta * slope + localization * (w - start)) + noise
        w = w + torch.from_numpy(keep) * move
    return nbeta * float(np.mean(rises[burn_in:]))
