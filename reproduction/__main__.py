"""``python -m reproduction run|collect|page|status|repeat``; see docs/reproduction.md."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from ckptlab.errors import CkptlabError
from reproduction.figures import FIGURES, RESULTS


def main() -> int:
    """Do one of the steps; 130 if it was interrupted, which loses nothing."""
    parser = argparse.ArgumentParser(prog="python -m reproduction", description=__doc__)
    parser.add_argument("step", choices=("run", "collect", "page", "status", "repeat"))
    parser.add_argument("only", nargs="*", help="figures, such as fig1 or fig1-cifar [all]")
    parser.add_argument("--folder", type=Path, default=Path("build/reproduction"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data-root", help="train/<class>/, test/<class>/ [CKPTLAB_DATA_ROOT]")
    parser.add_argument("-S", "--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    given = parser.parse_args()
    if given.data_root:
        from ckptlab.train.data_root import use_data_root

        use_data_root(given.data_root)
    try:
        return _do(given)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except CkptlabError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


def _do(given: argparse.Namespace) -> int:
    overrides = tuple(given.set)
    if given.step == "run":
        from reproduction.run import run

        os.nice(19 - os.nice(0))
        signal.signal(signal.SIGTERM, _stop)
        failed = run(given.only, folder=given.folder, workers=given.workers, overrides=overrides)
        return int(failed > 0)
    if given.step == "collect":
        from reproduction.run import collect

        print(f"{collect(given.folder, overrides=overrides)} new rows")
    elif given.step == "page":
        from reproduction.page import write_page

        print(write_page())
    elif given.step == "repeat":
        from reproduction.repeat import repeat

        return repeat(given.only, given.folder, overrides)
    else:
        from reproduction.rows import read

        for figure in FIGURES:
            held = read(RESULTS / f"{figure.name}.json")
            print(f"{figure.name:24} {len(held['rows']):4} of {held.get('cells', '?')} cells")
    return 0


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
