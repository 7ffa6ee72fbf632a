"""``python -m benchmarks [NAME ...]``: run benchmarks, write their results, render the docs."""

from __future__ import annotations

import argparse
from importlib import import_module

from benchmarks.measure import render, save
from benchmarks.runs import Options

BENCHMARKS = (
    "recording",
    "short_steps",
    "observe",
    "durability",
    "ablations",
    "storage",
    "half_precision",
    "import_series",
    "access",
    "large",
    "sharded",
    "telemetry",
    "scaling",
    "step",
    "jobs",
    "report",
    "report_ablations",
    "commits",
)


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], default=list(BENCHMARKS))
    parser.add_argument("--images", help="an image folder of 32x32 images (train/, test/)")
    parser.add_argument("--recorded", help="a run of ResNet-20 on them, to read")
    parser.add_argument("--only", default="", help="cases whose titles hold this")
    parser.add_argument("--base", default="HEAD~", help="commits: the commit to compare with")
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run?")
    given = parser.parse_args()
    options = Options(
        images=given.images,
        recorded=given.recorded,
        quick=given.quick,
        only=given.only,
        base=given.base,
    )
    for name in given.names:
        module = import_module(f"benchmarks.{name}")
        print(f"== {name}", flush=True)
        result = module.run(options)
        if not options.quick:
            save(name, result, given.only)
            render()


if __name__ == "__main__":
    main()
