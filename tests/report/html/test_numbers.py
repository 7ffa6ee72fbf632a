from __future__ import annotations

import numpy as np
import pytest

from ckptlab.report.html.charts import Line
from ckptlab.report.html.numbers import describe_lines, format_number


@pytest.mark.parametrize(
    ("value", "percent", "text"),
    [
        (0.0, False, "0"),
        (0.123456, False, "0.123"),
        (1.0, False, "1"),
        (12.345, False, "12.3"),
        (1234.4, False, "1,234"),
        (12345678.0, False, "1.23 × 10⁷"),
        (-0.00012, False, "−0.00012"),
        (4.2e-6, False, "4.20 × 10⁻⁶"),
        (0.0914, True, "9.14 %"),
        (1.0, True, "100 %"),
        (float("nan"), False, "–"),
        (float("inf"), True, "–"),
    ],
)
def test_numbers_have_three_digits(value: float, percent: bool, text: str) -> None:
    assert format_number(value, percent) == text


def test_lines_are_told_in_figures() -> None:
    line = Line(name="a", x=np.array([0, 5, 1000]), y=np.array([np.nan, 0.5, 0.25]))
    assert describe_lines([line], percent=True) == (
        "a: from 50 % at 5 to 25 % at 1,000; lowest 25 % at 1,000, highest 50 % at 5."
    )
    assert describe_lines([line] * 10, percent=False).endswith("And 2 more lines.")
