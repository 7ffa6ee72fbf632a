"""Plain forward passes of two networks in float64, and what is derived from their loss."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch.nn import functional

from tests.oracles.plain import PlainRun, oracle

Array = np.ndarray
State = dict[str, torch.Tensor]
Norm = Callable[[torch.Tensor, State, str], torch.Tensor]


def stored_statistics(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    """Batch norm with running statistics."""
    return normalised(x, state, name, state[f"{name}.running_mean"], state[f"{name}.running_var"])


def batch_statistics(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    """Batch norm with the statistics of the batch."""
    return normalised(x, state, name, x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False))


def normalised(x, state, name, mean, variance):
    scale = state[f"{name}.weight"] / torch.sqrt(variance + 1e-5)
    shift = state[f"{name}.bias"] - mean * scale
    return x * scale[:, None, None] + shift[:, None, None]


def forward(state: State, x: torch.Tensor, norm: Norm = stored_statistics) -> torch.Tensor:
    """Logits of `mlp` or `resnet8`, told apart by their tensors."""
    if "fc2.weight" in state:
        x = x.flatten(1)
        for name in ("fc1", "fc2"):
            x = (x @ state[f"{name}.weight"].T + state[f"{name}.bias"]).clamp(min=0)
        return x @ state["fc.weight"].T + state["fc.bias"]
    x = norm(functional.conv2d(x, state["conv1.weight"], padding=1), state, "bn1").clamp(min=0)
    for layer in ("layer1.0", "layer2.0", "layer3.0"):
        stride = 1 if layer == "layer1.0" else 2
        y = functional.conv2d(x, state[f"{layer}.conv1.weight"], stride=stride, padding=1)
        y = norm(y, state, f"{layer}.bn1").clamp(min=0)
        y = functional.conv2d(y, state[f"{layer}.conv2.weight"], padding=1)
        y = norm(y, state, f"{layer}.bn2")
        if f"{layer}.shortcut.0.weight" in state:
            x = functional.conv2d(x, state[f"{layer}.shortcut.0.weight"], stride=stride)
            x = norm(x, state, f"{layer}.shortcut.1")
        x = (y + x).clamp(min=0)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


class Network:
    """The network of a run at one step: loss and derivatives with respect to the flat vector."""

    def __init__(self, run: PlainRun, step: int, norm: Norm = stored_statistics) -> None:
        self.run, self.step, self.norm = run, step, norm
        state = run.state(step)
        self.state = {name: torch.from_numpy(np.array(v)) for name, v in state.items()}
        self.at = torch.from_numpy(run.weights[:, run.column(step)].copy())

    def logits(self, vector: torch.Tensor, x: Array) -> torch.Tensor:
        named = {}
        for row in self.run.tensors:
            size = int(np.prod(row["shape"]))
            named[row["name"]] = vector[row["offset"] : row["offset"] + size].view(row["shape"])
        return forward({**self.state, **named}, torch.from_numpy(x), self.norm)

    def loss(self, vector: torch.Tensor, x: Array, y: Array, batch: int) -> torch.Tensor:
        """Mean cross-entropy, over batches that each have their own statistics."""
        total = torch.zeros((), dtype=torch.float64)
        for a in range(0, len(y), batch):
            logits = self.logits(vector, x[a : a + batch])
            target = torch.from_numpy(y[a : a + batch])
            total = total + functional.cross_entropy(logits, target, reduction="sum")
        return total / len(y)

    def gradient(self, x: Array, y: Array, batch: int, vector: torch.Tensor | None = None) -> Array:
        at = (self.at if vector is None else vector).clone().requires_grad_()
        (found,) = torch.autograd.grad(self.loss(at, x, y, batch), at)
        return found.numpy()


@oracle("metric", "evaluation", "relative 1e-5; 3e-2 in bf16", "docs/training.md")
def evaluation(network: Network, x: Array, y: Array) -> tuple[float, float]:
    """Loss and accuracy."""
    with torch.no_grad():
        logits = network.logits(network.at, x)
        loss = functional.cross_entropy(logits, torch.from_numpy(y))
    return float(loss), float((logits.argmax(1).numpy() == y).mean())


@oracle("metric", "hessian-spectrum", "relative 1e-3", "arXiv:1812.04754")
def hessian_spectrum(
    network: Network, x: Array, y: Array, batch: int, keep: Array, k: int
) -> tuple[Array, Array]:
    """Largest eigenpairs over the kept weights, from gradients of gradients in float64.

    Not from differences of gradients: a step of 1e-5 may cross a kink of a ReLU.
    """
    places = np.flatnonzero(keep)
    at = network.at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network.loss(at, x, y, batch), at, create_graph=True)

    def product(direction: Array) -> Array:
        move = torch.zeros_like(network.at)
        move[places] = torch.from_numpy(direction.ravel())
        (image,) = torch.autograd.grad(gradient, at, move, retain_graph=True)
        return image.numpy()[places]

    operator = LinearOperator((len(places), len(places)), matvec=product, dtype=np.float64)
    values, vectors = eigsh(operator, k=k, which="LA", tol=1e-4, v0=np.ones(len(places)))
    return values[::-1], vectors[:, ::-1]


def batches_of(count: int, batch: int) -> list[slice]:
    return [slice(a, min(a + batch, count)) for a in range(0, count, batch)]


def hessian(network: Network, x: Array, y: Array, batch: int, keep: Array) -> Array:
    """The whole matrix over the kept weights, row by row."""
    at = network.at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network.loss(at, x, y, batch), at, create_graph=True)
    places = np.flatnonzero(keep)
    rows = [
        torch.autograd.grad(gradient[int(i)], at, retain_graph=True)[0].numpy()[places]
        for i in places
    ]
    return np.stack(rows)


@oracle("metric", "hessian-trace", "relative 1e-4; 3 % by Hutch++", "a dense Hessian")
def hessian_trace(matrix: Array) -> float:
    return float(np.trace(matrix))


def hessian_blocks(matrix: Array, group: Array, groups: int) -> Array:
    """The trace of each tensor's block."""
    return np.array([np.trace(matrix[group == g][:, group == g]) for g in range(groups)])


