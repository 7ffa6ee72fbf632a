"""The report that `make demo` ends with: of ResNet-20 on digits, 500 steps, by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import ckptlab
from tests.report.browser import opened


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_is_drawn(browser: Any, tmp_path: Path) -> None:
    run, page = tmp_path / "resnet20-digits.zarr", tmp_path / "report.html"
    recorded = ckptlab("record", "-o", run)
    assert recorded.returncode == 0, recorded.stderr
    done = ckptlab("report", run, "-o", page)
    assert (done.returncode, done.stderr) == (0, "")
    assert page.stat().st_size < 7e6
    for width in (1280, 420):
        with opened(browser, page, width=width) as shown:
            assert shown.console == []
            assert shown.requests == [page.as_uri()]
            assert set(shown.all_drawn("plot.dataset.drawn")) == {"true"}
            assert len(shown.charts()) == 18
            assert shown.drawn("layers-sign-flips", "plot.data[0].z.length") == 22
            assert "resnet20 learning digits" in shown.tab.inner_text("header")
