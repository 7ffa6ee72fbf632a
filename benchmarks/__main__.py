"""``python -m benchmarks [NAME ...]``: run benchmarks, write their results, render the docs."""

from __future__ import annotations

import argparse
from importlib import import_module

from benchmarks.measure import render, save

BENCHMARKS = ("recording", "durability", "storage", "telemetry", "step", "jobs", "report")


def main() -> None:
    """Run the named benchmarks, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], default=list(BENCHMARKS))
    parser.add_argument("--images", help="an image folder of 32x32 images (train/, test/)")
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run?")
    options = parser.parse_args()
    for name in options.names:
        module = import_module(f"benchmarks.{name}")
        result = module.run(images=options.images, quick=options.quick)
        if not options.quick:
            save(name, result)
    if not options.quick:
        render()


if __name__ == "__main__":
    main()
