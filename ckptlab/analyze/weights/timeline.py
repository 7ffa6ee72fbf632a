"""The phases of early training, and what this run shows of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.moments import Moments, compute_moments
from ckptlab.analyze.engine.selection import Reference, Selection, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.weights.gradients import pooled_gradients
from ckptlab.errors import StepError

UNKNOWN = "not measured"

ACCURACY = 0.5
"""What the test accuracy passes in the second phase."""

SMOOTHING = 10
"""Gradient norms are averaged over so many updates before and after, to find their minimum: single
mini-batches differ by more than the dip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Phase:
    """One phase of the paper's timeline.

    Parameters
    ----------
    name : str
        Short.
    start : int
        First step; it lasts until the next phase starts.
    finding : str
        What the paper reports.
    """

    name: str
    start: int
    finding: str


PHASES: tuple[Phase, ...] = (
    Phase(name="fast motion", start=0, finding="gradients and weight changes are the largest"),
    Phase(
        name="gradient dip",
        start=10,
        finding="gradients pass a minimum, accuracy passes 50 %",
    ),
    Phase(name="slowing", start=500, finding="weights move less with each update than before"),
    Phase(name="saturation", start=2000, finding="weights move still less, accuracy saturates"),
)
"""The paper's figure 2, for ResNet-20 on CIFAR-10 at batch 128."""


def timeline(
    source: Source, *, kinds: Any = None, mask: Any = None, scheduler: Any = None
) -> xr.Dataset:
    """The phases of early training, with the evidence for each.

    Parameters
    ----------
    source : Source
        The recording.
    kinds, mask : object
        As `selection.select` takes them.
    scheduler : object
        As `open_executor` takes it.

    Returns
    -------
    Dataset, dims (phase,)
        The steps of each phase, figures over it, the paper's finding, whether this run agrees
        (``yes``, ``no`` or ``not measured``), and one line of text. The first phase agrees if the
        weights move most in it; the second if the smoothed gradient norm is least there, rises
        after, and the accuracy at its end is at least 50 %; the third if the weights move less than
        before; the last if, besides, the accuracy gains less than in the phase before.

    Raises
    ------
    StepError
        If the run holds fewer than two steps.
    """
    selection = select(source, kinds=kinds, mask=mask)
    moments = compute_moments(source, selection, phase_references(selection), scheduler=scheduler)
    return timeline_of(source, moments)


def phase_references(selection: Selection) -> tuple[Reference, ...]:
    """Return the snapshots that a timeline compares with: the first of each phase.

    Parameters
    ----------
    selection : Selection
        Steps.

    Returns
    -------
    tuple of Reference
        One for each phase that the steps reach.
    """
    return tuple(_reference(selection, start) for _, start, _ in _spans(selection))


def timeline_of(source: Source, moments: Moments) -> xr.Dataset:
    """Turn sums into the timeline.

    Parameters
    ----------
    source : Source
        The recording.
    moments : Moments
        Over the whole network, against `phase_references` of their selection.

    Returns
    -------
    Dataset, dims (phase,)
        As `timeline` returns it.

    Raises
    ------
    StepError
        If fewer than two steps were selected.
    """
    selection = moments.selection
    if len(selection.steps) < 2:
        raise StepError(f"{source.path} holds one step; a timeline needs at least 2")
    spans = _spans(selection)
    recorded = _recorded(source, selection)
    rows = [_figures(moments, _reference(selection, a), a, b, recorded) for _, a, b in spans]
    return _dataset([phase for phase, _, _ in spans], rows, moments)


def _reference(selection: Selection, start: int) -> Reference:
    step = int(selection.steps[start])
    return Reference(str(step), int(selection.columns[start]), step)


def _spans(selection: Selection) -> list[tuple[Phase, int, int]]:
    """Positions of the first and last selected step of each phase that the run reaches."""
    ends = [phase.start for phase in PHASES[1:]] + [int(selection.steps[-1])]
    spans = []
    for phase, end in zip(PHASES, ends, strict=True):
        a, b = np.searchsorted(selection.steps, [phase.start, end + 1])
        if b - 1 > a:
            spans.append((phase, int(a), int(b - 1)))
    return spans


def _recorded(source: Source, selection: Selection) -> dict[str, Any]:
    pooled = pooled_gradients(source, selection) if selection.mask is None else {}
    norm = pooled.get("gradient_norm")
    known = source.has("eval_accuracy")
    return {
        "gradient": None if norm is None else norm.values,
        "smooth": None if norm is None else smoothed(norm.values, selection.steps),
        "eval_step": np.asarray(source.small("eval_step")) if known else np.zeros(0, np.int64),
        "accuracy": np.asarray(source.small("eval_accuracy")) if known else np.zeros(0),
    }


