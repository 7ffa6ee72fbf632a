"""Select numbers from the results, by seed, and judge what needs more than a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ckptlab.experiments.results.regression import fit_line
from ckptlab.experiments.results.statistics import CONFIDENCE
from reproduction.evidence import (
    AGREES,
    CANNOT,
    DIFFERS,
    OPEN,
    By,
    Evidence,
    Verdict,
    all_of,
    between,
    higher,
    judge_interval,
)
from reproduction.rows import smooth

SPARSE = {"rewind": 500, "level": 2}
"""Where perturbations are judged: 26.2 % of the weights, as in the paper's figure 8."""


def telemetry(name: str, step: int) -> Any:
    """Select a curve of the telemetry at a step."""
    return lambda e, figure: e.at_step(figure, "telemetry", name, step)


def gradient_first(e: Evidence, figure: str) -> Verdict:
    """Judge whether gradients of steps 1 to 10 are larger than those after 100."""
    curves = e.values(figure, "telemetry", "gradient_norm")
    first, later = (
        {s: mean(c, *ends) for s, c in curves.items()} for ends in ((1, 10), (100, 4000))
    )
    return higher(first, later, 1, "")


def gradient_minimum(e: Evidence, figure: str) -> Verdict:
    """Judge whether the gradient's norm is lowest between steps 100 and 400."""
    curves = e.values(figure, "telemetry", "gradient_norm")
    lowest: By = {}
    for seed, curve in curves.items():
        early = [
            (v, s) for s, v in zip(curve["step"], smooth(curve), strict=True) if 20 < s <= 2000
        ]
        if early:
            lowest[seed] = float(min(early)[1])
    return between(lowest, 100, 400, 1, "")


def mean(curve: dict[str, list[float]], first: int, last: int) -> float:
    """Return the mean of a curve from one step to another."""
    inside = [v for s, v in zip(curve["step"], smooth(curve), strict=True) if first <= s <= last]
    return float(np.mean(inside)) if inside else float("nan")


def slows(e: Evidence, figure: str) -> Verdict:
    """Judge whether weights change more in steps 200 to 500 than in 2,000 to 4,000."""
    curves = e.values(figure, "telemetry", "weight_change")
    early, later = (
        {s: mean(c, *ends) for s, c in curves.items()} for ends in ((200, 500), (2000, 4000))
    )
    return higher(early, later, 1, "")


def phase(name: str, start: int, stop: int) -> Any:
    """Select a number of the timeline's phase between two steps."""

    def found(e: Evidence, figure: str) -> By:
        numbers, starts, stops = (
            e.values(figure, "timeline", part) for part in (name, "start", "stop")
        )
        spans = {seed: list(zip(starts[seed], stops[seed], strict=True)) for seed in numbers}
        return {
            seed: values[spans[seed].index((start, stop))]
            for seed, values in numbers.items()
            if (start, stop) in spans[seed]
        }

    return found


def imp(rewind: int, level: int, figure: str = "fig1-cifar", way: str = "imp") -> Any:
    """Select the accuracy after iterative pruning to a level, rewound to a step."""
    return lambda e, _: e.number(figure, "accuracy", rewind=rewind, level=level, pruning=way)


def kind(kind: str, **at: Any) -> Any:
    """Select the accuracy after a perturbation."""
    where = {**SPARSE, **at}
    return lambda e, figure: e.number(figure, "accuracy", perturbation=kind, **where)


def task(task: str, length: int, level: int = 2) -> Any:
    """Select the accuracy after pre-training on a task."""
    return lambda e, figure: e.number(figure, "accuracy", task=task, length=length, level=level)


def test(judge: Any, *groups: Any, **options: Any) -> Any:
    """Judge groups that are selected from the evidence."""
    return lambda e, figure: judge(*(group(e, figure) for group in groups), **options)


def correlation(least: float, most: float) -> Any:
    """Correlate means over seeds, as the report does; the interval is Fisher's."""
    return lambda e, figure: _correlation(e, figure, least, most)


