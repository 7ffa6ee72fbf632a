"""Memory that a training on the CPU frees and takes again at every layer: kept, not given back.

Imports nothing of ckptlab. By default glibc returns large blocks to the system when they are freed,
and every page that is taken anew costs a fault: ten thousand of them at an update of ResNet-20 on
CIFAR-10, a tenth of its time.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of malloc.h

_KEEP = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26, _MMAP_THRESHOLD: 2**30}

_SETTLED = {_TRIM_THRESHOLD: 2**26, _TOP_PAD: 2**17, _MMAP_THRESHOLD: 2**25}
"""What glibc's own adjustment ends at in a process that frees large blocks; it can't be read."""


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Have what is freed stay with the process until the end; without effect where it is not glibc.

    Yields
    ------
    None
        While it stays.
    """
    library = _glibc()
    if library is None:
        yield
        return
    _set(library, _KEEP)
    try:
        yield
    finally:
        _set(library, _SETTLED)
        library.malloc_trim(0)


def _glibc() -> Any:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _set(library: Any, options: dict[int, int]) -> None:
    for option, value in options.items():
        library.mallopt(option, value)
