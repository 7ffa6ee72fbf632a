"""What does recording every step cost? Wall time of segments of training, with over without.

The cost comes in bursts when a block is compressed, which the median step hides; so whole segments
are timed, and a segment ends when everything it recorded is committed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import zarr
from safetensors.torch import save_file

from benchmarks.measure import interleave, ratio_table, wait_for
from benchmarks.runs import Options
from benchmarks.targets import Target
from ckptlab.record.pipeline.calibrate import choose_codec
from ckptlab.record.pipeline.step_capture import encoding_threads
from ckptlab.record.recorder import Recorder
from ckptlab.train.assemble import Training, build
from ckptlab.train.config import load_config, override
from ckptlab.train.estimate import measure_step

OFF, OURS = "off", "ckptlab"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One network whose training is recorded.

    Parameters
    ----------
    title : str
        What it is called.
    settings : list of str
        Of its training.
    codec : str
        ``dense``, ``fast``, or ``auto``, which is settled as `ckptlab record` does.
    steps, rounds : int
        Updates of a segment: one less than whole blocks, since entering records step 0 as well.
    wanted : str
        The ratio that is to be reached; empty if none was promised.
    """

    title: str
    settings: list[str]
    codec: str
    steps: int
    rounds: int
    wanted: str = ""


def run(options: Options) -> dict[str, Any]:
    """Measure networks of several sizes, and steps of several lengths."""
    what = "images" if options.images else "synthetic"
    small = ["data.name=synthetic", "data.image_size=28", "data.channels=1"]
    cases = [
        Case(
            title=f"ResNet-20 (0.27 M weights), 32x32 {what}, batch 128",
            settings=options.pictures,
            codec="dense",
            steps=127,
            rounds=15,
            wanted="<= 1.03",
        ),
        Case(
            title="LeNet-300-100 (0.27 M weights), 28x28 synthetic, batch 512: a step of 6 ms",
            settings=["model.name=mlp", *small, "train.batch_size=512"],
            codec="auto",
            steps=1023,
            rounds=11,
            wanted="<= 1.15",
        ),
        Case(
            title="LeNet-300-100 (0.27 M weights), 28x28 synthetic, batch 128: a step of 2 ms",
            settings=["model.name=mlp", *small],
            codec="auto",
            steps=511,
            rounds=5,
        ),
        Case(
            title="ResNet-20 (0.27 M weights), digits 8x8, batch 128",
            settings=[],
            codec="auto",
            steps=255,
            rounds=5,
        ),
        Case(
            title="LeNet-5 (0.06 M weights), 28x28 synthetic, batch 128",
            settings=["model.name=lenet", *small],
            codec="auto",
            steps=255,
            rounds=5,
        ),
        Case(
            title=f"ResNet-18 (11.2 M weights), 32x32 {what}, batch 128",
            settings=["model.name=resnet18", *options.pictures],
            codec="auto",
            steps=15,
            rounds=3,
        ),
    ]
    tables, targets = [], []
    for case in cases:
        if options.only not in case.title:
            continue
        print(case.title, flush=True)
        rows, codec, note = _measured(case, quick=options.quick)
        tables.append(ratio_table(case.title, rows, note))
        if case.wanted:
            question = f"wall time, recording every step against not: {case.title}"
            codec = codec if case.codec == codec else f"{case.codec}: {codec}"
            settings = f"{codec}, fp32, deterministic, fsync"
            targets.append(Target(question, case.wanted, f"{rows[OURS]['ratio']:.3f}", settings))
    question = "What does recording every step cost?"
    return {"question": question, "tables": tables, "targets": targets}


