"""Stages of `benchmarks/on_gpu.sh`: each a process of its own that adds to one JSON file.

One that fails costs its own figures only. On a CPU (``--device cpu --quick``) every stage runs, so
that minutes on a GPU go to results.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import step as steps
from benchmarks.measure import interleave, machine, ratio_table, render, save, wait_for
from benchmarks.targets import ON_A_GPU, Target
from ckptlab.record.recorder import Recorder
from ckptlab.store.read.reader import open_store
from ckptlab.train.assemble import build
from ckptlab.train.config import Config, load_config
from ckptlab.train.interleave import train_together
from ckptlab.train.trainer import prepare, train

RECORDING, STEP, TOGETHER = ON_A_GPU
REPLICAS = (1, 2, 4, 8, 16)


class Stage:
    """What a stage is asked for: a device, its size, a folder to write in."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.quick: bool = given.quick
        self.device: str = given.device
        self.images: str | None = given.images
        self.folder = folder

    def config(self, *overrides: str) -> Config:
        """Return settings of ResNet-20 on 32x32 images, made up unless there are any."""
        made_up = ["data.name=synthetic", "data.image_size=32", "data.channels=3"]
        data = ["data.name=imagefolder", f"data.root={self.images}"] if self.images else made_up
        if not self.images:
            data += [f"data.samples={256 if self.quick else 5000}"]
        small = ["train.batch_size=32"] if self.quick else []
        settings = [*data, *small, "data.flip=true", "data.crop=4", "eval.steps=none"]
        device = [f"train.device={self.device}", "train.steps=1000000"]
        return load_config(overrides=["model.name=resnet20", *settings, *device, *overrides])

    def count(self, quick: int, whole: int) -> int:
        """Choose a number of steps or rounds."""
        return quick if self.quick else whole


def gpu_tests(stage: Stage) -> dict[str, Any]:
    """Run the tests that need a GPU, from the files that hold some."""
    files = sorted(
        str(path)
        for path in Path("tests").rglob("test_*.py")
        if "pytest.mark.gpu" in path.read_text(encoding="utf-8")
    )
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider"]
    if stage.quick:
        options.append("--collect-only")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout[-6000:], flush=True)
    if done.returncode:
        raise SystemExit(f"pytest ended with {done.returncode}")
    return {"rows": [[str(len(files)), done.stdout.strip().splitlines()[-1]]]}


def repeat(stage: Stage) -> dict[str, Any]:
    """Compare digests: twice the same, killed and resumed, and branched from a run on a CPU."""
    updates = stage.count(3, 200)
    rows = []
    names = ("lenet", "vgg11", "resnet18", "resnet20")
    for name in names[:: 3 if stage.quick else 1]:
        size = ["data.image_size=28", "data.channels=1"] if name == "lenet" else []
        config = stage.config(f"model.name={name}", f"train.steps={updates}", *size)
        paths = [str(stage.folder / f"{name}-{turn}.zarr") for turn in "ab"]
        for path in paths:
            train(config, path)
        rows.append([f"{name}, twice", _same(*paths)])
    whole, killed = (str(stage.folder / f"{name}.zarr") for name in ("whole", "killed"))
    config = stage.config(f"train.steps={stage.count(40, 600)}", "record.flush_seconds=0.5")
    train(config, whole)
    _kill_and_resume(config, killed)
    rows.append(["resnet20, killed and resumed", _same(whole, killed)])
    rows.append(["resnet20, branched from a run on a CPU", _branch_from_cpu(stage)])
    wrong = [what for what, same in rows if same != "same"]
    if wrong:
        raise SystemExit(f"other digests: {', '.join(wrong)}")
    return {"columns": ["what", "digests"], "rows": rows}


def _same(one: str, other: str) -> str:
    digests = [open_store(path).small("digest") for path in (one, other)]
    return "same" if np.array_equal(*digests) else "differ"


def _kill_and_resume(config: Config, path: str) -> None:
    code = (
        "import sys, json; from ckptlab.train.config import parse_config; "
        "from ckptlab.train.trainer import train; "
        "train(parse_config(json.loads(sys.argv[1])), sys.argv[2])"
    )
    settings = json.dumps(config.model_dump(mode="json"))
    child = subprocess.Popen([sys.executable, "-c", code, settings, path])
    while child.poll() is None:
        time.sleep(0.05)
        try:
            if len(open_store(path).steps) > 8:
                child.send_signal(signal.SIGKILL)
                child.wait()
        except Exception:
            continue
    train(config, path, resume=Path(path).exists())


