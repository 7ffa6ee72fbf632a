"""Oracles of pruning criteria that look at the network: written from the papers, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from tests.oracles.plain import oracle

Array = np.ndarray
State = dict[str, torch.Tensor]


def lowest_gone(scores: Array, keep: Array, prunable: Array, left: int) -> Array:
    """Keep so many prunable weights: those of highest score."""
    alive = sorted(np.flatnonzero(keep & prunable), key=lambda i: (scores[i], i))
    result = keep.copy()
    result[alive[: len(alive) - left]] = False
    return result


@oracle("pruning", "snip", "scores to 1e-4, masks exact", "arXiv:1810.02340, equations 3 to 6")
def snip(model: Any, loss: Callable[..., Any], x: Any, y: Any) -> Array:
    """Return |∂L/∂c| at c = 1, where every weight w is replaced by c · w."""
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    gates = {name: torch.ones_like(p, requires_grad=True) for name, p in weights.items()}
    gated = {name: gates[name] * weights[name] for name in weights}
    value = loss(functional_call(model.double(), gated, (x,)), y)
    parts = torch.autograd.grad(value, list(gates.values()))
    return torch.cat([part.abs().reshape(-1) for part in parts]).numpy()


@oracle("pruning", "grasp", "scores to 1e-4, masks exact", "arXiv:2002.07376, equation 8")
def grasp(model: Any, loss: Callable[..., Any], x: Any, y: Any) -> Array:
    """Return θ · Hg with a dense Hessian; −θ · Hg is the score of the paper, high ones go."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for _, p in model.named_parameters()]
    flat = torch.cat([p.detach().double().reshape(-1) for p in model.parameters()])

    def value(vector: torch.Tensor) -> torch.Tensor:
        parts = torch.split(vector, [shape.numel() for shape in shapes])
        state = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return loss(functional_call(model.double(), state, (x,)), y)

    hessian = torch.autograd.functional.hessian(value, flat)
    gradient = torch.autograd.functional.jacobian(value, flat)
    return (flat * (hessian @ gradient)).numpy()


@oracle("pruning", "synflow", "masks exact", "arXiv:2006.05467, algorithm 1")
def synflow(layers: list[Array], fraction: float, rounds: int) -> list[Array]:
    """Prune layers without biases: the score of w_ij is all |paths| through it, summed."""
    keep = [np.ones_like(layer, bool) for layer in layers]
    total = sum(layer.size for layer in layers)
    for turn in range(1, rounds + 1):
        live = [np.abs(layer) * kept for layer, kept in zip(layers, keep, strict=True)]
        scores = []
        for at, layer in enumerate(live):
            into = np.ones(live[0].shape[1])
            for before in live[:at]:
                into = before @ into
            out = np.ones(live[-1].shape[0])
            for after in live[:at:-1]:
                out = out @ after
            scores.append(out[:, None] * layer * into)
        left = round(total * ((total - round(fraction * total)) / total) ** (turn / rounds))
        left = total - round(fraction * total) if turn == rounds else left
        flat = np.concatenate([score.ravel() for score in scores])
        alive = np.concatenate([kept.ravel() for kept in keep])
        mask = lowest_gone(flat, alive, np.ones_like(alive), left)
        cuts = np.cumsum([layer.size for layer in layers])[:-1]
        keep = [
            part.reshape(layer.shape)
            for part, layer in zip(np.split(mask, cuts), layers, strict=True)
        ]
    return keep


@oracle("pruning", "sign-preserving", "exact", "arXiv:1905.01067, table S1: large final, same sign")
def sign_preserving(last: Array, first: Array) -> Array:
    """Return max(0, w_f · sign(w_i)), weight by weight."""
    return np.array(
        [
            max(0.0, float(w) * ((float(i) > 0) - (float(i) < 0)))
            for w, i in zip(last, first, strict=True)
        ]
    )


@oracle("pruning", "learning-rate-rewinding", "exact", "arXiv:2003.02389, section 2")
def rate_rewound(last: Array, keep: Array) -> Array:
    """Return what a level begins with: the last weights of the level before, pruned."""
    return np.where(keep, last, np.float32(0))


def filters(weights: Array, table: list[dict[str, Any]], fraction: float) -> Array:
    """Drop the filters of lowest mean magnitude over all layers, but for the output layer."""
    rows = [row for row in table if row["prunable"]][:-1]
    ranked = []
    for row in rows:
        size = int(np.prod(row["shape"][1:]))
        for i in range(row["shape"][0]):
            start = row["offset"] + i * size
            mean = float(np.abs(weights[start : start + size].astype(np.float64)).mean())
            ranked.append((mean, start, size))
    keep = np.ones(len(weights), bool)
    for _, start, size in sorted(ranked)[: round(fraction * len(ranked))]:
        keep[start : start + size] = False
    return keep
