"""Hold back SIGINT and SIGTERM while recording, until the next safe point.

Raising in the middle of an update would leave weights and momentum of different steps, so the
recorder acts at the end of its own step. A second signal does not wait.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class Interrupts:
    """Hold back SIGINT and SIGTERM, unless ignored; does nothing outside the main thread.

    `on_signal` is called at once when the first comes, from its handler.
    """

    def __init__(self, on_signal: Callable[[], None] = lambda: None) -> None:
        self._on_signal = on_signal
        self.pending: int | None = None
        self.acted = False
        self._pid = os.getpid()
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Start holding signals back."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            # Jobs in the background ignore Ctrl-C; one that is not Python's cannot be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._previous[number] = signal.signal(number, self._note)

    def remove(self) -> None:
        """Put the previous handlers back."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            self._previous.clear()

    def act(self) -> None:
        """Raise what a pending signal means: KeyboardInterrupt or SystemExit(143)."""
        self.acted = self.pending is not None
        if self.pending == signal.SIGINT:
            raise KeyboardInterrupt
        if self.pending is not None:
            raise SystemExit(128 + self.pending)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A forked data-loader worker inherits this handler, and must still die when told to.
        if os.getpid() != self._pid or self.pending is not None:
            previous = self._previous.get(number, signal.SIG_DFL)
            if callable(previous):
                previous(number, frame)
                return
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.pending = number
        self._on_signal()
