"""How much faster a study is with two workers than with one.

Wall time of the whole command's work: starting the workers, 16 trainings, gathering the results.
The trainings are as long as those of `examples/early_phase` at small scale, which run on the digits
too. Beside it what the cores alone gain: such updates in bare processes, once these have started.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks.measure import interleave, ratio_table
from benchmarks.runs import Options
from benchmarks.targets import Target
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.plans.parent_run import recorded_parent
from ckptlab.experiments.plans.perturb import plan_perturb
from ckptlab.experiments.run_experiment import Workforce, run_experiment
from ckptlab.store.read.reader import open_store
from ckptlab.train.assemble import build
from ckptlab.train.config import Config, load_config
from ckptlab.train.trainer import train

JOBS = 16

LENGTH = "25ep"
"""As in ``examples/early_phase/fig5.toml``, at small scale."""


def run(options: Options) -> dict[str, Any]:
    """Train a network on from one snapshot under 16 drawings of noise."""
    length, rounds = ("12", 1) if options.quick else (LENGTH, 3)
    folder = Path(tempfile.mkdtemp(prefix="ckptlab-bench-"))
    try:
        settings = ["data.name=digits", "model.width=8", "train.threads=1", "record.steps=0,4"]
        config = load_config(overrides=[*settings, f"train.steps={length}", "eval.steps=none"])
        path = str(folder / "dense.zarr")
        train(config, path)
        steps = int(open_store(path).steps[-1])
        variants = {f"{n} worker{'s' * (n > 1)}": _study(path, folder, n) for n in (1, 2)}
        rows = interleave(variants, rounds, "1 worker")
        updates = JOBS * steps // 6
        bare = {f"{n} process{'es' * (n > 1)}": _bare(config, updates, n) for n in (1, 2)}
        bare_rows = interleave(bare, rounds, "1 process")
    finally:
        shutil.rmtree(folder)
    note = (
        f"{JOBS} trainings of {steps - 4} steps of a ResNet-20 of width 8, one thread each; dense, "
        f"fp32, deterministic. {rounds} rounds. The inverse of the ratio is the gain in throughput."
    )
    title = f"ResNet-20 of width 8 on the digits, {JOBS} jobs"
    bare_title = f"The cores alone: {updates} such updates in bare processes of one thread"
    bare_note = "From when all have started to when all are done; nothing is read or written."
    alone = 1 / bare_rows["2 processes"]["ratio"]
    target = Target(
        f"throughput of {JOBS} jobs with 2 workers against 1",
        ">= 1.7",
        f"{1 / rows['2 workers']['ratio']:.2f}",
        f"dense, fp32, deterministic; the cores alone: {alone:.2f}",
    )
    tables = [
        ratio_table(title, rows, note),
        ratio_table(bare_title, bare_rows, bare_note),
    ]
    return {"question": "Do jobs scale with workers?", "tables": tables, "targets": [target]}


def _study(path: str, folder: Path, workers: int) -> Callable[[], float]:
    def measured() -> float:
        target = folder / "study"
        shutil.rmtree(target, ignore_errors=True)
        plan = ExperimentPlan(title="16 jobs", kind="perturb")
        parents = [
            recorded_parent(plan, open_store(path), threads=1, replicate=r) for r in range(JOBS)
        ]
        plan_perturb(plan, parents, rewind=[4], perturbations=["noise:1.0"])
        began = time.perf_counter()
        outcome, _ = run_experiment(plan, Folder(target), Workforce(workers=workers, threads=1))
        seconds = time.perf_counter() - began
        if len(outcome.done) != JOBS:
            raise RuntimeError(f"{len(outcome.done)} of {JOBS} jobs were done: {outcome.failed}")
        return seconds

    return measured


def _bare(config: Config, updates: int, processes: int) -> Callable[[], float]:
    context = multiprocessing.get_context("spawn")

    def measured() -> float:
        # A process that dies must not be waited for.
        begin, end = (context.Barrier(processes + 1, timeout=600) for _ in range(2))
        share = updates // processes
        workers = [
            context.Process(target=_update, args=(config, share, begin, end))
            for _ in range(processes)
        ]
        for worker in workers:
            worker.start()
        begin.wait()
        began = time.perf_counter()
        end.wait()
        seconds = time.perf_counter() - began
        for worker in workers:
            worker.join()
        return seconds

    return measured


def _update(config: Config, updates: int, begin: Barrier, end: Barrier) -> None:
    training = build(config)
    with training.numerics():
        for number in range(8):
            training.step(number)
        begin.wait()
        for number in range(updates):
            training.step(8 + number)
        end.wait()
