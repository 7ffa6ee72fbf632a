"""Does each mechanism earn its lines? Recording with it over recording without, interleaved."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.measure import interleave, ratio_table
from benchmarks.recording import Segments
from benchmarks.runs import Options
from ckptlab.record.pipeline.encode_pool import EncodePool
from ckptlab.record.recorder import Recorder
from ckptlab.train.config import load_config

Change = Callable[[], contextlib.AbstractContextManager[Any]]
AS_IS = "as it is"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """Variants of one training that is recorded; `changes` take a mechanism away by name.

    `settings` are of the training, `recorder` of the variants by name; `verdict` is what followed.
    """

    title: str
    verdict: str
    settings: list[str]
    codec: str
    steps: int
    changes: dict[str, Change] = field(default_factory=dict)
    recorder: dict[str, dict[str, Any]] = field(default_factory=dict)
    rounds: int = 7


@contextlib.contextmanager
def slow_fsync(seconds: float = 0.03) -> Iterator[None]:
    """Have every fsync take longer, as on a disk far away."""
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(seconds)
        fsync(descriptor)

    with mock.patch("os.fsync", slow):
        yield


def no_direct() -> contextlib.AbstractContextManager[Any]:
    """Write through the system's cache."""
    return mock.patch("os.O_DIRECT", 0)


def pool(*, helpers: bool, always: bool) -> Change:
    """Let other threads help to encode never, or always, instead of only while training waits."""
    return lambda: mock.patch(
        "ckptlab.record.pipeline.writer_thread.EncodePool",
        lambda count, **_: EncodePool(count if helpers else 0, always=always),
    )


_POOLS = {
    "the writer thread alone encodes": pool(helpers=False, always=False),
    "all cores always encode": pool(helpers=True, always=True),
}
_SHORT = ["model.name=mlp", "data.name=synthetic", "data.image_size=28", "data.channels=1"]
_SYNCS = {"every commit synced": {"sync_seconds": 0.0}}

ABLATIONS = (
    Ablation(
        title="O_DIRECT, grouped syncs: LeNet-300-100, a step of 6 ms, raw",
        verdict="O_DIRECT stays. Copies past the caches left in 0.2.0: 0.93 without them.",
        settings=[*_SHORT, "train.batch_size=512"],
        codec="raw",
        steps=383,
        changes={"no O_DIRECT": no_direct},
        recorder=_SYNCS,
    ),
    Ablation(
        title="Grouped syncs where each fsync takes 30 ms longer: the same",
        verdict="Grouped syncs stay, for disks whose sync is slow.",
        settings=[*_SHORT, "train.batch_size=512"],
        codec="raw",
        steps=383,
        changes={AS_IS: slow_fsync, "every commit synced": slow_fsync},
        recorder=_SYNCS,
    ),
    Ablation(
        title="Grouped syncs: ResNet-20, digits 8x8, dense",
        verdict="As above.",
        settings=[],
        codec="dense",
        steps=127,
        recorder=_SYNCS,
        rounds=5,
    ),
    Ablation(
        title="Threads that encode while training waits: LeNet-300-100, a step of 6 ms, dense",
        verdict="They stay.",
        settings=[*_SHORT, "train.batch_size=512"],
        codec="dense",
        steps=383,
        changes=_POOLS,
    ),
    Ablation(
        title="Threads that encode while training waits: ResNet-20, synthetic 32x32, dense",
        verdict="They cost a training that never waits nothing.",
        settings=["data.name=synthetic"],
        codec="dense",
        steps=63,
        changes=_POOLS,
        rounds=5,
    ),
)


def run(options: Options) -> dict[str, Any]:
    """Measure every ablation; a ratio over 1 is what taking the mechanism away costs."""
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    tables = []
    try:
        for ablation in ABLATIONS:
            if options.only in ablation.title:
                print(ablation.title, flush=True)
                tables.append(_measured(ablation, folder / "run.zarr", quick=options.quick))
    finally:
        shutil.rmtree(folder)
    return {"question": "Does each mechanism earn its lines?", "tables": tables}


def _measured(ablation: Ablation, path: Path, *, quick: bool) -> dict[str, Any]:
    steps, rounds = (7, 1) if quick else (ablation.steps, ablation.rounds)
    overrides = [*ablation.settings, "train.steps=1000000", "eval.steps=none"]
    segments = Segments(load_config(overrides=overrides))
    names = dict.fromkeys((AS_IS, *ablation.changes, *ablation.recorder))

    def segment(name: str) -> float:
        shutil.rmtree(path, ignore_errors=True)
        training, options = segments.training, ablation.recorder.get(name, {})
        change = ablation.changes.get(name, contextlib.nullcontext)
        with (
            change(),
            Recorder(
                path, training.model, training.optimizer, codec=ablation.codec, **options
            ) as recorder,
        ):
            # Entering makes the store, once a run; leaving commits what is left, and counts.
            began = time.perf_counter()
            segments.train(steps, recorder.step)
        return time.perf_counter() - began

    rows = interleave({name: partial(segment, name) for name in names}, rounds, AS_IS)
    return ratio_table(
        ablation.title, rows, f"Segments of {steps} steps, {rounds} rounds. {ablation.verdict}"
    )
