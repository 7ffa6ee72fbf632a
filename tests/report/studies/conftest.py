"""Small studies of every kind, made once, with their pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.studied import make_study, write_study_page

Studies = Callable[[str], Path]


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    """Do a study of a kind, the first time it is asked for; with its page."""
    done: dict[str, Path] = {}

    def one(kind: str) -> Path:
        if kind not in done:
            done[kind] = make_study(kind, tmp_path_factory.mktemp("study") / kind)
            write_study_page(done[kind])
        return done[kind]

    return one
