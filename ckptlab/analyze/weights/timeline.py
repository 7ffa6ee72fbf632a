"""Compare the phases of early training with what a run shows of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ckptlab.analyze.engine.histories import sum_over_paths
from ckptlab.analyze.engine.moments import Moments, compute_moments
from ckptlab.analyze.engine.observed import ObservedSource, observed
from ckptlab.analyze.engine.selection import Reference, Selection, select
from ckptlab.analyze.engine.source import Source
from ckptlab.analyze.weights.distance import PREVIOUS
from ckptlab.analyze.weights.gradients import pooled_gradients
from ckptlab.errors import StepError

Array = npt.NDArray[Any]

UNKNOWN, UNEVALUATED = "not measured", "not evaluated"

TOLERANCE = 0.05
"""Two speeds, or accuracies' gains, that differ by less than this share are the same."""

MOST_PAIRS = 64
"""Steps that are compared at most to find the speed of a phase over a longer interval."""

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
    source: Source,
    *,
    kinds: Any = None,
    mask: Any = None,
    scheduler: Any = None,
    memory: Any = None,
) -> xr.Dataset:
    """The phases of early training, with the evidence for each.

    Parameters
    ----------
    source : Source
        The recording.
    kinds, mask : object
        As `engine.selection.select` takes them.
    scheduler, memory : object
        As `compute_moments` takes them.

    Returns
    -------
    Dataset, dims (phase,)
        The steps of each phase, figures over it, the paper's finding, whether this run agrees
        (``yes``, ``no``, ``not measured`` or ``not evaluated``), and one line of text. The first
        phase agrees if the weights move most in it; the second if the smoothed gradient norm is
        least there, rises after, and the accuracy at its end is at least 50 %; the third if the
        weights move less than before; the last if, besides, the accuracy gains less than in the
        phase before. Speeds are compared over intervals of the same length, and differ if they do
        by more than 5 %. The accuracy of a phase is that of an evaluation in its second half.

    Raises
    ------
    StepError
        If the run holds fewer than two steps.
    """
    source = observed(source, mask=mask)
    selection = select(source, kinds=kinds, mask=mask)
    references = phase_references(selection)
    moments = compute_moments(source, selection, references, scheduler=scheduler, memory=memory)
    return timeline_of(source, moments, scheduler=scheduler, memory=memory)


def phase_references(selection: Selection) -> tuple[Reference, ...]:
    """Return the snapshots that a timeline compares with: the first of each phase it reaches."""
    return tuple(_reference(selection, start) for _, start, _ in _spans(selection))


def timeline_of(source: Source, moments: Moments, **resources: Any) -> xr.Dataset:
    """Make `timeline` from sums over the whole network against `phase_references`."""
    selection = moments.selection
    if len(selection.steps) < 2:
        raise StepError(f"{source.path} holds one step; a timeline needs at least 2")
    spans = _spans(selection)
    recorded = _recorded(source, selection)
    speeds = Speeds(source, moments, [(a, b) for _, a, b in spans], resources)
    rows = [
        _figures(moments, _reference(selection, a), a, b, recorded)
        | {
            "change_per_update": speeds.own(i),
            "change_ratio": speeds.ratio(i, i - 1) if i else np.nan,
        }
        for i, (_, a, b) in enumerate(spans)
    ]
    return _dataset([phase for phase, _, _ in spans], rows, moments, speeds)


