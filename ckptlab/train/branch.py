"""Branch from a recorded run: start a new training from any of its steps.

At the end of a block the optimizer's state is stored; elsewhere the training is repeated from the
nearest stored state before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ckptlab.errors import ConfigError, StepError
from ckptlab.record.schedule import parse_step
from ckptlab.record.state.model_tensors import capture
from ckptlab.record.state.optimizer import copy_state
from ckptlab.store.read.reader import StoredRun, open_store
from ckptlab.train.assemble import build
from ckptlab.train.config import Config, change, load_config
from ckptlab.train.initial_state import Start, begin, fresh_tensors
from ckptlab.train.models.build import build_model
from ckptlab.train.numerics import resolve_device
from ckptlab.train.problem_build import build_problem
from ckptlab.train.resume import (
    INEXACT,
    as_before,
    differences,
    has_settings,
    require_same_machine,
    run_config,
    stored_config,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One step of one run, as users write it: ``RUN@STEP``, ``RUN@init`` or ``RUN@final``."""

    path: str
    step: str

    @classmethod
    def parse(cls, text: str) -> Point:
        """Read ``RUN@STEP``; ConfigError if it is something else."""
        path, mark, step = text.rpartition("@")
        if not mark or not path or not step:
            raise ConfigError(
                f"{text!r} names no step of a run; write RUN@STEP, such as runs/a.zarr@500, "
                "runs/a.zarr@2ep or runs/a.zarr@final"
            )
        return cls(path=path, step=step)

    def resolve(self, stored: StoredRun) -> int:
        """Return the step's number, whether or not it was recorded; StepError if outside."""
        if not len(stored.steps):
            raise StepError(f"{stored.path} holds no recorded step yet")
        first, last = int(stored.attributes.get("start_step", 0)), int(stored.steps[-1])
        named = {"init": first, "final": last}.get(self.step)
        epoch = stored.attributes.get("steps_per_epoch")
        step = parse_step(self.step, epoch) if named is None else named
        if not first <= step <= last:
            raise StepError(
                f"step {self.step} lies outside {stored.path}; accepted: {first} to {last}"
            )
        return step


def branch_config(
    stored: StoredRun,
    path: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    as_parent: bool = True,
) -> Config:
    """Read the settings of a run and change some of them.

    Parameters
    ----------
    stored : StoredRun
        The run that is branched from. One without settings (imported, or recorded from a training
        loop outside ckptlab) needs ``model.name`` in `path` or `overrides`.
    path : Path, optional
        A TOML file with settings that differ.
    overrides : sequence of str
        Each ``section.key=value``.
    as_parent : bool
        Pin device and threads to those of the run, where the settings leave them open.

    Returns
    -------
    Config
        The settings of the branch.

    Raises
    ------
    ConfigError
        If a key is unknown, a value is not accepted, or the run does not say which network it is.
    """
    if has_settings(stored.attributes):
        config = run_config(stored.attributes, stored.path, path, overrides)
        return as_before(stored.attributes, config) if as_parent else config
    unnamed = load_config(path, overrides, base={"model": {"name": "mlp"}})
    config = load_config(path, overrides)
    if config.problem.name is None and unnamed.model.name != config.model.name:
        raise ConfigError(
            f"{stored.path} holds no settings of the built-in trainer (it was imported, or "
            "recorded from a training loop outside ckptlab), so it does not say which network to "
            "train; name network and data: -S model.name=... -S data.name=..., or a problem of "
            "your own: -S problem.name=..."
        )
    return config


def take(
    stored: StoredRun,
    step: int,
    config: Config,
    *,
    at: int | None = None,
    fresh_optimizer: bool = False,
    going_on: bool = True,
    allow_inexact: bool = False,
) -> Start:
    """Take the state of a run at a step, as the start of another training.

    Parameters
    ----------
    stored : StoredRun
        The run.
    step : int
        Which step.
    config : Config
        Of the training that begins.
    at : int, optional
        Number the step has in the new training; the same by default.
    fresh_optimizer : bool
        Begin without the optimizer's state, as rewinding does.
    going_on : bool
        Whether what begins is to go on as the run did, bit for bit, if nothing else changes.
    allow_inexact : bool
        Accept another device, torch or number of threads than the run was made with.

    Returns
    -------
    Start
        With the optimizer's state as it was, unless it is to be fresh.

    Raises
    ------
    ConfigError
        If the state can not be had exactly.
    StepError
        If the step lies outside the run.
    """
    first = int(stored.attributes.get("start_step", 0))
    recorded = step in stored.steps
    anchored = step in stored.anchors
    if going_on and not fresh_optimizer and not allow_inexact:
        require_exact(stored, config)
    if anchored or (recorded and (fresh_optimizer or (step == first and _began_fresh(stored)))):
        state = _read(stored, step, anchored=anchored and not fresh_optimizer)
        how = "fresh" if fresh_optimizer or not anchored else "stored"
    else:
        state = _replay(stored, step, config, allow_inexact=allow_inexact, recorded=recorded)
        how = "replayed"
        if fresh_optimizer:
            state, how = replace(state, anchor=None), "fresh"
    number = step if at is None else at
    origin = {"run": stored.path, "step": step, "optimizer": how, "start": number}
    return replace(state, step=number, origin=origin)


