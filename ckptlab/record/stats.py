"""The counters of a recording: steps, bytes and time waited."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RecorderStats:
    """How a recording is doing.

    Parameters
    ----------
    recorded, committed : int
        Steps taken so far, and steps that are safely in the store.
    raw_bytes, stored_bytes : int
        Committed weights as float32, and the files under ``weights/``.
    stall_seconds : float
        Time the training loop waited for recording.
    """

    recorded: int
    committed: int
    raw_bytes: int
    stored_bytes: int
    stall_seconds: float

    @property
    def ratio(self) -> float:
        """Compression: raw over stored bytes; NaN before the first commit."""
        return self.raw_bytes / self.stored_bytes if self.stored_bytes else float("nan")
