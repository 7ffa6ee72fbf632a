"""Write files atomically: aside first, renamed into place once they are whole."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_aside(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write a file or folder to, and rename it to the target at the end.

    A kill leaves the target as it was. What it leaves beside the target is removed by the next
    write of the same target.

    Parameters
    ----------
    target : path-like
        What is there is replaced.

    Yields
    ------
    Path
        A path in the same folder with the target's suffix, which decides about formats.
    """
    path = Path(target)
    _remove_leftovers(path)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield aside
        if path.is_dir() and not path.is_symlink():
            # Out of the way at once: deleted in place, it would be half there for a while.
            before = aside.with_name(f"{aside.name}.replaced")
            path.rename(before)
            aside.replace(path)
            _remove(before)
        else:
            aside.replace(path)
    finally:
        _remove(aside)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of earlier writes of the same target."""
    stem, suffix = re.escape(path.stem), re.escape(path.suffix)
    name = re.compile(rf"\.{stem}\.(\d+)\.partial{suffix}(\.replaced)?")
    with contextlib.suppress(OSError):
        for beside in path.parent.iterdir():
            found = name.fullmatch(beside.name)
            if found and not _is_running(int(found[1])):
                _remove(beside)


def _is_running(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