@oracle("metric", "hessian-density", "absolute 0.05 of the distribution", "a dense Hessian")
def hessian_density(matrix: Array, values: Array) -> Array:
    """The share of eigenvalues up to each value."""
    return np.searchsorted(np.linalg.eigvalsh(matrix), values) / len(matrix)


@oracle("metric", "ggn-spectrum", "relative 1e-3", "doi:10.1162/08997660260028683")
def ggn_spectrum(network: Network, x: Array, batch: int, keep: Array, k: int) -> Array:
    """Largest eigenvalues of Σ Jᵀ (diag(p) − p pᵀ) J / n, example by example."""
    total = np.zeros((int(keep.sum()), int(keep.sum())))
    for part in batches_of(len(x), batch):

        def logits(vector: torch.Tensor, images: Array = x[part]) -> torch.Tensor:
            return network.logits(vector, images)

        jacobians = torch.autograd.functional.jacobian(logits, network.at).numpy()[:, :, keep]
        chances = torch.softmax(logits(network.at), 1).detach().numpy()
        for jacobian, p in zip(jacobians, chances, strict=True):
            total += jacobian.T @ (np.diag(p) - np.outer(p, p)) @ jacobian
    return np.linalg.eigvalsh(total / len(x))[::-1][:k]


@oracle("metric", "gradient-subspace", "absolute 2e-3", "arXiv:1812.04754")
def gradient_subspace(gradient: Array, vectors: Array) -> tuple[float, float]:
    """The share of the gradient within the span of vectors, and k/P."""
    projector = vectors @ vectors.T
    inside = projector @ gradient
    return float(inside @ inside / (gradient @ gradient)), vectors.shape[1] / len(gradient)


@oracle("metric", "fisher-trace", "relative 1e-4; 15 % for sampled labels", "arXiv:1711.08856")
def fisher_trace(network: Network, x: Array, keep: Array) -> float:
    """Σ_y p(y|x) ‖∇ log p(y|x)‖² over the kept weights, example by example and class by class."""
    total = 0.0
    for image in x:
        with torch.no_grad():
            chances = torch.softmax(network.logits(network.at, image[None]), 1)[0]
        for label, chance in enumerate(chances):
            gradient = network.gradient(image[None], np.array([label]), 1)[keep]
            total += float(chance) * float(gradient @ gradient)
    return total / len(x)


@oracle("metric", "connectivity", "relative 1e-5; 3e-2 in bf16", "arXiv:1912.05671")
def connectivity(run: PlainRun, near: int, far: int, alpha: float, x: Array, y: Array) -> float:
    """Loss at α w_near + (1 − α) w_far, running statistics averaged alike."""
    ends = [run.state(step) for step in (near, far)]
    state = {
        name: torch.from_numpy(np.asarray(alpha * ends[0][name] + (1 - alpha) * ends[1][name]))
        for name in ends[0]
    }
    with torch.no_grad():
        logits = forward(state, torch.from_numpy(x))
    return float(functional.cross_entropy(logits, torch.from_numpy(y)))
