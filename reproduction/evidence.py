"""Select committed rows, and judge claims by tests of ckptlab's own statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ckptlab.experiments.results.statistics import CONFIDENCE, Comparison, compare, interval
from reproduction import rows

AGREES, DIFFERS, CANNOT, OPEN = "agrees", "differs", "can't tell", "open"

By = dict[int, float]
"""A value for each seed."""


@dataclass(frozen=True)
class Verdict:
    """What we found, by which test, and what follows for the claim."""

    verdict: str
    ours: str = ""
    test: str = ""


class Evidence:
    """The rows of all figures."""

    def __init__(self, results: Path) -> None:
        self.folder = results
        files = sorted(results.glob("*-*.json"))
        self.files = {path.stem: rows.read(path) for path in files}

    def rows(self, figure: str, **at: Any) -> list[dict[str, Any]]:
        """Return the rows of a figure at some coordinates."""
        held = self.files.get(figure, {"rows": []})["rows"]
        return [row for row in held if all(row["at"].get(k) == v for k, v in at.items())]

    def number(self, figure: str, name: str, **at: Any) -> By:
        """Return a number of one cell by seed."""
        found = self.rows(figure, **at)
        return {row["seed"]: row[name] for row in found if name in row}

    def values(self, figure: str, metric: str, name: str) -> dict[int, Any]:
        """Return what a metric gives under a name, by seed."""
        found = [r for r in self.rows(figure) if r.get("metric") == metric]
        return {row["seed"]: row["values"][name] for row in found if name in row["values"]}

    def at_step(self, figure: str, metric: str, name: str, step: int) -> By:
        """Return a curve's value at a step by seed."""
        curves = self.values(figure, metric, name)
        return {
            seed: curve["value"][curve["step"].index(step)]
            for seed, curve in curves.items()
            if step in curve["step"]
        }

    def planned(self, figure: str) -> tuple[int, int]:
        """Return the numbers of rows that are there and of cells."""
        held = self.files.get(figure, {"rows": [], "cells": 0})
        return len(held["rows"]), held.get("cells", 0)


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Comparison | None:
    """Compare two cells by seeds; Welch's test where these differ."""
    seeds = sorted(a.keys() | b.keys())
    values = [[part.get(seed, np.nan) for seed in seeds] for part in (a, b)]
    return compare(*values)


def mean_std(values: Mapping[int, float], scale: float = 100, unit: str = " %") -> str:
    """Write mean ± standard deviation of the sample (n)."""
    found = np.array(list(values.values())) * scale
    if not len(found):
        return "–"
    spread = f" ± {found.std(ddof=1):.3g}" if len(found) > 1 else ""
    return f"{found.mean():.4g}{spread}{unit} (n = {len(found)})"


def higher(a: By, b: By, scale: float = 100, unit: str = " %") -> Verdict:
    """Judge that `a` is above `b`."""
    ours = f"{mean_std(a, scale, unit)} against {mean_std(b, scale, unit)}"
    found = paired(a, b)
    if found is None:
        return _few(ours, a, b)
    agrees = AGREES if found.difference > 0 else DIFFERS
    return Verdict(agrees if found.p < 1 - CONFIDENCE else CANNOT, ours, told(found, scale, unit))


def alike(a: By, b: By, margin: float, scale: float = 100, unit: str = " %") -> Verdict:
    """Judge that `a` and `b` differ by no more than a margin: the interval lies within it."""
    return _within(a, b, -margin, margin, scale, unit)


def no_lower(a: By, b: By, margin: float, scale: float = 100, unit: str = " %") -> Verdict:
    """Judge that `a` is not below `b` by more than a margin."""
    return _within(a, b, -margin, np.inf, scale, unit)


def no_higher(a: By, b: By, margin: float, scale: float = 100, unit: str = " %") -> Verdict:
    """Judge that `a` is not above `b` by more than a margin."""
    return _within(a, b, -np.inf, margin, scale, unit)


def _within(a: By, b: By, low: float, high: float, scale: float, unit: str) -> Verdict:
    ours = f"{mean_std(a, scale, unit)} against {mean_std(b, scale, unit)}"
    found = paired(a, b)
    if found is None:
        return _few(ours, a, b)
    edges = [f"{e * scale:+g}{unit}" for e in (low, high) if np.isfinite(e)]
    test = f"{told(found, scale, unit)}; margin {' to '.join(edges)}"
    return Verdict(judge_interval(found.low, found.high, low, high), ours, test)


def between(values: By, low: float, high: float, scale: float = 100, unit: str = " %") -> Verdict:
    """Judge that the mean lies in a range: its interval does."""
    ours = mean_std(values, scale, unit)
    if len(values) < 2:
        return _few(ours, values)
    ends = interval(list(values.values()))
    reach = " to ".join(f"{end * scale:.4g}" for end in ends)
    test = f"95 % interval {reach}{unit}; counts as agreeing: {low * scale:g} to {high * scale:g}"
    return Verdict(judge_interval(*ends, low, high), ours, test)


def one_more(values: By, other: float, scale: float = 100, unit: str = " %") -> Verdict:
    """Judge that a single value from elsewhere is one of ours: the interval of a next value."""
    ours = mean_std(values, scale, unit)
    if len(values) < 2:
        return _few(ours, values)
    found = np.array(list(values.values()))
    low, high = interval(found)
    # A mean's interval is t·s/√n wide, that of one more value t·s·√(1 + 1/n).
    reach = (high - low) / 2 * np.sqrt(len(found) + 1)
    test = f"95 % interval of a next seed ± {reach * scale:.3g}{unit}"
    return Verdict(AGREES if abs(other - found.mean()) <= reach else DIFFERS, ours, test)


def all_of(*parts: Verdict) -> Verdict:
    """Join verdicts: all must agree; one that differs decides."""
    verdicts = [part.verdict for part in parts]
    chosen = next((v for v in (DIFFERS, OPEN, CANNOT) if v in verdicts), AGREES)
    joined = (
        "; ".join(filter(None, dict.fromkeys(texts)))
        for texts in ([part.ours for part in parts], [part.test for part in parts])
    )
    return Verdict(chosen, *joined)


def told(found: Comparison, scale: float, unit: str) -> str:
    """Write a comparison in the unit of the claim."""
    groups = " and ".join(map(str, found.count))
    return (
        f"{found.difference * scale:+.3g}{unit} [{found.low * scale:+.3g}, "
        f"{found.high * scale:+.3g}], p = {found.p:.2g}, {found.test}, n = {groups}"
    )


def judge_interval(low: float, high: float, least: float, most: float) -> str:
    """Judge by where an interval lies against what counts as agreeing."""
    if least <= low and high <= most:
        return AGREES
    return DIFFERS if high < least or low > most else CANNOT


def _few(ours: str, *groups: By) -> Verdict:
    """Without two values each there is no test."""
    done = [len(group) for group in groups]
    if not min(done):
        return Verdict(OPEN, ours if max(done) else "", "not run yet")
    return Verdict(OPEN, ours, "one seed: no test")


@dataclass(frozen=True)
class Claim:
    """A claim of a paper, the figure whose rows it is judged by, and the judgement.

    `why` is what we know of the reason if it differs.
    """

    text: str
    paper: str
    sure: str
    figure: str
    judge: Callable[[Evidence, str], Verdict] | str
    why: str = ""
