"""Write numbers and units for people, and describe lines in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ckptlab.report.html.charts import Line


def format_number(value: float, percent: bool = False) -> str:
    """Write a number with three digits, a dash if it is not finite.

    ``1,234``, ``0.0123``, ``4.20 × 10⁻⁶``, and ``9.1 %`` are examples.
    """
    if not math.isfinite(value):
        return "–"
    if percent:
        return f"{format_number(100 * value)} %"
    size = abs(value)
    if size != 0 and (size < 1e-4 or size >= 1e7):
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits} × 10{_superscript(int(power))}".replace("-", "−")
    places = 0 if size >= 1000 else max(0, 2 - math.floor(math.log10(size or 1)))
    text = f"{value:,.{places}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−")


def format_unit(units: str, percent: bool = False) -> str:
    """Write a unit; ``1`` is none."""
    if percent:
        return "per cent"
    return "no unit" if units == "1" else units.replace("^2", "²")


def format_spread(mean: float, std: float, percent: bool = False) -> str:
    """Write ``mean ± standard deviation``, without the latter if it is unknown."""
    text = format_number(mean, percent)
    known = math.isfinite(mean) and math.isfinite(std)
    return f"{text} ± {format_number(std, percent)}" if known else text


def describe_lines(lines: Sequence[Line], percent: bool) -> str:
    """Say where the first few lines begin, end, and have their lowest and highest values."""
    told = []
    for line in lines[:8]:
        known = np.flatnonzero(np.isfinite(line.y))
        low, high = known[np.argmin(line.y[known])], known[np.argmax(line.y[known])]
        first, last, low, high = (
            _value_at(line, k, percent) for k in (known[0], known[-1], low, high)
        )
        name = f"{line.name}: " if line.name else ""
        told.append(f"{name}from {first} to {last}; lowest {low}, highest {high}.")
    if len(lines) > len(told):
        told.append(f"And {len(lines) - len(told)} more lines.")
    return " ".join(told)


def _value_at(line: Line, k: int, percent: bool) -> str:
    place = f"{line.x[k]:,}" if line.x.dtype.kind in "iu" else format_number(float(line.x[k]))
    return f"{format_number(float(line.y[k]), percent)} at {place}"


def _superscript(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
