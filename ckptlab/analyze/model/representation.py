"""Compare what layers compute at different steps: linear CKA of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr

from ckptlab.analyze.engine.labels import STEP_ATTRIBUTES
from ckptlab.analyze.engine.progress import paced
from ckptlab.analyze.engine.selection import Reference, find_reference, parse_kinds, select_columns
from ckptlab.analyze.engine.source import Source, as_source
from ckptlab.analyze.model.parallel import spread
from ckptlab.analyze.model.replay_model import ReplayModel, Vectors, read_step
from ckptlab.errors import ConfigError, LayoutError, spell, unknown_name
from ckptlab.problems.examples import Subset, draw

Kernels = dict[str, npt.NDArray[np.float64]]
"""Products of the centred outputs of each layer, shape (examples, examples)."""


def representation(
    source: Source,
    *,
    model: Any,
    data: Any,
    layers: Any = None,
    relative_to: Any = "final",
    steps: Any = "log:2",
    kinds: Any = None,
    samples: int = 256,
    seed: int = 0,
    batch_norm: str = "eval",
    scheduler: Any = None,
) -> xr.DataArray:
    """Similarity of each layer's outputs to those at another step, by linear CKA.

    Parameters
    ----------
    source : Source
        The recording.
    model : Module
        The network that was recorded; copied.
    data : (inputs, targets) or Dataset
        Examples; the targets are not used.
    layers : str or sequence of str, optional
        Names of modules, with ``*`` for any text; those that own weights of `kinds` by default.
    relative_to : str or int
        ``init``, ``final``, ``previous`` or a step.
    steps, kinds : object
        As `selection.select` takes them.
    samples, seed : int
        Size of the fixed subset of the data, and the seed of its draw. All of it goes through the
        model at once.
    batch_norm : str
        ``eval``, running statistics as recorded; or ``train``, those of the subset.
    scheduler : object
        As `spread` takes it.

    Returns
    -------
    DataArray, dims (layer, step)
        ⟨K, L⟩ / (‖K‖ ‖L‖), in [0, 1]: K = X Xᵀ and L = Y Yᵀ of the outputs at the two steps, one
        row for each example, flattened and with column means taken off. 1 for outputs that differ
        by a rotation and a scale. NaN where all examples have the same output.

    Raises
    ------
    LayoutError
        If the model is not the one recorded.
    UnknownNameError
        If no module has one of the names.
    """
    replay = ReplayModel(source, model, batch_norm=batch_norm)
    subset = draw(data, samples, seed, samples)
    columns = select_columns(source, steps)
    names = _modules(replay, layers, kinds)
    reference = find_reference(source, relative_to)
    fixed = None
    if reference.step is not None:
        fixed = _kernels(replay, subset, names, _vectors(source, reference))
        names = tuple(name for name in names if name in fixed)
    measure = partial(_similarities, names=names, fixed=fixed)
    found = spread(measure, replay, subset, columns, scheduler)
    about: dict[str, Any] = {"units": "1", "long_name": "linear CKA"}
    about["relative_to"] = reference.name
    if reference.step is not None:
        about["relative_to_step"] = reference.step
    coords = {
        "layer": ("layer", np.array(names, object)),
        "step": ("step", source.steps[columns], dict(STEP_ATTRIBUTES)),
    }
    described = replay.describe(subset)
    about |= {key: described[key] for key in described if not key.startswith("loss")}
    return xr.DataArray(np.array(found).T, coords, ("layer", "step"), "representation", about)


def linear_cka(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Return the cosine of two centred kernels; NaN if one is zero."""
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float(np.sum(one * other) / norms) if norms > 0 else float("nan")


def _modules(replay: ReplayModel, layers: Any, kinds: Any) -> tuple[str, ...]:
    """Return the names of modules to look at, in the model's order."""
    known = [name for name, _ in replay.model.named_modules() if name]
    if layers is None:
        chosen = replay.source.layout.select(parse_kinds(kinds))
        owners = {t.layer for t, c in zip(replay.source.layout.tensors, chosen, strict=True) if c}
        found = tuple(name for name in known if name in owners)
        if not found:
            raise LayoutError(f"no module owns weights of {spell('kinds', kinds or 'conv,linear')}")
        return found
    wanted = layers.split(",") if isinstance(layers, str) else list(layers)
    wanted = [name.strip() for name in wanted]
    for name in wanted:
        if not any(fnmatchcase(one, name) for one in known):
            raise unknown_name("layer", name, known)
    return tuple(one for one in known if any(fnmatchcase(one, name) for name in wanted))


def _vectors(source: Source, reference: Reference) -> Vectors:
    if reference.ancestor is not None and reference.step is not None:
        run = as_source(reference.ancestor)
        return read_step(run, reference.ancestor.column(reference.step))
    return read_step(source, int(reference.column or 0))


def _similarities(
    model: ReplayModel,
    subset: Subset,
    columns: Sequence[int],
    before: Any,
    *,
    names: tuple[str, ...],
    fixed: Kernels | None,
) -> list[list[float]]:
    """Compare each step with `fixed`, or with the recorded step before it."""
    del before
    found = []
    held: tuple[int, Kernels] = (-1, {})
    for column in paced(columns):
        other = fixed
        if fixed is None and column > 0:
            if held[0] != column - 1:
                held = (
                    column - 1,
                    _kernels(model, subset, names, read_step(model.source, column - 1)),
                )
            other = held[1]
        now = _kernels(model, subset, names, read_step(model.source, column))
        held = (int(column), now)
        found.append(
            [linear_cka(now[n], other[n]) if other and n in now else np.nan for n in names]
        )
    return found


@torch.no_grad()
def _kernels(
    model: ReplayModel, subset: Subset, names: tuple[str, ...], vectors: Vectors
) -> Kernels:
    """Run the model and keep products of its layers' outputs: small, however large a layer is."""
    model.load(vectors)
    kernels: Kernels = {}
    modules = dict(model.model.named_modules())
    hooks = [modules[n].register_forward_hook(_keep(n, len(subset), kernels)) for n in names]
    try:
        inputs, _ = subset.examples.take(subset.index)
        model.model(inputs.to(model.device))
    finally:
        for hook in hooks:
            hook.remove()
    return kernels


def _keep(name: str, examples: int, kernels: Kernels) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        del module, inputs
        output = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(output, torch.Tensor) or not output.ndim or len(output) != examples:
            shape = getattr(output, "shape", type(output).__name__)
            raise ConfigError(
                f"layer {name!r} gives {shape} for {examples} examples; take layers whose outputs "
                f"have one row for each example, by {spell('layers', 'NAME,...')}"
            )
        rows = output.float().flatten(1) if output.ndim > 1 else output.float()[:, None]
        rows = rows - rows.mean(0)
        product = (rows @ rows.T).double().cpu().numpy()
        # A module that is called twice has both outputs side by side.
        kernels[name] = kernels[name] + product if name in kernels else product

    return hook
