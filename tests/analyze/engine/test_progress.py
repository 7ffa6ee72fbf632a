"""Long measurements say how far they have come, to whoever listens."""

from __future__ import annotations

from pathlib import Path

import ckptlab
from ckptlab.analyze.engine.progress import paced, watching


def test_reports_each_step_and_the_end(tiny_mlps: list[Path]) -> None:
    seen: list[tuple[int, int]] = []
    run = ckptlab.open_run(tiny_mlps[0])
    with watching(lambda done, total: seen.append((done, total))):
        run.analyze("evaluation", steps="0:13:4")
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_nobody_listens() -> None:
    assert list(paced([3, 1])) == [3, 1]