def _branch_from_cpu(stage: Stage) -> str:
    parent, child = (str(stage.folder / f"{name}.zarr") for name in ("parent", "child"))
    train(stage.config("train.device=cpu", "train.steps=2"), parent)
    command = [sys.executable, "-c", "from ckptlab.cli import main; main()", "record"]
    command += ["--from", f"{parent}@2", "-o", child, "--allow-inexact"]
    command += ["-S", "train.steps=6", "-S", f"train.device={stage.device}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-3000:], flush=True)
        return f"exit {done.returncode}"
    return "same" if int(open_store(child).steps[-1]) == 6 else "incomplete"


def step(stage: Stage) -> dict[str, Any]:
    """Time the plain loop with some numbers of loader processes, and ours in all precisions."""
    count, rounds = stage.count(2, 200), stage.count(1, 3)
    training = build(stage.config())
    plain = {
        f"plain loop, {workers} loaders, {precision}": _in(
            precision, steps.plain(training, count, workers)
        )
        for precision in ("fp32", "tf32")
        for workers in ((0, 2) if stage.quick else (0, 2, 8))
    }
    ours = {
        f"ckptlab, {precision}, {layout}": steps.ours(
            stage.config(f"train.precision={precision}", f"train.layout={layout}"), count
        )
        for precision in ("fp32", "tf32", "bf16")
        for layout in ("contiguous", "channels_last")
    }
    alone = {steps.ALONE: steps.convolutions(stage.config(), count)}
    first = "ckptlab, fp32, contiguous"
    rows = interleave({**plain, **alone, **ours}, rounds, first)
    best = min((row["ratio"], name) for name, row in rows.items() if name in plain)
    target = replace_measured(STEP, f"{best[0]:.2f}", f"fp32, deterministic; against {best[1]}")
    title = "ResNet-20, 32x32 images, nothing recorded"
    return {**ratio_table(title, rows, f"Segments of {count} updates."), "targets": [target]}


def _in(precision: str, measured: Callable[[], float]) -> Callable[[], float]:
    """Time the plain loop with or without TF32, which torch allows in convolutions by default."""

    def run() -> float:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        try:
            return measured()
        finally:
            torch.backends.cudnn.allow_tf32 = before

    return run


def recording(stage: Stage) -> dict[str, Any]:
    """Time segments without recording, with each codec, and with gradients."""
    count, rounds = stage.count(8, 2047), stage.count(1, 3)
    training = build(stage.config())
    done = 0
    stalls: dict[str, float] = {}

    def segment(name: str, codec: str, arrays: tuple[str, ...]) -> float:
        nonlocal done
        path = Path(tempfile.mkdtemp(dir=stage.folder)) / "run.zarr"
        model, optimizer = training.model, training.optimizer
        wait_for(training.device)
        with (
            training.numerics(),
            Recorder(
                path,
                model,
                optimizer,
                codec=codec or "raw",
                arrays=arrays,
                steps="0:" if codec else "0",
            ) as recorder,
        ):
            began = time.perf_counter()
            for _ in range(count):
                recorder.begin_update()
                result = training.step(done)
                done += 1
                recorder.step(loss=result.loss, accuracy=result.accuracy, lr=0.1, skipped=False)
            wait_for(training.device)
        stalls[name] = recorder.stats.stall_seconds
        return time.perf_counter() - began

    kinds = {"off": "", "dense": "dense", "fast": "fast", "raw": "raw"}
    variants = {n: partial(segment, n, codec, ("weights",)) for n, codec in kinds.items()}
    name, both = "dense, with gradients", ("weights", "gradients")
    variants[name] = partial(segment, name, "dense", both)
    rows = interleave(variants, rounds, "off")
    target = replace_measured(RECORDING, f"{rows['dense']['ratio']:.3f}", "dense, fp32, fsync")
    waited = ", ".join(f"{name} {seconds:.2f}" for name, seconds in stalls.items())
    note = f"Segments of {count} updates; seconds that training waited: {waited}."
    return {**ratio_table("Recording every step of ResNet-20", rows, note), "targets": [target]}


def replicas(stage: Stage) -> dict[str, Any]:
    """Count updates a second of several trainings at once, with and without recording."""
    updates = stage.count(3, 1000)
    rows, rates = [], {}
    for number in REPLICAS[:: 4 if stage.quick else 1]:
        for record in ("0", "0:"):
            configs = [
                stage.config(f"train.steps={updates}", f"train.seed={i}", f"record.steps={record}")
                for i in range(number)
            ]
            folder = Path(tempfile.mkdtemp(dir=stage.folder))
            requests = [prepare(c, str(folder / f"{i}.zarr")) for i, c in enumerate(configs)]
            before, began = _cpu_seconds(), time.perf_counter()
            failures = [e for e in train_together([r for r in requests if r is not None]) if e]
            seconds = time.perf_counter() - began
            if failures:
                raise failures[0]
            rate = number * updates / seconds
            rates[number, record] = rate
            cores = (_cpu_seconds() - before) / seconds
            what = "every step" if record == "0:" else "nothing"
            rows.append([str(number), what, f"{rate:.0f}", f"{cores:.1f}"])
            print(rows[-1], flush=True)
    plain = steps.plain(build(stage.config()), stage.count(2, 200), 2)
    pace = stage.count(2, 200) / plain()
    most = max(number for number, _ in rates)
    aggregate = rates[most, "0"] / pace
    settings = f"{most} replicas, fp32; the plain loop with 2 loaders: {pace:.0f} updates/s"
    return {
        "columns": ["replicas", "recorded", "updates a second", "cores busy"],
        "rows": rows,
        "note": f"{updates} updates each, set-up included.",
        "targets": [replace_measured(TOGETHER, f"{aggregate:.1f}", settings)],
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def profile(stage: Stage) -> dict[str, Any]:
    """List the kernels of one update."""
    training = build(stage.config())
    kind = torch.profiler.ProfilerActivity
    activities = [kind.CUDA] if training.device.type == "cuda" else [kind.CPU]
    with training.numerics():
        for number in range(4):
            training.step(number)
        wait_for(training.device)
        with torch.profiler.profile(activities=activities) as found:
            training.step(4)
            wait_for(training.device)
    events = sorted(found.key_averages(), key=lambda e: -max(e.device_time_total, e.cpu_time_total))
    rows = [
        [
            event.key[:80],
            str(event.count),
            f"{max(event.device_time_total, event.cpu_time_total):.0f}",
        ]
        for event in events[:20]
    ]
    return {"columns": ["kernel", "times", "µs"], "rows": rows}


def record(stage: Stage) -> dict[str, Any]:
    """Record a training from the command line, verify, measure and report it."""
    path = str(stage.folder / "run.zarr")
    settings = stage.config(f"train.steps={stage.count(6, 4000)}", "eval.steps=0::1ep")
    began = time.perf_counter()
    train(settings, path)
    rows = [["record", f"{time.perf_counter() - began:.1f}"]]
    commands = {
        "info": ["info", path, "--json"],
        "verify": ["verify", path, "--deep"],
        "telemetry": ["analyze", "telemetry", path],
        "report": ["report", path, "-o", str(stage.folder / "report.html")],
    }
    for name, arguments in commands.items():
        began = time.perf_counter()
        code = "from ckptlab.cli import main; main()"
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=sys.stderr)
        rows.append([name, f"{time.perf_counter() - began:.1f}"])
    return {"columns": ["command", "seconds"], "rows": rows}


def replace_measured(target: Target, measured: str, settings: str) -> Target:
    """Return the promise with what was measured."""
    return Target(target.question, target.wanted, measured, settings)


STAGES: Mapping[str, Callable[[Stage], dict[str, Any]]] = {
    "tests": gpu_tests,
    "repeat": repeat,
    "step": step,
    "recording": recording,
    "replicas": replicas,
    "profile": profile,
    "record": record,
}


def main() -> None:
    """Run one stage, or put what all of them found together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=[*STAGES, "failed", "collect"])
    parser.add_argument("--what", default="", help="failed: which stage")
    parser.add_argument("--code", type=int, default=0, help="failed: its exit code")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--images", help="an image folder of 32x32 images (train/, test/)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="few steps: does it run?")
    given = parser.parse_args()
    file = given.out / "on_gpu.json"
    held = json.loads(file.read_text()) if file.exists() else {"machine": machine(), "stages": {}}
    if given.stage == "collect":
        collect(held, quick=given.quick)
        return
    if given.stage == "failed":
        held["stages"][given.what] = {"ended": f"exit {given.code}"}
    else:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="ckptlab-gpu-") as folder:
            found = STAGES[given.stage](Stage(given, Path(folder)))
        found["targets"] = [asdict(target) for target in found.get("targets", ())]
        took = round(time.perf_counter() - began, 1)
        held["stages"][given.stage] = {"ended": "done", "seconds": took, **found}
    file.write_text(json.dumps(held, indent=1) + "\n")


def collect(held: Mapping[str, Any], *, quick: bool) -> None:
    """Render the file; a rehearsal has stages and seconds, and no figure of speed."""
    stages = held["stages"]
    rows = [[name, str(s.get("seconds", "")), s["ended"]] for name, s in stages.items()]
    title = "Rehearsal of the stages" if quick else "Stages"
    note = "Few steps, to see that every stage runs: no figure of speed." if quick else ""
    tables = [
        {"title": title, "columns": ["stage", "seconds", "ended"], "rows": rows, "note": note}
    ]
    targets = []
    for name, stage in stages.items() if not quick else ():
        if "columns" in stage:
            parts = {key: stage[key] for key in ("columns", "rows", "note") if key in stage}
            tables.append({"title": stage.get("title", name), **parts})
        targets += [Target(**target) for target in stage["targets"]]
    question = "What does a GPU reach?"
    save("on_gpu", {"question": question, "tables": tables, "targets": targets})
    render()


if __name__ == "__main__":
    main()
