"""Retry requests to an object store with exponential back-off while it is out of reach."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0

HURRIED_SECONDS = 5.0
"""How long an outage may last once the user wants to leave."""


class OutageWarning(UserWarning):
    """The object store does not answer; recording retries."""


class Retry:
    """Repeat what fails until an outage has lasted `seconds`.

    Nothing is retried before the first write: until then a failure means a wrong address or wrong
    credentials. Requests of several threads share one outage.
    """

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._written = self._hurried = False
        self._began: float | None = None

    def hurry(self) -> None:
        """Wait for seconds at most from now on; a signal handler may call this."""
        self._hurried = True

    def __call__(
        self,
        request: Callable[[], T],
        is_answer: Callable[[Exception], bool] = lambda _: False,
        *,
        writes: bool = False,
    ) -> T:
        """Return the request's result; errors that are the store's answer are raised at once."""
        pause = FIRST_PAUSE
        while True:
            try:
                result = request()
            except Exception as error:
                if is_answer(error):
                    self._began = None
                if is_answer(error) or not self._may_retry(error, pause):
                    raise
            else:
                self._written |= writes
                self._began = None
                return result
            self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _sleep(self, seconds: float) -> None:
        # In slices, and no event: a signal handler may not take its lock.
        end = time.monotonic() + seconds
        while not self._hurried and time.monotonic() < end:
            time.sleep(0.1)
        if self._hurried:
            time.sleep(min(seconds, FIRST_PAUSE))

    def _may_retry(self, error: Exception, pause: float) -> bool:
        seconds = min(self._seconds, HURRIED_SECONDS) if self._hurried else self._seconds
        if not self._written or seconds <= 0:
            return False
        now = time.monotonic()
        began, self._began = self._began, self._began or now
        if began is not None:
            return now + min(pause, seconds) - began < seconds
        warnings.warn(
            f"{self._path} cannot be reached since {time.strftime('%H:%M:%S')} ({short(error)}). "
            f"Retrying for {self._seconds:g} s (record.outage_seconds); training goes on and waits "
            "once the buffers are full.",
            OutageWarning,
            stacklevel=4,
        )
        return True


def short(error: BaseException) -> str:
    """Return one short line of an error of obstore, whose own text goes on for a page."""
    line = str(error).partition("Debug source")[0].partition("<")[0]
    _, marker, reason = line.partition(" - ")
    text = " ".join((reason if marker else line).split()).rstrip(": ")
    code = re.search("<Code>([A-Za-z]+)</Code>", str(error))  # the S3 protocol's name of the error
    text = text.removeprefix("Server returned non-2xx status code: ")[:160]
    return f"{text} ({code[1]})" if code else text