def _figures(
    moments: Moments, reference: Reference, a: int, b: int, recorded: dict[str, Any]
) -> dict[str, float]:
    steps = moments.selection.steps
    inside = slice(a + 1, b + 1)
    against = moments.against(reference)
    change = np.sqrt(moments.previous.distance[0, inside]) / moments.interval[inside]
    gradient, smooth = recorded["gradient"], recorded["smooth"]
    part = np.zeros(0) if gradient is None else gradient[inside]
    measured = np.isfinite(part).any()
    lowest = a + 1 + int(np.nanargmin(smooth[inside])) if measured else 0
    before = np.flatnonzero(recorded["eval_step"] <= steps[b])
    return {
        "start": float(steps[a]),
        "stop": float(steps[b]),
        "change_per_update": float(np.mean(change)),
        "distance": float(np.sqrt(against.distance[0, b])),
        "sign_flips": float(against.flips[0, b] / moments.selection.weights[0]),
        "gradient_norm": float(np.nanmean(part)) if measured else np.nan,
        "gradient_min": float(smooth[lowest]) if measured else np.nan,
        "gradient_min_step": float(steps[lowest]) if measured else np.nan,
        "accuracy": float(recorded["accuracy"][before[-1]]) if len(before) else np.nan,
    }


def smoothed(
    values: npt.NDArray[np.float64], steps: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Average a series over neighbouring updates.

    Parameters
    ----------
    values : ndarray, shape (step,)
        NaN where nothing was measured.
    steps : ndarray of int64, shape (step,)
        Increasing.

    Returns
    -------
    ndarray, shape (step,)
        The mean of what was measured at most `SMOOTHING` updates before or after.
    """
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    low = np.searchsorted(steps, steps - SMOOTHING)
    high = np.searchsorted(steps, steps + SMOOTHING, side="right")
    found = counts[high] - counts[low]
    return np.where(found > 0, (sums[high] - sums[low]) / np.maximum(found, 1), np.nan)


LONG_NAMES = {
    "start": ("optimizer updates", "first step"),
    "stop": ("optimizer updates", "last step"),
    "change_per_update": ("weight", "mean distance moved by an update"),
    "distance": ("weight", "distance moved over the phase"),
    "sign_flips": ("1", "share of signs that differ between its ends"),
    "gradient_norm": ("loss per weight", "mean gradient norm"),
    "gradient_min": ("loss per weight", f"smallest gradient norm, mean over ±{SMOOTHING} updates"),
    "gradient_min_step": ("optimizer updates", "step of the smallest gradient norm"),
    "accuracy": ("1", "test accuracy at its last evaluation"),
}


def _dataset(phases: list[Phase], rows: list[dict[str, float]], moments: Moments) -> xr.Dataset:
    data: dict[str, Any] = {
        name: ("phase", np.array([row[name] for row in rows]), {"units": unit, "long_name": text})
        for name, (unit, text) in LONG_NAMES.items()
    }
    agrees = [_agrees(phase, rows, i) for i, phase in enumerate(phases)]
    text = [_text(p, row, a) for p, row, a in zip(phases, rows, agrees, strict=True)]
    for name, values in (
        ("finding", [phase.finding for phase in phases]),
        ("agrees", agrees),
        ("text", text),
    ):
        data[name] = ("phase", np.array(values, object))
    selection = moments.selection
    attrs = {"kinds": ",".join(selection.kinds), "weights": int(selection.weights[0])}
    if selection.mask is not None:
        attrs["mask"] = selection.mask
    names = np.array([phase.name for phase in phases], object)
    return xr.Dataset(data, {"phase": ("phase", names)}, attrs)


def _agrees(phase: Phase, rows: list[dict[str, float]], i: int) -> str:
    """Compare the evidence with the finding; NaN in it means that it was not measured."""
    here = rows[i]
    change = np.array([row["change_per_update"] for row in rows])
    lowest = np.array([row["gradient_min"] for row in rows])
    accuracy = np.array([row["accuracy"] for row in rows])
    gain = np.diff(accuracy, prepend=np.nan)
    evidence = [change if len(rows) > 1 else np.nan]
    if phase is PHASES[0]:
        holds = change[0] == change.max()
    elif phase is PHASES[1]:
        evidence = [lowest, here["accuracy"]]
        rises = here["gradient_min_step"] + SMOOTHING < rows[-1]["stop"]
        holds = here["gradient_min"] == lowest.min() and rises and here["accuracy"] >= ACCURACY
    else:
        holds = i > 0 and change[i] < change[i - 1]
    if phase is PHASES[3]:
        evidence.append(gain[i - 1 :] if i > 1 else np.nan)
        holds = holds and i > 1 and gain[i] < gain[i - 1]
    if np.isnan(np.concatenate([np.atleast_1d(part) for part in evidence])).any():
        return UNKNOWN
    return "yes" if holds else "no"


def _text(phase: Phase, row: dict[str, float], agrees: str) -> str:
    parts = [
        f"moves {row['change_per_update']:.3g} an update, {row['distance']:.3g} in all",
        f"{100 * row['sign_flips']:.2g} % of signs flip",
    ]
    if np.isfinite(row["gradient_norm"]):
        parts.append(
            f"gradient norm {row['gradient_norm']:.3g}, smallest {row['gradient_min']:.3g} "
            f"at step {row['gradient_min_step']:.0f}"
        )
    if np.isfinite(row["accuracy"]):
        parts.append(f"test accuracy {100 * row['accuracy']:.1f} %")
    steps = f"{row['start']:.0f}-{row['stop']:.0f}"
    return f"{steps} {phase.name}: {', '.join(parts)}. Paper: {phase.finding}; here: {agrees}."
