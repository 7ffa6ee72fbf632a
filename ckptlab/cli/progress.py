"""Progress on stderr: a live bar on a terminal, elsewhere a line every 30 s."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from ckptlab.analyze.engine.progress import watching
from ckptlab.store.read.info import human_bytes

if TYPE_CHECKING:
    from ckptlab.train.trainer import Progress as TrainingProgress

LINE_SECONDS = 30.0
"""Without a terminal, a line is printed this often."""


class ProgressDisplay:
    """Shows how many of how many are done, with time left and a few facts.

    Parameters
    ----------
    name : str
        What is in progress.
    transient : bool
        Whether the bar vanishes at the end.
    """

    def __init__(self, name: str, *, transient: bool = True) -> None:
        self.console = Console(stderr=True)
        self._name = name
        self._started = self._printed = time.monotonic()
        self._first: int | None = None
        self._line = ""  # shown next, where the last one shown is not the last
        self._lines = False
        self._task: TaskID | None = None
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
        self._bar = Progress(
            TextColumn(name),
            *columns,
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=transient,
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
        if self._lines and self._line:
            click.echo(self._line, err=True)

    def show(self, done: int, total: int, facts: str = "") -> None:
        """Show that `done` of `total` are done."""
        if self._first is None:
            self._first = done
            self._task = self._bar.add_task(self._name, total=total, facts=facts)
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=total, facts=facts)
        now = time.monotonic()
        if self.console.is_terminal:
            return
        speed = (done - self._first) / max(now - self._started, 1e-9)
        left = f", {human_seconds((total - done) / speed)} left" if total > done and speed else ""
        self._line = f"{self._name}: {done:,} of {total:,}{left}  {facts}".rstrip()
        if now - self._printed >= LINE_SECONDS:
            click.echo(self._line, err=True)
            self._printed, self._line, self._lines = now, "", True


@contextlib.contextmanager
def step_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callable that takes the steps done and all steps, and shows them."""
    with ProgressDisplay(name) as display:
        yield display.show


@contextlib.contextmanager
def metric_progress(name: str) -> Iterator[None]:
    """Show the progress of a metric that goes step by step."""
    with step_progress(name) as show, watching(show):
        yield


class RecordProgress(ProgressDisplay):
    """Shows what `train` reports: speed, loss, accuracy, bytes and ratio, stall time."""

    def __init__(self) -> None:
        super().__init__("recording", transient=False)
        self._last: TrainingProgress | None = None

    def __call__(self, report: TrainingProgress) -> None:
        """Show a report."""
        self._last = report
        self.show(report.step, report.steps, training_facts(report))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        if self.console.is_terminal and self._last is not None:
            note = "stopped" if error is not None else "done"
            facts = training_facts(self._last)
            self.console.print(f"{note} at step {self._last.step:,}: {facts}", highlight=False)


def training_facts(report: TrainingProgress) -> str:
    """Return speed, loss, accuracy, stored bytes and stall time as text."""
    recording, evaluation = report.recording, report.evaluation
    parts = [f"{report.steps_per_second:.1f} step/s", f"loss {report.loss:.3f}"]
    if evaluation is None:
        parts.append(f"acc {report.accuracy:.3f}")
    else:
        parts.append(f"test {evaluation.accuracy:.3f}")
    if recording.stored_bytes:
        parts.append(f"{human_bytes(recording.stored_bytes)} ({recording.ratio:.2f}x)")
    return "  ".join([*parts, f"stall {recording.stall_seconds:.1f} s"])


def human_seconds(seconds: float) -> str:
    """Return a duration as people read it, such as ``2 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
