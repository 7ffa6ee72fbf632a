"""Which weights and steps a measurement takes, and how weights are pooled."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ckptlab.analyze.engine.masks import Mask, surviving
from ckptlab.analyze.engine.source import Source, TensorRuns
from ckptlab.analyze.engine.warnings import SelectionWarning
from ckptlab.errors import LayoutError, MissingStepError, StepError, spell, unknown_name
from ckptlab.record.schedule import parse_schedule, parse_step
from ckptlab.store.format.layout import DEFAULT_KINDS
from ckptlab.store.read.ancestry import find_ancestor, is_branch
from ckptlab.store.read.reader import StoredRun

BY: tuple[str, ...] = ("network", "layer", "tensor")
"""What weights are pooled over."""

RELATIVE_TO: tuple[str, ...] = ("init", "final", "previous")
"""Names that can stand for a reference step."""


@dataclass(frozen=True)
class Selection:
    """Steps and pooled weights.

    Parameters
    ----------
    columns : ndarray of int64, shape (step,)
        Positions of the selected steps among the recorded ones.
    steps : ndarray of int64, shape (step,)
        The steps themselves.
    tensor_group : ndarray of int32, shape (tensors,)
        Group of each tensor, −1 where it is not selected.
    names : tuple of str
        Names of the groups: layers, tensors, or ``network``.
    weights : ndarray of int64, shape (groups,)
        How many weights each group has.
    by : str
        One of `BY`.
    kinds : tuple of str
        Kinds of tensors selected.
    keep : Mask or None
        The mask, that of the run included.
    source : Source
        The recording.
    """

    columns: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]
    tensor_group: npt.NDArray[np.int32]
    names: tuple[str, ...]
    weights: npt.NDArray[np.int64]
    by: str
    kinds: tuple[str, ...]
    keep: Mask | None
    source: Source = field(repr=False)

    @property
    def mask(self) -> str | None:
        """What the mask is called, for the attributes of results."""
        return None if self.keep is None else self.keep.label

    @property
    def group(self) -> npt.NDArray[np.int32]:
        """Group of every weight, shape (param,): as large as the model."""
        return self.rows(slice(0, self.source.parameters)).group()

    def rows(self, rows: slice) -> Rows:
        """Describe which weights of a stretch of parameters are selected."""
        keep = None if self.keep is None else self.keep.values[rows]
        return Rows(self.source.tensor_runs(rows), self.tensor_group, keep)


@dataclass(frozen=True)
class Rows:
    """Which weights of a stretch of parameters are selected; small until a task asks.

    `keep` is the mask of the stretch.
    """

    runs: TensorRuns
    tensor_group: npt.NDArray[np.int32]
    keep: npt.NDArray[np.bool_] | None = None

    @property
    def selected(self) -> bool:
        """Whether one of its tensors is, before the mask."""
        return bool((self.tensor_group[self.runs.tensors] >= 0).any())

    def tensor(self) -> npt.NDArray[np.int32]:
        """Return the tensor of each weight, shape (rows,)."""
        return np.repeat(self.runs.tensors, self.runs.counts)

    def group(self) -> npt.NDArray[np.int32]:
        """Return the group of each weight, shape (rows,), −1 where it is not selected."""
        group = np.repeat(self.tensor_group[self.runs.tensors], self.runs.counts)
        return group if self.keep is None else np.where(self.keep, group, np.int32(-1))


@dataclass(frozen=True)
class Reference:
    """A resolved ``relative_to``.

    Parameters
    ----------
    name : str
        ``init``, ``final``, ``previous`` or the step.
    column : int or None
        Position among the recorded steps; None for ``previous``.
    step : int or None
        The step; None for ``previous``.
    ancestor : StoredRun or None
        The run that holds the step, where the measured one branched from it later.
    """

    name: str
    column: int | None
    step: int | None
    ancestor: StoredRun | None = None

    def read(self, source: Source, array: str) -> npt.NDArray[Any]:
        """Read the snapshot, shape (param,)."""
        if self.ancestor is not None and self.step is not None:
            return self.ancestor.snapshot(self.step, array)
        if self.column is None:
            raise MissingStepError(f"{self.name!r} names no single step")
        return source.column(array, self.column)


def select(
    source: Source,
    *,
    steps: Any = None,
    by: str = "network",
    kinds: str | Sequence[str] | None = None,
    mask: Any = None,
) -> Selection:
    """Select steps and weights.

    Parameters
    ----------
    source : Source
        The recording.
    steps : str, int or slice, optional
        ``A:B[:stride]`` or whatever a schedule accepts; all recorded steps by default.
    by : str
        Pool weights over the network, each layer or each tensor.
    kinds : str or sequence of str, optional
        Kinds of tensors, comma-separated or as a list; convolutions and linear layers by default.
    mask : ndarray of bool, DataArray, path, optional
        True keeps; see `load_mask`.

    Returns
    -------
    Selection
        What they come to.

    Raises
    ------
    StepError
        If no recorded step is selected, or the range reaches beyond the run.
    LayoutError
        If no weight is selected, or the mask is of another model.
    UnknownNameError
        If `by` or a kind does not exist.
    """
    if by not in BY:
        raise unknown_name(f"value of {spell('by')}", str(by), BY)
    columns = select_columns(source, steps)
    chosen_kinds, chosen = _tensors(source, parse_kinds(kinds))
    names, tensor_group = _groups(source, by, chosen)
    selection = Selection(
        columns=columns,
        steps=source.steps[columns],
        tensor_group=tensor_group,
        names=names,
        weights=np.zeros(len(names), np.int64),
        by=by,
        kinds=chosen_kinds,
        keep=surviving(source, mask),
        source=source,
    )
    selection = replace(selection, weights=count_weights(selection))
    if not selection.weights.any():
        raise _no_weight(selection.keep, chosen_kinds)
    return selection


def _tensors(
    source: Source, kinds: tuple[str, ...]
) -> tuple[tuple[str, ...], npt.NDArray[np.bool_]]:
    """Select tensors by kind; all matrices of a model that has none of the default kinds."""
    tensors = source.layout.tensors
    matrices = np.array([len(tensor.shape) > 1 for tensor in tensors])
    missing = kinds == DEFAULT_KINDS and not any(t.kind in DEFAULT_KINDS for t in tensors)
    if not missing or not matrices.any():
        return kinds, source.layout.select(kinds)
    warnings.warn(
        f"{source.path} has no conv or linear weights: its {matrices.sum()} matrices (tensors of "
        f"two dims or more) are measured instead. Choose others with {spell('kinds')}",
        SelectionWarning,
        stacklevel=5,
    )
    return ("matrices",), matrices


def count_weights(selection: Selection) -> npt.NDArray[np.int64]:
    """Count the selected weights of each group, a stretch of parameters after the other."""
    counts = np.zeros(len(selection.names), np.int64)
    parameters = selection.source.parameters
    for start in range(0, parameters, 2**22):
        rows = selection.rows(slice(start, min(start + 2**22, parameters)))
        group = rows.group() if rows.keep is not None else rows.tensor_group[rows.runs.tensors]
        held = np.ones(len(group), np.int64) if rows.keep is not None else rows.runs.counts
        np.add.at(counts, group[group >= 0], held[group >= 0])
    return counts


def _no_weight(keep: Mask | None, kinds: tuple[str, ...]) -> LayoutError:
    what = f"of kinds {','.join(kinds)}; use {spell('kinds', 'all')}"
    if keep is None:
        return LayoutError(f"the dataset holds no weight {what}")
    if not keep.values.any():
        return LayoutError(f"mask {keep.label!r} keeps no weight; True keeps one")
    return LayoutError(f"mask {keep.label!r} keeps no weight {what}")


def parse_kinds(kinds: str | Sequence[str] | None) -> tuple[str, ...]:
    """Read a list of kinds, comma-separated or not."""
    if kinds is None:
        return DEFAULT_KINDS
    parts = kinds.split(",") if isinstance(kinds, str) else list(kinds)
    return tuple(part.strip() for part in parts)


def select_columns(source: Source, steps: Any = None) -> npt.NDArray[np.int64]:
    """Find the positions of the recorded steps that a range holds.

    Parameters
    ----------
    source : Source
        The recording.
    steps : str, int or slice, optional
        All recorded steps by default.

    Returns
    -------
    ndarray of int64, shape (step,)
        Positions among `source.steps`.

    Raises
    ------
    StepError
        If there are none, or the range reaches beyond the last recorded step.
    """
    recorded = source.steps
    if not len(recorded):
        raise StepError(f"{source.path} holds no recorded step yet")
    last = int(recorded[-1])
    text = range_text(steps)
    fix = f"Use {spell('steps', f'{recorded[0]}:{last + 1}')}, or leave the end open."
    schedule = parse_schedule(text, steps_per_epoch(source))
    if schedule.end is not None and schedule.end > last + 1:
        raise StepError(
            f"{spell('steps', text)} reaches beyond the last recorded step {last} of "
            f"{source.path}; recorded: {_recorded(recorded)}. {fix}"
        )
    columns = np.flatnonzero(schedule.holds(recorded))
    if not len(columns):
        raise StepError(
            f"{spell('steps', text)} holds no recorded step; recorded: {_recorded(recorded)}. {fix}"
        )
    return columns.astype(np.int64)


def find_reference(
    source: Source, relative_to: Any, parameter: str = "relative_to", before: str = ""
) -> Reference:
    """Find the snapshot that ``relative_to`` means.

    Parameters
    ----------
    source : Source
        The recording.
    relative_to : str or int
        ``init`` (step 0, which a branch shares with the run it left), ``final`` (the last recorded
        step), ``previous`` or a step.
    parameter, before : str
        What the user gave it as, for errors: the parameter, and what stands before the step.

    Returns
    -------
    Reference
        The recorded step.

    Raises
    ------
    MissingStepError
        If that step was not recorded, or the run that a branch left is gone.
    UnknownNameError
        If it is neither a name nor a step.
    """
    name = str(relative_to)
    if name == "previous":
        return Reference(name, None, None)
    if name not in RELATIVE_TO and not name[:1].isdigit():
        raise unknown_name(f"value of {spell(parameter)}", name, (*RELATIVE_TO, "STEP"))
    recorded = source.steps
    if not len(recorded):
        raise MissingStepError(f"{source.path} holds no recorded step yet")
    if name == "final":
        return Reference(name, len(recorded) - 1, int(recorded[-1]))
    # An imported run may begin later.
    first = int(source.attributes.get("start_step", 0))
    if name == "init" and is_branch(source.attributes):
        return _initial_of_branch(source, first)
    step = first if name == "init" else parse_step(name, steps_per_epoch(source))
    position = int(np.searchsorted(recorded, step))
    if position < len(recorded) and recorded[position] == step:
        return Reference(name, position, step)
    nearest = int(recorded[np.argmin(np.abs(recorded - step))])
    raise MissingStepError(
        f"{spell(parameter, f'{before}{name}')}: step {step} was not recorded; recorded: "
        f"{_recorded(recorded)}. Use {spell(parameter, f'{before}{nearest}')}, the nearest."
    )


def _initial_of_branch(source: Source, first: int) -> Reference:
    given = spell("relative_to", "init")
    fix = f"use {spell('relative_to', first)}, where this run branched off."
    if source.parameters != source.layout.parameters:
        raise MissingStepError(
            f"{given} of a branch is step 0 of the run it left, which is read whole; measure the "
            f"whole dataset, or {fix}"
        )
    try:
        weights = source.column("weights", 0) if source.steps[0] == first else None
        run = find_ancestor(source.path, source.attributes, source.layout, weights)
    except MissingStepError as error:
        raise MissingStepError(f"{given}: {error}; or {fix}") from error
    return Reference("init", None, 0, run)


def steps_per_epoch(source: Source) -> int | None:
    """Return the length of an epoch in steps, where the run says it."""
    value = source.attributes.get("steps_per_epoch")
    return value if isinstance(value, int) else None


def _groups(
    source: Source, by: str, chosen: npt.NDArray[np.bool_]
) -> tuple[tuple[str, ...], npt.NDArray[np.int32]]:
    tensors = source.layout.tensors
    present = np.zeros(len(tensors), bool)
    present[source.tensor_runs(slice(0, source.parameters)).tensors] = True
    labels = [
        {"network": "network", "layer": tensor.layer, "tensor": tensor.name}[by]
        for tensor in tensors
    ]
    taken = [n for n, c, p in zip(labels, chosen, present, strict=True) if c and p]
    names = tuple(dict.fromkeys(taken)) or ("network",)
    position = {name: i for i, name in enumerate(names)}
    group = [
        position[n] if c and p else -1 for n, c, p in zip(labels, chosen, present, strict=True)
    ]
    return names, np.array(group, np.int32)


def range_text(steps: Any) -> str:
    """Write a range of steps as text: ``A:B:STRIDE`` for a slice, ``0:`` for None."""
    if steps is None:
        return "0:"
    if isinstance(steps, slice):
        parts = [steps.start, steps.stop, steps.step]
        return ":".join("" if part is None else str(part) for part in parts)
    return str(steps)


def _recorded(steps: npt.NDArray[np.int64]) -> str:
    return f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
