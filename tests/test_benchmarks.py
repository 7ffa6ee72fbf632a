"""The benchmarks follow the package: whatever they import is there."""

from __future__ import annotations

from importlib import import_module

import pytest

from benchmarks.__main__ import BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_finds_what_it_measures(name):
    assert callable(import_module(f"benchmarks.{name}").run)