def start_of(attributes: Mapping[str, Any], config: Config, *, allow_inexact: bool) -> Start | None:
    """Return the state a recorded run began from; None if that is its initialisation.

    Raises
    ------
    ConfigError
        If the run does not say where it began.
    StoreError
        If the run it branched from is gone.
    """
    origin = attributes.get("branch")
    if not origin:
        if int(attributes.get("start_step", 0)):
            raise ConfigError(
                "the run does not begin at its initialisation, and none of its snapshots was "
                "committed to resume from; start it again with what made it"
            )
        return None
    return take(
        open_store(str(origin["run"])),
        int(origin["step"]),
        config,
        at=int(origin["start"]),
        fresh_optimizer=origin["optimizer"] == "fresh",
        allow_inexact=allow_inexact,
    )


def require_network(stored: StoredRun, config: Config) -> None:
    """Raise LayoutError unless a run has the network of the settings, but for its output layer."""
    problem = build_problem(config)
    live = capture(build_model(problem.model, init_seed=0))
    fresh_tensors(live.layout, stored.layout, len(problem.answers))


def require_exact(stored: StoredRun, config: Config) -> None:
    """Raise ConfigError unless a branch computes as the run it leaves did."""
    if not has_settings(stored.attributes):
        raise ConfigError(
            f"{stored.path} was imported, or recorded from a training loop outside ckptlab, which "
            "can not be repeated here; begin with a fresh optimizer (--fresh-optimizer)."
        )
    before = as_before(stored.attributes, stored_config(stored.attributes))
    here = as_before(stored.attributes, config)
    for key, (old, new) in differences(before, here).items():
        if key in INEXACT:
            raise ConfigError(
                f"{key}={new!r} differs from {old!r} of {stored.path}, so that the branch would "
                "not go on exactly; leave it out, begin with a fresh optimizer, or allow inexact "
                "results."
            )
    require_same_machine(stored.attributes, resolve_device(here.train))


def _began_fresh(stored: StoredRun) -> bool:
    origin = stored.attributes.get("branch") or {}
    return bool(origin.get("optimizer", "fresh") == "fresh")


def _read(stored: StoredRun, step: int, *, anchored: bool) -> Start:
    arrays = ["weights", *(a for a in stored.layout.buffer_sizes if a in stored.arrays)]
    return Start(
        step=step,
        layout=stored.layout,
        vectors={array: stored.snapshot(step, array) for array in arrays},
        anchor=stored.anchor(step) if anchored else None,
        mask=stored.mask(),
    )


def _replay(
    stored: StoredRun, step: int, branch: Config, *, allow_inexact: bool, recorded: bool
) -> Start:
    """Repeat the training of a run from the last state that is stored before a step."""
    config = as_before(stored.attributes, stored_config(stored.attributes))
    if branch.data.name == config.data.name and hasattr(config.data, "root"):
        # Where the data lie is the user's to say, and was asked for the branch.
        config = change(config, data={"root": getattr(branch.data, "root", None)})
    else:
        config = run_config(stored.attributes, stored.path)
        config = as_before(stored.attributes, config)
    if not allow_inexact:
        require_same_machine(stored.attributes, resolve_device(config.train))
    earlier = [int(anchor) for anchor in stored.anchors if anchor <= step]
    start = (
        _read(stored, earlier[-1], anchored=True)
        if earlier
        else start_of(stored.attributes, config, allow_inexact=allow_inexact)
    )
    mask = stored.mask()
    training = build(config, mask)
    with training.numerics():
        begin(training, start)
        for k in range(0 if start is None else start.step, step):
            training.step(k)
    captured = capture(training.model)
    state = copy_state(training.optimizer, captured, step).to_anchor()
    live = {"weights": captured.parameters, **captured.buffers}
    vectors = {array: _flat(tensors, array) for array, tensors in live.items()}
    replayed = Start(step=step, layout=captured.layout, vectors=vectors, anchor=state, mask=mask)
    if not recorded:
        return replayed
    known = _read(stored, step, anchored=False)
    if not allow_inexact and not np.array_equal(
        known.vectors["weights"].view(np.uint32), vectors["weights"].view(np.uint32)
    ):
        raise ConfigError(
            f"repeating {stored.path} up to step {step} gave other weights than were recorded, so "
            "the optimizer's state is not known exactly; branch at the end of a block, begin with "
            "a fresh optimizer, or allow inexact results."
        )
    return replace(known, anchor=state)


def _flat(tensors: Sequence[torch.Tensor], array: str) -> npt.NDArray[Any]:
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return (flat.float() if array in ("weights", "buffers") else flat).cpu().numpy()
