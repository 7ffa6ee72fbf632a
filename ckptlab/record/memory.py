"""Read amounts of memory."""

from __future__ import annotations

import re

from ckptlab.errors import ConfigError

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_memory(text: str | int) -> int:
    """Read an amount of memory such as ``"1GiB"``, ``"512 MB"`` or a number of bytes."""
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", str(text).lower())
    if match is None:
        raise ConfigError(f"memory {text!r} is not an amount; accepted: 1GiB, 512MiB, or bytes")
    return int(float(match[1]) * _UNITS[match[2]])