class Speeds:
    """How fast the weights move in each phase, over intervals that can be compared.

    The distance moved in an interval grows with its root where the weights wander, and with its
    length where they go straight on; so speeds over different intervals say nothing. A phase that
    was recorded more densely than another is measured at the other's interval, too.
    """

    def __init__(
        self,
        source: Source,
        moments: Moments,
        spans: list[tuple[int, int]],
        resources: dict[str, Any],
    ) -> None:
        self._source, self._moments, self._resources = source, moments, resources
        self._spans = spans
        self._intervals = [self._common_interval(a, b) for a, b in spans]
        self._found: dict[tuple[int, int], float] = {}

    def _common_interval(self, a: int, b: int) -> int:
        lengths, counts = np.unique(self._moments.interval[a + 1 : b + 1], return_counts=True)
        return int(lengths[np.argmax(counts)])

    def own(self, i: int) -> float:
        """Return the mean distance an update of phase i moves, over its most common interval."""
        return self.over(i, self._intervals[i])

    def ratio(self, i: int, j: int) -> float:
        """Return the speed in phase i relative to that in j; NaN if no interval is common."""
        interval = max(self._intervals[i], self._intervals[j])
        one, other = self.over(i, interval), self.over(j, interval)
        return one / other if other > 0 else np.nan

    def over(self, i: int, interval: int) -> float:
        """Return the mean distance an update of phase i moves, over intervals of a length."""
        if (i, interval) not in self._found:
            self._found[i, interval] = self._measure(*self._spans[i], interval)
        return self._found[i, interval]

    def _measure(self, a: int, b: int, interval: int) -> float:
        moments = self._moments
        inside = slice(a + 1, b + 1)
        same = moments.interval[inside] == interval
        if same.any():
            squares = moments.get("distance", PREVIOUS)[0, inside][same]
        elif isinstance(self._source, ObservedSource):
            return np.nan
        else:
            before, after = _pairs(moments.selection.steps[a : b + 1], interval)
            if not len(before):
                return np.nan
            squares = self._squares(a + before, a + after)
        return float(np.mean(np.sqrt(squares)) / interval)

    def _squares(self, before: Array, after: Array) -> Array:
        selection = self._moments.selection
        at = np.union1d(before, after)
        function = partial(_increments, np.searchsorted(at, before), np.searchsorted(at, after))
        columns = selection.columns[at]
        return sum_over_paths(self._source, selection, columns, function, **self._resources)


def _pairs(steps: npt.NDArray[np.int64], interval: int) -> tuple[Array, Array]:
    """Return positions of steps that lie exactly an interval apart, few and spread out."""
    before, after, free = [], [], -1
    positions = {step: k for k, step in enumerate(steps.tolist())}
    for k, step in enumerate(steps.tolist()):
        if step >= free and step + interval in positions:
            before.append(k)
            after.append(positions[step + interval])
            free = step + interval
    chosen = np.unique(np.linspace(0, len(before) - 1, MOST_PAIRS).round().astype(int))
    if not before:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.array(before)[chosen], np.array(after)[chosen]


def _increments(before: Array, after: Array, path: Array) -> Array:
    """Return Σ(w_after − w_before)² of each pair of steps."""
    squares: Array = ((path[:, after] - path[:, before]) ** 2).sum(axis=0)
    return squares


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
    norm = pooled_gradients(source, selection).get("gradient_norm")
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
    gradient, smooth = recorded["gradient"], recorded["smooth"]
    part = np.zeros(0) if gradient is None else gradient[inside]
    measured = np.isfinite(part).any()
    lowest = a + 1 + int(np.nanargmin(smooth[inside])) if measured else 0
    # An evaluation of the phase's first half says little of its end.
    at = recorded["eval_step"]
    near = np.flatnonzero((at <= steps[b]) & (2 * at > steps[a] + steps[b]))
    return {
        "start": float(steps[a]),
        "stop": float(steps[b]),
        "distance": float(np.sqrt(moments.get("distance", reference)[0, b])),
        "sign_flips": float(moments.get("flips", reference)[0, b] / moments.selection.weights[0]),
        "gradient_norm": _mean_over_updates(part, moments.interval[inside]),
        "gradient_min": float(smooth[lowest]) if measured else np.nan,
        "gradient_min_step": float(steps[lowest]) if measured else np.nan,
        "accuracy": float(recorded["accuracy"][near[-1]]) if len(near) else np.nan,
    }


def _mean_over_updates(values: Array, interval: Array) -> float:
    """Average over updates: a step recorded after 50 of them stands for 50."""
    known = np.isfinite(values)
    return float(np.average(values[known], weights=interval[known])) if known.any() else np.nan


