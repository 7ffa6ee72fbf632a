"""Estimates: schedules by hand, sums by hand, and a real one against what really happened."""

import time

import pytest
from PIL import Image

from ckptlab.experiments.jobs.estimate import (
    METRIC_SECONDS,
    JobCost,
    estimate,
    finish_time,
    job_seconds,
    kind_of,
    length,
    measure_reading,
    measure_training,
)
from ckptlab.experiments.jobs.job import MeasureJob, TrainJob
from ckptlab.experiments.plans.imp import Pruner, plan_imp
from ckptlab.experiments.run_experiment import Workforce, run_experiment
from ckptlab.train.config import load_config
from ckptlab.train.data import read_some
from ckptlab.train.datasets import imagefolder
from tests.experiments.small import STEPS, Bench

COST = JobCost(setup=2.0, update=0.5, image=0.01)
TEST_IMAGES = 24


def test_workers_take_long_chains_first(dense, tmp_path):
    bench = Bench(dense, tmp_path)
    plan_imp(
        bench.plan,
        bench.parents,
        rewind=[4],
        pruner=Pruner(levels=3),
        pruning=["imp", "random"],
    )
    seconds = dict.fromkeys(bench.plan.jobs, 10.0)
    assert finish_time(bench.plan, seconds, 1) == 60
    assert finish_time(bench.plan, seconds, 2) == 30
    # The chain of three cannot be split.
    assert finish_time(bench.plan, seconds, 6) == 30
    chain = [cell.run for cell in bench.plan.cells if cell.at["pruning"] == "imp"][1:]
    assert finish_time(bench.plan, {**seconds, chain[2]: 50.0}, 2) == 70
    # What is done takes no time.
    assert finish_time(bench.plan, {chain[2]: 10.0}, 2) == 10
    assert finish_time(bench.plan, {}, 2) == 0


def test_jobs_are_updates_and_evaluations(dense, tmp_path):
    bench = Bench(dense, tmp_path, "eval.steps=0::10")
    job = TrainJob(config=bench.parent.branch(8), source=bench.parent.source(8))
    key = bench.plan.add(job)
    costs = {kind_of(job): COST}
    evaluations = len([10, 20, 30, 40, STEPS])
    expected = 2 + 0.5 * (STEPS - 8) + 0.01 * TEST_IMAGES * evaluations
    assert length(job) == STEPS - 8
    assert job_seconds(bench.plan, key, costs) == pytest.approx(expected)
    line = MeasureJob(metric="connectivity", run=key, options={"alphas": 5, "samples": 32})
    took = job_seconds(bench.plan, bench.plan.add(line), costs)
    assert took == pytest.approx(METRIC_SECONDS + 5 * 0.01 * (TEST_IMAGES + 32))
    other = bench.plan.add(MeasureJob(metric="cosine", run=key))
    assert job_seconds(bench.plan, other, costs) == METRIC_SECONDS


def test_a_slower_network_is_measured_as_slower(dense, tmp_path, monkeypatch):
    monkeypatch.setattr("ckptlab.experiments.jobs.estimate.TIMED_SECONDS", 0.2)
    configs = [
        Bench(dense, tmp_path, *settings).parent.config.model_dump_json()
        for settings in (["model.width=2"], ["model.width=32"])
    ]
    # The fastest of three of each: whatever else runs here slows some of them.
    small, large = ([measure_training(config) for _ in range(3)] for config in configs)
    assert min(cost.update for cost in large) > 1.5 * min(cost.update for cost in small)
    assert all(cost.setup > 0 and cost.image > 0 for cost in small + large)


def test_reading_of_images_is_told_from_some_of_them(tmp_path, monkeypatch):
    for half, count in (("train", 60), ("test", 20)):
        for name in ("a", "b"):
            (tmp_path / half / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (64, 64)).save(tmp_path / half / name / f"{i:02}.png")
    config = load_config(overrides=["data.name=imagefolder", f"data.root={tmp_path}"])
    monkeypatch.setattr(imagefolder, "SOME", 40)
    decode, decoded = imagefolder._decode, []
    monkeypatch.setattr(
        imagefolder, "_decode", lambda path, *how: decoded.append(path) or decode(path, *how)
    )
    assert read_some(config.data) == 40 / 160
    assert len(set(decoded)) == 40
    assert measure_reading(config.model_dump_json()) > 0
    # What is read in no time is not read.
    assert read_some(load_config().data) == 1


def test_an_estimate_counts_what_is_left_and_leaves_nothing_behind(dense, tmp_path):
    bench = Bench(dense, tmp_path / "folder")
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=2))
    before = sorted(bench.folder.path.rglob("*"))
    found = estimate(bench.plan, bench.folder, workers=1)
    assert sorted(bench.folder.path.rglob("*")) == before
    assert (found.jobs, found.trainings, found.done, found.steps) == (2, 2, 0, 2 * 44)
    assert found.seconds > 0
    bench.do_all()
    after = estimate(bench.plan, bench.folder, workers=1)
    assert (after.done, after.steps, after.seconds) == (2, 0, 0)


@pytest.mark.slow
def test_an_estimate_is_near_what_happens(dense, tmp_path):
    bench = Bench(dense, tmp_path / "folder", "train.steps=300", "model.width=2")
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=3))
    found = estimate(bench.plan, bench.folder, workers=1)
    began = time.monotonic()
    run_experiment(bench.plan, bench.folder, Workforce(workers=1))
    took = time.monotonic() - began
    # Roughly: other processes come and go while this runs.
    assert took / 3 < found.seconds < took * 3
