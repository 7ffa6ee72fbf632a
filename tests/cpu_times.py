"""CPU time of each test, with all processes that it starts: what the suite costs, and where.

``pytest -p tests.cpu_times --cpu-times FILE`` adds a line a test; ``python -m tests.cpu_times
FILE`` sums them. The first test of a process counts what its start took.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

LONGEST = 40
"""Test functions that are listed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the file to write to."""
    parser.addoption("--cpu-times", type=Path, help="add CPU seconds of each test to this file")


_counted = [0.0]
"""What the tests before have used, and looking it up."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Add a line of seconds and name; fixtures count for the test that first needs them."""
    path: Path | None = item.config.getoption("--cpu-times")
    try:
        return (yield)
    finally:
        if path is not None:
            began, now = time.process_time(), used()
            with path.open("a", encoding="utf-8") as file:
                # What a process used is lost with it if its parent does not wait for it.
                file.write(f"{max(now - _counted[0], 0):.3f}\t{item.nodeid}\n")
            _counted[0] = now + time.process_time() - began


def used() -> float:
    """Return the CPU seconds of this process and of all below it, those that ended included."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.Error:  # it ended just now
            continue
    return total


def main() -> int:
    """Print the sum, and the longest functions with the number of their cases."""
    functions: dict[str, list[float]] = defaultdict(list)
    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        seconds, name = line.split("\t", 1)
        functions[name.partition("[")[0]].append(float(seconds))
    tests = sum(map(len, functions.values()))
    total = sum(map(sum, functions.values()))
    print(f"{tests} tests, {total:.0f} CPU seconds, {total / tests:.3f} a test")
    for name, each in sorted(functions.items(), key=lambda f: -sum(f[1]))[:LONGEST]:
        print(f"{sum(each):7.1f}  {len(each):4}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
