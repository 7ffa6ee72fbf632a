"""Real worker processes, a real driver, and both killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr

from ckptlab.errors import ConfigError, LockedError
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import Perturbed, TrainJob
from ckptlab.experiments.jobs.plan import ExperimentPlan
from ckptlab.experiments.jobs.scheduler import Outcome, read_outcome
from ckptlab.experiments.operations.criteria import PRUNING
from ckptlab.experiments.operations.pruning import prunable
from ckptlab.experiments.plans.imp import Pruner, plan_imp, prune_chain
from ckptlab.experiments.plans.perturb import plan_perturb
from ckptlab.experiments.results.gather import write_results
from ckptlab.experiments.results.open import open_results
from ckptlab.experiments.run_experiment import Workforce, _Gatherer, run_experiment
from ckptlab.plugins import VARIABLE, load_plugin
from ckptlab.registry import allow
from ckptlab.store.read.reader import open_store
from tests.cli.commands import ckptlab
from tests.experiments.small import STEPS, Bench, record_dense


def command(run: str, folder: Path, levels: int, rewind: str) -> list[str]:
    return [
        *(sys.executable, "-m", "ckptlab", "imp", run, "-o", str(folder)),
        *("--rewind", rewind, "--levels", str(levels), "--pruning", "imp,random"),
        *("--workers", "2", "--json"),
    ]


def to_the_end(command: list[str]) -> dict:
    """Run a driver in this process, and return what it prints."""
    done = ckptlab(*command[3:])
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def done_jobs(folder: Path) -> dict[str, int]:
    """Jobs whose recordings are complete, with the time their root was written last."""
    found = {}
    for path in (folder / "jobs").glob("*.zarr"):
        try:
            attributes = json.loads((path / "zarr.json").read_text())["attributes"]
        except (OSError, ValueError):
            continue
        if attributes["state"] == "complete":
            found[path.name] = (path / "zarr.json").stat().st_mtime_ns
    return found


def wait_for(folder: Path, count: int, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while len(done_jobs(folder)) < count:
        assert driver.poll() is None, "the driver ended too early"
        assert time.monotonic() < deadline, "too few jobs were done"
        time.sleep(0.05)


def workers_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    children = psutil.Process(driver.pid).children(recursive=True)
    return [c for c in children if "spawn_main" in " ".join(c.cmdline())]


@pytest.mark.parametrize(
    ("levels", "rewind"),
    [
        pytest.param(2, "4,8", marks=pytest.mark.slow),
        pytest.param(5, "0,4,8", marks=pytest.mark.slow),
    ],
    ids=["8 jobs", "30 jobs"],
)
def test_killing_a_worker_and_the_driver_costs_nothing(dense, tmp_path, levels, rewind):
    steps = [int(step) for step in rewind.split(",")]
    count = 2 * levels * len(steps)
    kept = tmp_path / "killed"
    arguments = command(dense, kept, levels, rewind)
    driver = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, text=True)
    wait_for(kept, 2, driver)
    workers = workers_of(driver)
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    wait_for(kept, count // 2, driver)
    workers = workers_of(driver)
    before = done_jobs(kept)
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive, "workers outlive their driver"
    results = to_the_end(arguments)
    assert (results["jobs"], results["done"], results["failed"]) == (count, count, {})
    after = done_jobs(kept)
    assert len(after) == count
    assert {name: after[name] for name in before} == before, "a job was done twice"
    # The same jobs one after the other, in this process.
    whole = Bench(dense, tmp_path / "whole")
    pruner = Pruner(levels=levels)
    plan_imp(whole.plan, whole.parents, rewind=steps, pruner=pruner, pruning=["imp", "random"])
    whole.do_all()
    write_results(whole.plan, whole.folder, read_outcome(whole.plan, whole.folder))
    one, other = (xr.open_zarr(p / "results.zarr").load() for p in (kept, whole.folder.path))
    assert one.identical(other.assign_attrs(one.attrs))
    assert {path.name for path in (whole.folder.path / "jobs").glob("*.zarr")} == set(after)
    for name in after:
        digests = [open_store(p / "jobs" / name).small("digest") for p in (kept, whole.folder.path)]
        assert np.array_equal(*digests)


def test_a_worker_s_job_ends_as_its_parent_bit_for_bit(tmp_path):
    path = record_dense(tmp_path / "p.zarr")
    bench = Bench(path, tmp_path / "folder", "record.steps=0:", kind="perturb")
    plan_perturb(bench.plan, bench.parents, rewind=[31], perturbations=["none"], optimizer="stored")
    outcome, results = run_experiment(bench.plan, bench.folder, Workforce(workers=1, threads=1))
    (key,) = outcome.done
    run = bench.open(key)
    assert run.steps.tolist() == list(range(31, STEPS + 1))
    assert np.array_equal(run.small("digest"), bench.stored.small("digest")[:, 31:])
    assert results.accuracy.item() == bench.stored.small("eval_accuracy")[-1]
    assert results.state.item() == "done"


PLUGIN = """
import ckptlab

