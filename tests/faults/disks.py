"""Small disks: mounted where that is allowed."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """Mount a tmpfs at a folder; yields whether that was permitted."""
    folder.mkdir(exist_ok=True)
    mounted = _mount(folder, f"size={size}")
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=True)


def make_read_only(folder: Path) -> None:
    """From now on nothing can be written below a mounted folder."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], capture_output=True, check=True)


def leave_free(folder: Path, free: int) -> Path:
    """Fill the disk of a folder up to `free` bytes; returns the file that does."""
    ballast = folder / "ballast"
    status = os.statvfs(folder)
    size = max(status.f_bavail * status.f_frsize - free, 0)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))
    return ballast
