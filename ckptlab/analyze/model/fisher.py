"""Measure the trace of the Fisher information at recorded steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from torch.func import functional_call, grad, vmap

from ckptlab.analyze.engine.labels import labelled
from ckptlab.analyze.engine.masks import surviving
from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import ReplayModel, select_trained
from ckptlab.errors import ConfigError, spell, unknown_name
from ckptlab.problems.examples import Subset, draw

Array = npt.NDArray[Any]

LABELS: tuple[str, ...] = ("sampled", "exact", "empirical")
"""Labels: sampled from the model's distribution, all of them weighted by it, or the data's."""

GRADIENT_BYTES = 2**28
"""Bytes of per-example gradients held at once."""


def fisher_trace(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = "log:3",
    by: str = "network",
    kinds: Any = "all",
    mask: Any = None,
    labels: str = "sampled",
    draws: int = 1,
    samples: int = 512,
    seed: int = 0,
    batch_size: int = 256,
    scheduler: Any = None,
) -> xr.DataArray:
    """Trace of the Fisher information, E‖∇ log p(y|x)‖².

    Batch norm uses the running statistics as recorded, so that each example has its own gradient.

    Parameters
    ----------
    source : Source
        The recording.
    model : Module
        The network that was recorded; copied. Its outputs are logits.
    data : (inputs, targets) or Dataset
        Training examples; only ``labels="empirical"`` uses the targets.
    loss : callable, optional
        ``loss(outputs, targets)``, −log p(y|x); cross-entropy by default, and required unless the
        labels are the empirical ones.
    steps, by, kinds, mask : object
        As `selection.select` takes them; the run's own mask applies in any case.
    labels : str
        ``sampled`` from the model's distribution; ``exact``, the expectation over all classes; or
        ``empirical``, the labels of the data, which is another quantity.
    draws : int
        Labels sampled for each example.
    samples, seed : int
        Size of the fixed subset of the data, and the seed of its draw and of the labels. The same
        uniform numbers choose the labels at every step.
    batch_size : int
        Examples at once; fewer if their gradients would not fit `GRADIENT_BYTES`.
    scheduler : object
        As `spread` takes it.

    Returns
    -------
    DataArray, dims (step,) or (layer | tensor, step)
        Sum over the selected surviving weights of the mean squared gradient; NaN in a group
        without any.

    Raises
    ------
    ConfigError
        If the labels need a distribution that the loss does not give.
    LayoutError
        If the model is not the one recorded, or no trained parameter is selected.
    """
    if labels not in LABELS:
        raise unknown_name(f"value of {spell('labels')}", str(labels), LABELS)
    keep = surviving(source, mask)
    replay = ReplayModel(source, model, loss, mask=mask)
    if labels != "empirical" and not replay.loss.is_cross_entropy:
        raise ConfigError(
            f"{spell('labels', labels)} needs cross-entropy, the loss is {replay.loss.name}; use "
            f"{spell('labels', 'empirical')}, or leave the loss out"
        )
    subset = draw(data, samples, seed, batch_size)
    selection, taken = select_trained(replay, steps=steps, by=by, kinds=kinds, mask=keep)
    groups = len(selection.names)
    weights = np.bincount(taken[taken >= 0], minlength=groups)[:, None]
    rows = {name: i for i, name in enumerate(source.layout.names)}
    group = selection.tensor_group[[rows[name] for name in replay.names]]
    values = np.zeros((groups, len(selection.columns)))
    measure = partial(_traces, labels=labels, draws=draws, seed=seed)
    for k, traces in enumerate(spread(measure, replay, subset, selection.columns, scheduler)):
        np.add.at(values[:, k], group[group >= 0], traces[group >= 0])
    return labelled(
        "fisher_trace",
        np.where(weights > 0, values, np.nan),
        selection,
        units="1 per weight^2",
        long_name=f"Fisher trace ({labels} labels)",
        labels=labels,
        draws=draws if labels == "sampled" else None,
        seed=seed,
        **replay.describe(subset),
    )


def _traces(
    model: ReplayModel,
    subset: Subset,
    columns: Sequence[int],
    before: int | None,
    *,
    labels: str,
    draws: int,
    seed: int,
) -> list[Array]:
    """Return the trace of each trained tensor at each step."""
    del before
    found = []
    for column in paced(columns):
        model.load_step(column)
        squares = _squared_gradients(model, subset.batch_size)
        # The same uniform numbers at every step.
        rng = np.random.default_rng([seed, 1])
        total = np.zeros(len(model.parameters))
        for inputs, targets in subset.batches(model.device):
            for chosen, weight in _labels(model, inputs, targets, labels, draws, rng):
                total += weight @ squares(inputs, chosen).double().cpu().numpy()
        found.append(total / len(subset))
    return found


def _squared_gradients(model: ReplayModel, batch_size: int) -> Any:
    """Return a function of inputs and labels: squared gradient norms, (examples, tensors)."""
    live = dict(model.model.named_parameters())
    trained = {name: live[name].detach() for name in model.names}
    kept = _kept_parts(model)

    def norms(gradients: Any) -> torch.Tensor:
        own = [
            g if keep is None else torch.where(keep, g, 0)
            for g, keep in zip(gradients, kept, strict=True)
        ]
        return torch.stack([part.square().sum() for part in own])

    def one_loss(parameters: Any, inputs: torch.Tensor, target: torch.Tensor) -> Any:
        outputs = functional_call(model.model, parameters, (inputs[None],))
        return model.loss(outputs, target[None])

    def one(inputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        gradients = grad(one_loss)(trained, inputs, target)
        return norms([gradients[name] for name in model.names])

    def one_by_one(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        found = []
        for example, target in zip(inputs, targets, strict=True):
            loss = model.loss(model.model(example[None]), target[None])
            parts = torch.autograd.grad(
                loss, model.parameters, allow_unused=True, materialize_grads=True
            )
            found.append(norms(parts))
        return torch.stack(found)

    elements = sum(part.numel() for part in trained.values())
    chunk = max(1, min(batch_size, GRADIENT_BYTES // (4 * elements)))
    together = vmap(one, chunk_size=chunk)
    traceable = True

    def squares(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal traceable
        if traceable:
            try:
                found: torch.Tensor = together(inputs, targets)
                return found
            except RuntimeError:
                # Such as a model that writes to its buffers, or branches on its data.
                traceable = False
        return one_by_one(inputs, targets)

    return squares


def _kept_parts(model: ReplayModel) -> list[Any]:
    """Return the mask of each trained parameter; None where it keeps all."""
    ends = np.cumsum([p.numel() for p in model.parameters])
    parts = np.split(model.kept, ends[:-1])
    return [
        None if part.all() else torch.from_numpy(part).to(p.device).view(p.shape)
        for part, p in zip(parts, model.parameters, strict=True)
    ]


def _labels(
    model: ReplayModel,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    labels: str,
    draws: int,
    rng: np.random.Generator,
) -> Iterator[tuple[torch.Tensor, Array]]:
    """Yield labels of a batch, and the weight of each example with that label."""
    count = len(inputs)
    if labels == "empirical":
        yield targets, np.ones(count)
        return
    with torch.no_grad():
        outputs = model.model(inputs)
    if outputs.ndim != 2:
        raise ConfigError(
            f"the model's outputs are of shape {tuple(outputs.shape)}; "
            f"{spell('labels', labels)} needs logits of shape (examples, classes)"
        )
    probabilities = torch.softmax(outputs.double(), dim=1).cpu().numpy()
    if labels == "exact":
        for label in range(outputs.shape[1]):
            chosen = torch.full((count,), label, device=inputs.device)
            yield chosen, probabilities[:, label]
        return
    ends = probabilities.cumsum(axis=1)
    # Drawn example by example, so that the labels do not depend on how batches are cut.
    for uniform in rng.random((count, draws)).T:
        above = ends <= uniform[:, None] * ends[:, -1:]
        picked = np.minimum(above.sum(axis=1), outputs.shape[1] - 1)
        yield torch.from_numpy(picked).to(inputs.device), np.full(count, 1 / draws)