@ckptlab.perturbation(name="plugged-negate")
def negate(weights):
    "Turn every sign."
    return -weights

@ckptlab.pruning(name="plugged-largest")
def largest(weights):
    "Remove the largest."
    return -abs(weights)
"""

MODULE = """
def double(weights, *, by=2.0):
    "Scale."
    return weights * by
"""


def test_worker_processes_know_the_user_s_code_and_no_other(dense, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    (tmp_path / "plugged.py").write_text(PLUGIN)
    (tmp_path / "own_scaling.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    load_plugin(tmp_path / "plugged.py")
    allow("own_scaling:double")
    bench = Bench(dense, tmp_path / "folder", kind="perturb")
    kinds = ["plugged-negate", "own_scaling:double:by=3"]
    plan_perturb(bench.plan, bench.parents, rewind=[8], perturbations=kinds)
    source = bench.parent.source(8)
    chain = prune_chain(
        bench.plan,
        bench.parent,
        source,
        Pruner(levels=1),
        dense=bench.parent.run,
        criterion=PRUNING["plugged-largest"],
    )
    # What a run names without the user is refused by the worker, too.
    hostile = TrainJob(
        config=bench.parent.branch(8),
        source=source,
        perturbation=Perturbed(kind="own_scaling:other"),
    )
    refused = bench.plan.add(hostile)
    outcome, _ = run_experiment(bench.plan, bench.folder, Workforce(workers=1))
    assert set(outcome.failed) == {refused}
    assert "--allow own_scaling:other" in outcome.failed[refused]
    now, flags = bench.stored.snapshot(8), prunable(bench.stored.layout)
    negated, tripled = (bench.open(cell.run) for cell in bench.plan.cells)
    pruned = bench.open(chain[1])
    assert np.array_equal(negated.snapshot(8), np.where(flags, -now, now))
    assert np.array_equal(tripled.snapshot(8), np.where(flags, now * 3, now))
    last = np.abs(bench.stored.snapshot(STEPS))
    assert last[~pruned.mask()].min() >= last[pruned.mask() & flags].max()


def test_warnings_outlive_the_run_that_raised_them(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=2, fraction=0.995))
    workforce = Workforce(workers=1)
    outcome, results = run_experiment(bench.plan, bench.folder, workforce)
    assert outcome.warnings
    assert results.attrs["jobs_warned"] == len(outcome.warnings)
    again, stored = run_experiment(bench.plan, bench.folder, workforce)
    assert again.warnings == outcome.warnings
    assert stored.attrs["warnings"] == results.attrs["warnings"]


def test_one_driver_at_a_time(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=1))
    lock = bench.folder.lock()
    try:
        with pytest.raises(LockedError, match=f"process {os.getpid()}"):
            run_experiment(bench.plan, bench.folder, Workforce())
    finally:
        lock.release()


@pytest.mark.parametrize(
    ("workforce", "said"),
    [
        (Workforce(scheduler="threads"), "accepted: tcp://HOST:PORT"),
        (Workforce(scheduler="tcp://127.0.0.1:1"), "no scheduler answers at"),
        (Workforce(scheduler="tcp://127.0.0.1:1", workers=2), "leave workers or scheduler out"),
    ],
)
def test_workers_that_are_not_there(dense, tmp_path, workforce, said):
    bench = Bench(dense, tmp_path)
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=1))
    with pytest.raises(ConfigError, match=said):
        run_experiment(bench.plan, bench.folder, workforce)
    # What is there of the results is written all the same.
    assert open_results(tmp_path).attrs["jobs_open"] == 1


def test_folders_are_local_and_no_files(tmp_path):
    with pytest.raises(ConfigError, match="needs a folder"):
        Folder("s3://bucket/x")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        Folder(tmp_path / "file")


def test_gathering_many_results_leaves_the_cores_to_the_jobs(monkeypatch):
    seconds = [0.0]
    gathered = []

    def gather_for_long(*_: object) -> None:
        gathered.append(seconds[0])
        seconds[0] += 5.0

    monkeypatch.setattr("ckptlab.experiments.run_experiment.write_results", gather_for_long)
    monkeypatch.setattr("time.monotonic", lambda: seconds[0])
    plan = ExperimentPlan(title="", kind="perturb")
    seen = []
    gatherer = _Gatherer(plan, Folder("never-made"), seen.append)
    while seconds[0] < 2000:  # a job ends every second
        gatherer(Outcome())
        seconds[0] += 1.0
    assert 5 <= len(gathered) <= 1 + 2000 * 0.02 / 5
    assert gathered[0] < 15
    assert len(seen) > 1900
