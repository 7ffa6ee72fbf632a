"""The page on reliability says what the long tests measured."""

import json
import re
from pathlib import Path

import pytest

from tests.faults.figures import DOCS, RESULTS, rendered

ROOT = Path(__file__).parents[2]


def test_the_page_holds_the_figures():
    text = DOCS.read_text()
    assert rendered(text, json.loads(RESULTS.read_text())) == text


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_every_test_that_a_page_names_is_there(page):
    files = [f"/{file.relative_to(ROOT)}" for file in (ROOT / "tests").rglob("*.py")]
    named = re.findall(r"`([\w/]*test_\w+\.py)`", page.read_text())
    assert [n for n in named if sum(file.endswith(f"/{n}") for file in files) != 1] == []


def test_a_table_sums_what_can_be_summed():
    where = {
        "cpu": "CPU",
        "cores": 2,
        "commit": "abc",
        "date": "2026-01-01",
        "versions": {"a": "1"},
    }
    rows = {
        "x": {"kills": 1000, "most_lost": 3, "median": "1"},
        "y": {"kills": 234, "most_lost": 9, "median": "2"},
    }
    text = rendered(
        "a\n<!-- figures: kills -->\nold\n<!-- end -->\nb\n",
        {"kills": {"machine": where, "rows": rows}},
    )
    assert text == (
        "a\n<!-- figures: kills -->\n\n"
        "|  | kills | most lost | median |\n"
        "|---|---|---|---|\n"
        "| x | 1,000 | 3 | 1 |\n"
        "| y | 234 | 9 | 2 |\n"
        "| **together** | **1,234** | **9** |  |\n\n"
        "`make soak` on CPU, 2 cores; commit abc, 2026-01-01; a 1.\n\n"
        "<!-- end -->\nb\n"
    )
