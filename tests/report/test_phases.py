"""Verdicts on the phases stand in the page as the timeline gives them."""

from __future__ import annotations

import pytest

from ckptlab.report.phases import count_verdicts, verdict


def test_what_is_neither_yes_nor_no_stands_as_it_is() -> None:
    assert (verdict("yes").text, verdict("yes").verdict) == ("✓ agrees", "known")
    assert (verdict("no").text, verdict("no").verdict) == ("✕ differs", "known")
    for text in ("not evaluated", "not measured"):
        assert (verdict(text).text, verdict(text).verdict) == (text, "unknown")


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        (["yes", "no", "yes"], "2 of 3 agree"),
        (["yes", "not evaluated"], "1 of 1 agree; 1 not evaluated"),
        (["not evaluated", "not evaluated"], "not evaluated"),
        ([], "–"),
    ],
)
def test_verdicts_of_several_runs_are_counted(verdicts: list[str], text: str) -> None:
    assert count_verdicts(verdicts).text == text
