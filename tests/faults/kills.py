"""Trainings that are killed at random moments until they are complete."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ckptlab.store.backends.open import open_storage
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.commits import read_markers
from ckptlab.store.read.reader import open_store
from ckptlab.store.read.root import read_root
from ckptlab.store.write.target import is_free
from tests.forks import fork_server
from tests.record.loops import assert_same_run

processes = fork_server()


def train_loop(path: str, resume: bool, progress: Any, steps: int, pause: float) -> None:
    """A loop of one's own, in blocks of 8."""
    from tests.record.loops import record, small, update

    warnings.simplefilter("ignore")
    model, optimizer = small()
    with record(path, model, optimizer, block=8, resume=resume) as recorder:
        progress.value = recorder.step_number
        while recorder.step_number < steps:
            recorder.step(loss=update(model, optimizer, recorder.step_number))
            progress.value = recorder.step_number
            time.sleep(pause)


def train_command(path: str, resume: bool, progress: Any, arguments: tuple[str, ...]) -> None:
    """`ckptlab record`, as the command line runs it."""
    import torch

    from ckptlab.cli import main
    from ckptlab.record.recorder import Recorder

    torch.set_num_threads(1)
    enter, step = Recorder.__enter__, Recorder.step

    def entered(self: Recorder) -> Recorder:
        enter(self)
        progress.value = self.step_number
        return self

    def noted(self: Recorder, **options: Any) -> None:
        step(self, **options)
        progress.value = self.step_number

    # To know how far it was; nothing is changed.
    Recorder.__enter__, Recorder.step = entered, noted
    settings = [part for argument in arguments for part in ("-S", argument)]
    main(["record", "--resume", path] if resume else ["record", "-o", path, *settings])


@dataclass
class Tally:
    """What came of all kills."""

    kills: int = 0
    before_creation: int = 0
    opened: int = 0
    verified: int = 0
    runs: int = 0
    identical: int = 0
    lost: list[int] = field(default_factory=list)

    def figures(self, block: int) -> dict[str, Any]:
        """What a table says of it."""
        lost = np.array(self.lost or [0])
        return {
            "SIGKILLs": self.kills,
            "before_the_run_existed": self.before_creation,
            "opened": self.opened,
            "verified_--deep": self.verified,
            "runs_completed": self.runs,
            "bit-identical": self.identical,
            "steps_lost,_median": f"{np.median(lost):.0f}",
            "most_steps_lost": int(lost.max()),
            "block": f"{block} steps",
        }


class Campaign:
    """Kill one kind of training again and again.

    `target` and `arguments` are what the processes run; `reference` is a run that was not killed.
    """

    def __init__(self, target: Any, arguments: tuple[Any, ...], folder: Path, seed: int) -> None:
        self.tally = Tally()
        self._target = target
        self._arguments = arguments
        self._folder = folder
        self._rng = np.random.default_rng(seed)
        self.reference = folder / "reference.zarr"
        process, progress = self._start(self.reference, resume=False)
        _wait_until_entered(process, progress)
        began = time.perf_counter()
        process.join()
        assert process.exitcode == 0
        self._duration = time.perf_counter() - began
        self.block = open_store(self.reference).attributes["block"]

    def kill(self, count: int) -> None:
        """Kill existing runs as often, in as many runs as that takes; the last is completed."""
        goal = self.tally.opened + count
        while self.tally.opened < goal:
            path = self._folder / f"run-{self.tally.runs}.zarr"
            while self._run_until_killed(path, self.tally.opened < goal):
                pass
            assert_same_run(path, self.reference)
            assert open_store(path).state == "complete"
            self.tally.runs += 1
            self.tally.identical += 1

    def _start(self, path: Path, *, resume: bool) -> tuple[Any, Any]:
        progress = processes.Value("q", -1, lock=False)
        process = processes.Process(
            target=self._target, args=(str(path), resume, progress, *self._arguments)
        )
        process.start()
        return process, progress

    def _run_until_killed(self, path: Path, may_kill: bool) -> bool:
        """Go on with a run; say whether it was killed before its end."""
        process, progress = self._start(path, resume=(path / "zarr.json").exists())
        # Mostly while it records; now and then while it starts, creates or restores.
        if self._rng.random() < 0.85:
            _wait_until_entered(process, progress)
        process.join(self._rng.uniform(0, 0.6 * self._duration) if may_kill else None)
        process.kill()
        process.join()
        if process.exitcode == 0:
            return False
        assert process.exitcode == -9, process.exitcode
        self._check(path, progress.value)
        return True

    def _check(self, path: Path, reached: int) -> None:
        self.tally.kills += 1
        if not (path / "zarr.json").exists():
            assert is_free(open_storage(path))
            assert reached <= 0
            self.tally.before_creation += 1
            return
        stored = open_store(path)
        self.tally.opened += 1
        report = verify(path, deep=True)
        assert report.ok, str(report)
        self.tally.verified += 1
        assert_same_run(path, self.reference, upto=0)
        if reached >= 0:  # not known of one killed while it restored
            # Of a block that was marked when its writer was killed, and that the next writer took
            # up and was killed before its first commit, readers do not know; a third does.
            lost = reached + 1 - len(_marked(path))
            assert lost <= 2 * self.block, (reached, len(stored.steps))
            self.tally.lost.append(max(lost, 0))


def _marked(path: Path) -> list[int]:
    """Return the steps that whoever takes the run up goes on behind."""
    storage = open_storage(path)
    _, documents = read_root(storage)
    return read_markers(storage, documents, ahead=True).steps


def _wait_until_entered(process: Any, progress: Any) -> None:
    while progress.value < 0 and process.is_alive():
        time.sleep(0.0005)
