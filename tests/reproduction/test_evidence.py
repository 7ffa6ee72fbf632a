"""Verdicts follow from intervals, and the page from rows."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats

from reproduction import rows
from reproduction.claims import CLAIMS
from reproduction.evidence import (
    AGREES,
    CANNOT,
    DIFFERS,
    OPEN,
    Evidence,
    Verdict,
    alike,
    all_of,
    between,
    higher,
    no_higher,
    no_lower,
    one_more,
)
from reproduction.figures import RESULTS
from reproduction.page import judge, write_page
from reproduction.pick import PAPER_STD

LOW = {0: 0.500, 1: 0.510, 2: 0.505}
HIGH = {seed: value + 0.05 + 0.001 * seed for seed, value in LOW.items()}
NEAR = {seed: value + 0.001 * (seed - 1) for seed, value in LOW.items()}
WIDE = {0: 0.4, 1: 0.6, 2: 0.55}


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (higher(HIGH, LOW), AGREES),
        (higher(LOW, HIGH), DIFFERS),
        (higher(WIDE, LOW), CANNOT),
        (higher(HIGH, {0: 0.5}), OPEN),
        (higher({}, {}), OPEN),
        (alike(NEAR, LOW, 0.01), AGREES),
        (alike(HIGH, LOW, 0.01), DIFFERS),
        (alike(WIDE, LOW, 0.01), CANNOT),
        (no_lower(HIGH, LOW, 0.01), AGREES),
        (no_lower(LOW, HIGH, 0.01), DIFFERS),
        (no_higher(LOW, HIGH, 0.01), AGREES),
        (no_higher(HIGH, LOW, 0.01), DIFFERS),
        (between(LOW, 0.48, 0.53), AGREES),
        (between(LOW, 0.6, 0.7), DIFFERS),
        (between(LOW, 0.505, 0.7), CANNOT),
        (between({0: 0.5}, 0.4, 0.6), OPEN),
        (one_more(LOW, 0.515), AGREES),
        (one_more(LOW, 0.6), DIFFERS),
    ],
)
def test_verdicts(found, verdict):
    assert found.verdict == verdict
    assert (found.test == "") is False


def test_the_interval_of_a_next_value_holds_it_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(1000, 4))
    inside = [one_more(dict(enumerate(row[:3])), float(row[3])).verdict == AGREES for row in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / len(draws)))


def test_what_is_told_is_scipy_s_test_of_pairs():
    told = higher(HIGH, LOW)
    expected = stats.ttest_rel(list(HIGH.values()), list(LOW.values()))
    assert f"p = {expected.pvalue:.2g}, paired t, n = 3" in told.test
    assert told.ours == "55.6 ± 0.557 % (n = 3) against 50.5 ± 0.5 % (n = 3)"


def test_one_that_differs_decides():
    parts = [Verdict(v) for v in (AGREES, OPEN, CANNOT, DIFFERS)]
    assert all_of(*parts).verdict == DIFFERS
    assert all_of(*parts[:3]).verdict == OPEN
    assert all_of(parts[0]).verdict == AGREES


@pytest.fixture
def results(tmp_path):
    """Rows of figure 1 of which k = 0 is the worst, and of one dense curve."""
    made = []
    for seed in (0, 1, 2):
        for rewind in (0, 100, 500, 1000):
            for level in range(4):
                lost = level * (0.05 if rewind == 0 else 0.001) + 0.001 * seed * level
                at = {"pruning": "imp", "rewind": rewind, "level": level, "replicate": seed}
                row = {"job": f"job:{len(made):016x}", "at": at, "seed": seed, "source": 0}
                made.append({**row, "accuracy": 0.6 - lost, "density": 0.512**level})
    source = {"commit": "abc", "machine": "m", "torch": "2"}
    head = {"title": "", "config_hash": "0", "cells": 48, "sources": [source]}
    folder = tmp_path / "reproduction"
    rows.write(folder / "fig1-cifar.json", {**head, "rows": made})
    curve = {"step": [0, 10, 200, 500], "value": [3.0, 2.0, 1.0, 1.5]}
    values = {"gradient_norm": curve, "sign_flips_init": curve}
    row = {"job": "job:0", "at": {"replicate": 0}, "seed": 0, "source": 0}
    telemetry = {**row, "metric": "telemetry", "values": values}
    rows.write(folder / "fig3-cifar.json", {**head, "cells": 3, "rows": [telemetry]})
    return folder


def test_the_page_has_a_row_a_claim_and_the_same_bytes_each_time(results):
    page = write_page(results)
    text = page.read_text()
    claims = [claim for _, found in CLAIMS for claim in found]
    for claim in claims:
        assert f"| {claim.text.replace('|', chr(92) + '|')} |" in text
    assert len(re.findall(r"\*\*(?:agrees|differs|can't tell|open)\*\* \|", text)) == len(claims)
    line = next(x for x in text.splitlines() if x.startswith("| k = 500 beats k = 0"))
    assert line.endswith("**agrees** |")
    assert "paired t, n = 3" in line
    pilot = next(x for x in text.splitlines() if "the scale `cifar`" in x)
    assert "13.4 % kept" in pilot
    assert "## Differences" not in text
    random = next(x for x in text.splitlines() if x.startswith("| random pruning"))
    assert random.endswith("**open** |")
    drawn = {path: path.read_bytes() for path in sorted(results.glob("*.svg"))}
    assert [path.stem for path in drawn] == ["fig1", "fig3-cifar"]
    for path in drawn:
        assert f"({results.name}/{path.name})" in text
    write_page(results)
    assert {path: path.read_bytes() for path in drawn} == drawn
    assert page.read_text() == text


def test_a_claim_that_cannot_be_tested_says_why(results):
    evidence = Evidence(results)
    found = [(c, judge(c, evidence)) for _, claims in CLAIMS for c in claims]
    for claim, verdict in found:
        if verdict.verdict == OPEN:
            assert verdict.test, claim.text
    assert any("of 3 cells" in v.test or "one seed" in v.test for _, v in found)


def test_a_figure_with_all_of_its_rows_leaves_no_claim_without():
    evidence = Evidence(RESULTS)
    claims = [claim for _, claims in CLAIMS for claim in claims if callable(claim.judge)]
    whole = [c for c in claims if len(set(evidence.planned(c.figure))) == 1]
    assert {claim.figure for claim in whole} >= {"fig1-cifar", "fig2-cifar", "fig3-cifar"}
    unseen = [claim.text for claim in whole if "not run yet" in judge(claim, evidence).test]
    assert unseen == []


def test_claims_that_differ_are_listed_with_what_explains_them(results):
    held = rows.read(results / "fig3-cifar.json")
    (row,) = held["rows"]
    later = {**row, "job": "job:1", "at": {"replicate": 1}, "seed": 1}
    for at, value in ((row, 3.0), (later, 3.1)):
        curve = {"step": [0, 10], "value": [0.0, value]}
        at["values"] = {"sign_flips_init": curve}
    rows.write(results / "fig3-cifar.json", {**held, "rows": [row, later]})
    text = write_page(results).read_text()
    listed = text.split("## Differences")[1].split("##")[0]
    assert "- signs flip in the first 10 steps (`fig3-cifar`): the independent trainer" in listed


@pytest.mark.parametrize(
    ("noise", "falls", "as_closely"), [(0.0, AGREES, DIFFERS), (1.0, CANNOT, CANNOT)]
)
def test_a_correlation_is_judged_by_fisher_s_interval_of_all_perturbations(
    tmp_path, noise, falls, as_closely
):
    kinds = [f"noise:{k}" for k in range(8)]
    made = []
    for k, kind in enumerate(kinds):
        at = {"perturbation": kind, "rewind": 500, "level": 2, "replicate": 0}
        row = {"job": f"job:{k}", "at": at, "seed": 0, "source": 0, "effective_std": 0.1 * k}
        made.append({**row, "accuracy": 0.9 - 0.01 * k * (1 - noise) + 0.001 * (k % 3)})
    path = tmp_path / "fig8-cifar.json"
    judged = [
        c for _, claims in CLAIMS for c in claims if "falls" in c.text and c.figure == "fig8-cifar"
    ]
    for held, verdicts in ((made[:-1], [OPEN, OPEN]), (made, [falls, as_closely])):
        rows.write(path, {"cells": 8, "sources": [{}], "rows": held})
        assert [judge(c, Evidence(tmp_path)).verdict for c in judged] == verdicts


@pytest.mark.parametrize(
    ("ranks", "verdict"),
    [
        ([0, 1, 2, 3, 4, 6, 5], AGREES),
        ([3, 0, 5, 1, 6, 2, 4], CANNOT),
        ([6, 5, 4, 3, 2, 0, 1], DIFFERS),
    ],
)
def test_an_order_differs_only_where_a_rank_test_says_so(tmp_path, ranks, verdict):
    made = []
    for k, (kind, rank) in enumerate(zip(PAPER_STD, ranks, strict=True)):
        at = {"perturbation": kind, "rewind": 500, "level": 2, "replicate": 0}
        row = {"job": f"job:{k}", "at": at, "seed": 0, "source": 0}
        made.append({**row, "effective_std": 0.03 + 0.02 * rank})
    (judged,) = (c for _, claims in CLAIMS for c in claims if "ordered" in c.text)
    rows.write(tmp_path / "fig8-cifar.json", {"cells": 7, "sources": [{}], "rows": made})
    assert judge(judged, Evidence(tmp_path)).verdict == verdict
