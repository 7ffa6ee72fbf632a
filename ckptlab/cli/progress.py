"""Progress on stderr of recordings and whatever takes long: a live line, on a terminal only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

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


@contextlib.contextmanager
def metric_progress(name: str) -> Iterator[None]:
    """Show how far a measurement that goes step by step has come.

    Parameters
    ----------
    name : str
        Of the metric.

    Yields
    ------
    None
        While it is shown.
    """
    with step_progress(name) as show, watching(show):
        yield


@contextlib.contextmanager
def step_progress(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far something has come that goes step by step.

    Parameters
    ----------
    name : str
        Of what is done.

    Yields
    ------
    callable
        Takes the steps that are done, and all steps.
    """
    console = Console(stderr=True)
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as progress:
        task: list[TaskID] = []

        def show(done: int, total: int) -> None:
            if not task:
                task.append(progress.add_task(name, total=total))
            progress.update(task[0], completed=done, total=total)

        yield show


class RecordProgress:
    """Shows what `train` reports: speed, loss, accuracy, bytes and ratio, stall time.

    Parameters
    ----------
    path : str
        Of the run.
    """

    def __init__(self, path: str) -> None:
        self._console = Console(stderr=True)
        self._path = path
        self._last: TrainingProgress | None = None
        self._task: TaskID | None = None
        self._progress = Progress(
            TextColumn("recording"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __call__(self, report: TrainingProgress) -> None:
        """Take a report."""
        self._last = report
        if self._task is None:
            self._task = self._progress.add_task("recording", total=report.steps, facts="")
        self._progress.update(self._task, completed=report.step, facts=self._facts(report))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        if self._console.is_terminal and self._last is not None:
            note = "stopped" if error is not None else "done"
            self._console.print(
                f"{note} at step {self._last.step:,}: {self._facts(self._last)}", highlight=False
            )

    def _facts(self, report: TrainingProgress) -> str:
        recording = report.recording
        evaluation = report.evaluation
        parts = [
            f"{report.steps_per_second:.1f} step/s",
            f"loss {report.loss:.3f}",
            f"acc {report.accuracy:.3f}"
            if evaluation is None
            else f"test {evaluation.accuracy:.3f}",
            f"{human_bytes(recording.stored_bytes)} ({recording.ratio:.2f}x)",
            f"stall {recording.stall_seconds:.1f} s",
        ]
        return "  ".join(parts)
