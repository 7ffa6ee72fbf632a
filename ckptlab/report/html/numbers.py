"""Numbers and units in words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ckptlab.report.curves import Axes
from ckptlab.report.html.charts import Line


def number(value: float, percent: bool = False) -> str:
    """Write a number with three digits; a dash for what is not known.

    Parameters
    ----------
    value : float
        The number.
    percent : bool
        It is a share, to be written per cent.

    Returns
    -------
    str
        Such as ``1,234``, ``0.0123``, ``4.2 × 10⁻⁶`` or ``9.1 %``.
    """
    if not math.isfinite(value):
        return "–"
    if percent:
        return f"{number(100 * value)} %"
    size = abs(value)
    if size != 0 and (size < 1e-4 or size >= 1e7):
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits} × 10{_raised(int(power))}".replace("-", "−")
    places = 0 if size >= 1000 else max(0, 2 - math.floor(math.log10(size or 1)))
    text = f"{value:,.{places}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−")


def unit_text(axes: Axes) -> str:
    """Say what the y axis counts.

    Parameters
    ----------
    axes : Axes
        The panel.

    Returns
    -------
    str
        Units, or what a number without them is.
    """
    if axes.panel.percent:
        return "per cent"
    return readable_unit(axes.units)


def readable_unit(units: str) -> str:
    """Write units for people; ``1`` is none."""
    return "no unit" if units == "1" else units.replace("^2", "²")


def described(lines: Sequence[Line], percent: bool) -> str:
    """Say in figures what lines show.

    Parameters
    ----------
    lines : sequence of Line
        Those of a chart.
    percent : bool
        Whether they are shares.

    Returns
    -------
    str
        First, last, lowest and highest value of the first few.
    """
    told = []
    for line in lines[:8]:
        known = np.flatnonzero(np.isfinite(line.y))
        low, high = known[np.argmin(line.y[known])], known[np.argmax(line.y[known])]
        first, last = known[0], known[-1]
        at = {
            name: _at(line, k, percent)
            for name, k in (("first", first), ("last", last), ("low", low), ("high", high))
        }
        name = f"{line.name}: " if line.name else ""
        told.append(
            f"{name}from {at['first']} to {at['last']}; lowest {at['low']}, highest {at['high']}."
        )
    if len(lines) > len(told):
        told.append(f"And {len(lines) - len(told)} more lines.")
    return " ".join(told)


def _at(line: Line, k: int, percent: bool) -> str:
    place = f"{line.x[k]:,}" if line.x.dtype.kind in "iu" else number(float(line.x[k]))
    return f"{number(float(line.y[k]), percent)} at {place}"


def _raised(power: int) -> str:
    return str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