def _measured(case: Case, *, quick: bool) -> tuple[dict[str, Any], str, str]:
    steps, rounds = (7, 1) if quick else (case.steps, case.rounds)
    settings = [*case.settings, "train.steps=1000000", "eval.steps=none"]
    config = load_config(overrides=[*settings, f"record.codec={case.codec}"])
    codec = case.codec
    if codec == "auto":
        parameters = sum(p.numel() for p in build(config).model.parameters())
        budget = config.record.budget
        free = encoding_threads() if torch.cuda.is_available() else 0
        codec = choose_codec(parameters, measure_step(config), threads=free, budget=budget)
    config = override(config, [f"record.codec={codec}"])
    makers = {
        OFF: _off,
        OURS: _ckptlab,
        f"{OURS}, codec=auto": partial(_ckptlab, codec="auto"),
        f"{OURS}, observing alone": partial(_ckptlab, schedule="0", observe="0:"),
        "torch.save a step": _torch_save,
        "safetensors a step": _safetensors,
        "Zarr, a chunk a step": _naive_zarr,
        "Zarr, an array per tensor": _array_per_tensor,
    }
    own = (OFF, OURS)
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        variants = {name: make(config, folder / name, steps) for name, make in makers.items()}
        peers = dict.fromkeys([name for name in makers if name.partition(",")[0] not in own], 2)
        rows = interleave(variants, rounds, OFF, fewer=peers)
    finally:
        shutil.rmtree(folder)
    note = (
        f"Segments of {steps} steps, {rounds} rounds (others than ours: 2); codec {codec}"
        f"{' (auto)' if case.codec == 'auto' else ''}, fp32, deterministic, fsync."
    )
    return rows, codec, note


class Segments:
    """A training that goes on from segment to segment."""

    def __init__(self, config: Any) -> None:
        self.training: Training = build(config)
        self.done = 0
        self.train(8, lambda: None)  # sets up what the first steps set up

    def train(self, steps: int, after: Callable[[], None]) -> None:
        """Do so many updates, and something after each."""
        with self.training.numerics():
            for _ in range(steps):
                self.training.step(self.done)
                self.done += 1
                after()
            wait_for(self.training.device)


def _off(config: Any, folder: Path, steps: int) -> Callable[[], float]:
    del folder
    segments = Segments(config)
    return lambda: _timed(lambda: segments.train(steps, lambda: None))


def _ckptlab(
    config: Any,
    folder: Path,
    steps: int,
    *,
    codec: str | None = None,
    schedule: str = "0:",
    observe: str | None = None,
) -> Callable[[], float]:
    segments = Segments(config)

    def segment() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        training = segments.training
        options: dict[str, Any] = {"codec": codec or config.record.codec, "steps": schedule}
        if observe is not None:
            options["observe"] = observe
        with Recorder(folder, training.model, training.optimizer, **options) as recorder:
            # Entering makes the store, once a run; leaving commits what is left, and counts.
            began = time.perf_counter()
            segments.train(steps, recorder.step)
        return time.perf_counter() - began

    return segment


def _torch_save(config: Any, folder: Path, steps: int) -> Callable[[], float]:
    segments = Segments(config)

    def segment() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        model = segments.training.model
        save = lambda: torch.save(model.state_dict(), folder / f"{segments.done}.pt")  # noqa: E731
        return _timed(lambda: segments.train(steps, save))

    return segment


def _safetensors(config: Any, folder: Path, steps: int) -> Callable[[], float]:
    segments = Segments(config)

    def segment() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        model = segments.training.model

        def save() -> None:
            state = {name: values.contiguous() for name, values in model.state_dict().items()}
            save_file(state, folder / f"{segments.done}.safetensors")

        return _timed(lambda: segments.train(steps, save))

    return segment


def _naive_zarr(config: Any, folder: Path, steps: int) -> Callable[[], float]:
    segments = Segments(config)

    def segment() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        model, first = segments.training.model, segments.done
        size = sum(p.numel() for p in model.parameters())
        shape, chunks = (steps, size), (1, size)
        array = zarr.create_array(folder, shape=shape, chunks=chunks, dtype="float32")

        def save() -> None:
            row = torch.nn.utils.parameters_to_vector(model.parameters())
            array[segments.done - first - 1] = row.detach().cpu().numpy()

        return _timed(lambda: segments.train(steps, save))

    return segment


def _array_per_tensor(config: Any, folder: Path, steps: int) -> Callable[[], float]:
    segments = Segments(config)

    def segment() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        first = segments.done
        parameters = dict(segments.training.model.named_parameters())
        group = zarr.create_group(folder)
        arrays = {
            name: group.create_array(
                name, shape=(steps, *p.shape), chunks=(1, *p.shape), dtype="float32"
            )
            for name, p in parameters.items()
        }

        def save() -> None:
            for name, array in arrays.items():
                array[segments.done - first - 1] = parameters[name].detach().cpu().numpy()

        return _timed(lambda: segments.train(steps, save))

    return segment


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
