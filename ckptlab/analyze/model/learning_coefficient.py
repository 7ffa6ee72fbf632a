"""Estimate the local learning coefficient: how fast the loss rises around a snapshot."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from ckptlab.analyze.engine.labels import STEP_ATTRIBUTES
from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import select_columns
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.engine.warnings import AnalysisWarning
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import ReplayModel
from ckptlab.errors import ConfigError, spell
from ckptlab.problems.examples import Subset, draw

Array = npt.NDArray[Any]


def learning_coefficient(
    source: Source,
    *,
    model: Any,
    data: Any,
    loss: Any = None,
    steps: Any = "log:1",
    mask: Any = None,
    chains: int = 4,
    burn_in: int = 100,
    length: int = 200,
    step_size: float = 1e-4,
    localization: float = 100.0,
    samples: int = 1024,
    seed: int = 0,
    batch_size: int = 256,
    batch_norm: str = "train",
    scheduler: Any = None,
) -> xr.Dataset:
    """Local learning coefficient, n β (E[L(w)] − L(w*)) over weights sampled around w* by SGLD.

    Parameters
    ----------
    source, model, data, loss, steps, mask : object
        As `hessian_spectrum` takes them.
    chains : int
        Independent chains from each snapshot w*.
    burn_in, length : int
        Steps of a chain that are left out, and that count.
    step_size : float
        ε; too large a step diverges, too small a one does not leave w*.
    localization : float
        γ, the pull back to w*.
    samples, seed : int
        n, the size of the fixed subset whose mean loss is L, and the seed of its draw; order of the
        batches and noise are torch's, seeded by `chain_seed`.
    batch_size : int
        Examples of one step of a chain.
    batch_norm, scheduler : object
        As `hessian_spectrum` takes them.

    Returns
    -------
    Dataset, dims (step,), (step, chain), (step, chain, draw)
        `learning_coefficient`, the mean over chains, and its `standard_error`; `by_chain`; `loss`,
        L(w*); and `rise`, at each draw the loss of its batch less that of the same batch at w*, to
        see whether chains have settled. NaN where a chain diverged, with a warning.

    Raises
    ------
    ConfigError
        If a setting is out of range.
    LayoutError
        If the model is not the one recorded, or the mask keeps nothing of it.

    Notes
    -----
    A step of a chain is w ← w − (ε/2) (n β ∇L_b(w) + γ (w − w*)) + √ε N(0, 1) on the next batch b,
    with β = 1 / ln n. The same batches are visited in a new order each time round, so the losses at
    w* that are taken off cost one pass.
    """
    for name, value in (("step_size", step_size), ("localization", localization)):
        allowed = value > 0 or (name == "localization" and value == 0)
        if not (math.isfinite(value) and allowed):
            raise ConfigError(f"{spell(name, value)} must be positive", parameter=name)
    replay = ReplayModel(source, model, loss, batch_norm=batch_norm, mask=mask)
    subset = draw(data, samples, seed, batch_size)
    if len(subset) < 3:
        raise ConfigError(f"{spell('samples', len(subset))} must be 3 or more")
    columns = select_columns(source, steps)
    nbeta = len(subset) / math.log(len(subset))
    measure = partial(
        _chains,
        chains=chains,
        burn_in=burn_in,
        length=length,
        pull=(step_size, nbeta, localization),
        seed=seed,
    )
    found = spread(measure, replay, subset, columns, scheduler)
    rises = np.stack([rise for rise, _ in found])
    by_chain = nbeta * rises.mean(axis=2)
    if not np.isfinite(by_chain).all():
        bad = source.steps[columns][~np.isfinite(by_chain).all(axis=1)]
        warnings.warn(
            f"chains from step {', '.join(map(str, bad[:3]))} diverged; take a smaller "
            f"{spell('step_size')} than {step_size:g}",
            AnalysisWarning,
            stacklevel=3,
        )
    one = {"units": "1"}
    error = (
        by_chain.std(axis=1, ddof=1) / math.sqrt(chains) if chains > 1 else by_chain[:, 0] * np.nan
    )
    units = {"units": replay.loss.units}
    return xr.Dataset(
        {
            "learning_coefficient": (
                "step",
                by_chain.mean(axis=1),
                {**one, "long_name": "local learning coefficient"},
            ),
            "standard_error": ("step", error, {**one, "long_name": "standard error over chains"}),
            "by_chain": (("step", "chain"), by_chain, {**one, "long_name": "of each chain"}),
            "loss": (
                "step",
                np.array([at for _, at in found]),
                {**units, "long_name": "loss at w*"},
            ),
            "rise": (("step", "chain", "draw"), rises, {**units, "long_name": "rise of the loss"}),
        },
        {"step": ("step", source.steps[columns], dict(STEP_ATTRIBUTES))},
        {
            "n": len(subset),
            "inverse_temperature": f"n / ln n = {nbeta:g}",
            "step_size": step_size,
            "localization": localization,
            "burn_in": burn_in,
            "parameters": replay.size,
            "seed": seed,
            **replay.describe(subset),
        },
    )


def chain_seed(seed: int, step: int, chain: int) -> int:
    """Return the seed of a chain: the same wherever, and with whatever others, it runs."""
    return int(np.random.SeedSequence([seed, step, chain]).generate_state(1)[0])


def _chains(
    model: ReplayModel,
    subset: Subset,
    columns: Sequence[int],
    before: Any,
    *,
    chains: int,
    burn_in: int,
    length: int,
    pull: tuple[float, float, float],
    seed: int,
) -> list[tuple[Array, float]]:
    """Run the chains of each step; returns the rises, shape (chains, length), and the loss."""
    del before
    batches = list(subset.batches(model.device))
    shares = np.array([len(targets) for _, targets in batches]) / len(subset)
    found = []
    for column in paced(columns):
        rises = np.empty((chains, length))
        step = int(model.source.steps[column])
        model.load_step(column)
        here = [float(_loss(model, batch).detach()) for batch in batches]
        for chain in range(chains):
            model.load_step(column)
            generator = torch.Generator().manual_seed(chain_seed(seed, step, chain))
            rises[chain] = _chain(model, batches, here, generator, burn_in, length, pull)
        found.append((rises, float(shares @ np.array(here))))
    return found


def _chain(
    model: ReplayModel,
    batches: list[Any],
    here: list[float],
    generator: torch.Generator,
    burn_in: int,
    length: int,
    pull: tuple[float, float, float],
) -> Array:
    step_size, nbeta, localization = pull
    parameters = model.parameters
    weights = torch.cat([p.detach().reshape(-1) for p in parameters])
    # Parameters become views of one vector, which is moved as a whole.
    for p, part in zip(parameters, weights.split([p.numel() for p in parameters]), strict=True):
        p.data = part.view(p.shape)
    start = weights.clone()
    kept = torch.from_numpy(model.kept).to(weights.device)
    rises = np.empty(length)
    order: list[int] = []
    for k in range(burn_in + length):
        if not order:
            order = torch.randperm(len(batches), generator=generator).tolist()
        b = order.pop(0)
        loss = _loss(model, batches[b])
        if k >= burn_in:
            rises[k - burn_in] = float(loss.detach()) - here[b]
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([part.reshape(-1) for part in parts])
        noise = torch.randn(len(weights), generator=generator).to(weights)
        drift = nbeta * gradient + localization * (weights - start)
        weights += kept * (math.sqrt(step_size) * noise - step_size / 2 * drift)
    return rises


def _loss(model: ReplayModel, batch: Any) -> torch.Tensor:
    inputs, targets = batch
    loss: torch.Tensor = model.loss(model.model(inputs), targets)
    return loss