def _correlation(e: Evidence, figure: str, least: float, most: float) -> Verdict:
    x, y = deviations(e, figure)
    fit = fit_line(np.array(x), np.array(y))
    if fit is None or fit.count < 4:
        return Verdict(OPEN, "", "not run yet")
    ours = f"r = {fit.r:.2f} over {fit.count} perturbations"
    done, cells = e.planned(figure)
    if done < cells:
        return Verdict(OPEN, ours, "not run yet")
    reach = 1.96 / np.sqrt(fit.count - 3)
    z = np.arctanh(np.clip(fit.r, -1 + 1e-12, 1 - 1e-12))
    low, high = np.tanh(z - reach), np.tanh(z + reach)
    test = f"p = {fit.p:.2g}; 95 % interval {low:.2f} to {high:.2f}, Fisher's z"
    return Verdict(judge_interval(low, high, least, most), ours, test)


def deviations(e: Evidence, figure: str) -> tuple[list[float], list[float]]:
    """Return the mean effective standard deviation and accuracy of each perturbation."""
    kinds = dict.fromkeys(row["at"]["perturbation"] for row in e.rows(figure, **SPARSE))
    x, y = [], []
    for kind in kinds:
        moved = e.number(figure, "effective_std", perturbation=kind, **SPARSE)
        accuracy = e.number(figure, "accuracy", perturbation=kind, **SPARSE)
        if kind != "none" and moved and accuracy:
            x.append(float(np.mean(list(moved.values()))))
            y.append(float(np.mean(list(accuracy.values()))))
    return x, y


PAPER_STD = {
    "sign:0,magnitude:k": 0.033,
    "sign:k,magnitude:0": 0.042,
    "shuffle:filter,keep-signs": 0.049,
    "shuffle:layer,initial-signs": 0.087,
    "shuffle:filter": 0.092,
    "shuffle:layer": 0.143,
    "shuffle:global": 0.144,
}


def order_of_deviations(e: Evidence, figure: str) -> Verdict:
    """Judge whether effective standard deviations are ordered as the paper's."""
    ours = {k: e.number(figure, "effective_std", perturbation=k, **SPARSE) for k in PAPER_STD}
    means = {k: float(np.mean(list(v.values()))) for k, v in ours.items() if v}
    if len(means) < len(PAPER_STD):
        return Verdict(OPEN, "", "not run yet")
    found = stats.spearmanr(list(PAPER_STD.values()), [means[k] for k in PAPER_STD])
    told = ", ".join(f"{means[k]:.3f}" for k in PAPER_STD)
    test = f"Spearman's ρ = {found.statistic:.2f}, p = {found.pvalue:.2g}"
    ordered = AGREES if found.statistic > 0 else DIFFERS
    return Verdict(ordered if found.pvalue < 1 - CONFIDENCE else CANNOT, told, test)


def instability(rewind: int, level: int = 0) -> Any:
    """Select the instability of children of a step."""

    def found(e: Evidence, figure: str) -> By:
        cells = e.rows(figure, rewind=rewind, level=level)
        return {row["seed"]: row["values"]["instability"] for row in cells}

    return found


def share(e: Evidence, figure: str) -> Verdict:
    """Judge whether the top subspace holds 100 times the gradient's share of chance."""
    shares = e.values(figure, "gradient-subspace", "gradient_share")
    base = e.values(figure, "gradient-subspace", "baseline")
    times = {s: mean(c, 200, 1000) / base[s] for s, c in shares.items() if s in base}
    return between(times, 100, np.inf, 1, " times")


def fisher(e: Evidence, figure: str) -> Verdict:
    """Judge whether the Fisher trace rises and falls."""
    curves = e.values(figure, "fisher-trace", "fisher_trace")
    top: By = {}
    for seed, curve in curves.items():
        # The others' step: a seed's own peak is above its ends by noise alone.
        others = [c["value"] for s, c in curves.items() if s != seed] or [curve["value"]]
        top[seed] = curve["value"][int(np.argmax(np.mean(others, axis=0)))]
    ends = [{s: c["value"][i] for s, c in curves.items()} for i in (0, -1)]
    return all_of(*(higher(top, end, 1, "") for end in ends))


def duration(steps: int) -> Any:
    """Select the accuracy after a deficit of so many steps."""
    return lambda e, figure: e.number(figure, "accuracy", duration=steps)