def smoothed(
    values: npt.NDArray[np.float64], steps: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Average a series over what was measured at most `SMOOTHING` updates before or after."""
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
    "change_per_update": (
        "weight",
        "mean distance moved by an update, over the most common interval",
    ),
    "change_ratio": ("1", "the same against the phase before, over intervals of one length"),
    "distance": ("weight", "distance moved over the phase"),
    "sign_flips": ("1", "share of signs that differ between its ends"),
    "gradient_norm": ("loss per weight", "mean gradient norm"),
    "gradient_min": ("loss per weight", f"smallest gradient norm, mean over ±{SMOOTHING} updates"),
    "gradient_min_step": ("optimizer updates", "step of the smallest gradient norm"),
    "accuracy": ("1", "test accuracy of an evaluation in its second half"),
}


def _dataset(
    phases: list[Phase], rows: list[dict[str, float]], moments: Moments, speeds: Speeds
) -> xr.Dataset:
    data: dict[str, Any] = {
        name: ("phase", np.array([row[name] for row in rows]), {"units": unit, "long_name": text})
        for name, (unit, text) in LONG_NAMES.items()
    }
    agrees = [_agrees(phase, rows, i, speeds) for i, phase in enumerate(phases)]
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


def _agrees(phase: Phase, rows: list[dict[str, float]], i: int, speeds: Speeds) -> str:
    """Compare the evidence with the finding; NaN in it means that it was not measured."""
    here = rows[i]
    accuracy = np.array([row["accuracy"] for row in rows])
    gain = np.diff(accuracy, prepend=np.nan)
    slower = here["change_ratio"] < 1 - TOLERANCE
    evidence: list[float] = [here["change_ratio"]]
    evaluated: list[float] = []
    if phase is PHASES[0]:
        ratios = np.array([speeds.ratio(k, 0) for k in range(1, len(rows))])
        known = ratios[np.isfinite(ratios)]
        # The next phase at least; later ones may be recorded too sparsely to compare.
        evidence = [ratios[0] if len(ratios) else np.nan]
        holds = bool((known < 1 - TOLERANCE).all())
    elif phase is PHASES[1]:
        lowest = np.array([row["gradient_min"] for row in rows])
        evidence, evaluated = list(lowest), [here["accuracy"]]
        rises = here["gradient_min_step"] + SMOOTHING < rows[-1]["stop"]
        holds = here["gradient_min"] == lowest.min() and rises and here["accuracy"] >= ACCURACY
    else:
        holds = slower
    if phase is PHASES[3]:
        evaluated = list(gain[i - 1 : i + 1]) if i > 1 else [np.nan]
        holds = holds and i > 1 and bool(gain[i] < (1 - TOLERANCE) * gain[i - 1])
    if np.isnan(evidence).any():
        return UNKNOWN
    if np.isnan(evaluated).any():
        return UNEVALUATED
    return "yes" if holds else "no"


def _text(phase: Phase, row: dict[str, float], agrees: str) -> str:
    parts = [f"moves {row['change_per_update']:.3g} an update"]
    if np.isfinite(row["distance"]):
        parts[0] += f", {row['distance']:.3g} in all"
        parts.append(f"{100 * row['sign_flips']:.2g} % of signs flip")
    else:
        parts[0] += " (the snapshots at its ends are not stored)"
    if np.isfinite(row["gradient_norm"]):
        parts.append(
            f"gradient norm {row['gradient_norm']:.3g}, smallest {row['gradient_min']:.3g} "
            f"at step {row['gradient_min_step']:.0f}"
        )
    if np.isfinite(row["accuracy"]):
        parts.append(f"test accuracy {100 * row['accuracy']:.1f} %")
    steps = f"{row['start']:.0f}-{row['stop']:.0f}"
    return f"{steps} {phase.name}: {', '.join(parts)}. Paper: {phase.finding}; here: {agrees}."
