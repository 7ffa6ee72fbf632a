"""Memory that stays with the process while a training runs on the CPU."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import numpy as np
import pytest

from ckptlab.train.allocator import kept_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone")

SIZE = 48 * 2**20  # beyond what glibc keeps by its own adjustment


def faults(rounds: int = 10) -> int:
    """Page faults of taking a block and giving it back, again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        block = np.empty(SIZE, np.uint8)
        block[::4096] = 1
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_what_is_freed_is_taken_again_without_a_fault() -> None:
    every_time = faults()
    with kept_memory():
        faults(1)
        assert faults() < every_time / 10
    assert faults() > every_time / 2


def test_it_is_given_back_at_the_end() -> None:
    with kept_memory():
        faults(1)
        kept = resident()
    assert resident() < kept - SIZE / 2
