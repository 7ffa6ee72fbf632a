"""Ids of jobs: the same for the same result, and for results of older versions."""

import pytest

from ckptlab.experiments.jobs.job import (
    BranchPoint,
    GivenMask,
    MaskOf,
    MeasureJob,
    Perturbed,
    Pruning,
    TrainJob,
    ids_in,
    job_id,
    parse_job,
    write_job,
)
from ckptlab.train.config import change, load_config

RUN, JOB = "run:" + "0" * 16, "job:" + "1" * 16
CONFIG = load_config(overrides=["model.name=mlp"])


def full_job(**changes) -> TrainJob:
    return TrainJob(
        config=CONFIG,
        source=BranchPoint(run=RUN, step=4),
        mask=Pruning(run=JOB, fraction=0.2, **changes.pop("mask", {})),
        perturbation=Perturbed(kind="noise:1.0", seed=3, **changes.pop("perturbation", {})),
    )


def test_ids_are_those_of_version_0_1():
    """Computed with that version, so that folders of experiments made then still count."""
    assert job_id(TrainJob(config=CONFIG)) == "job:46623650d6994ead"
    assert job_id(full_job()) == "job:728ef72d240dfb8f"


@pytest.mark.parametrize(
    "changes",
    [
        {"mask": {"keep": ("output",)}},
        {"mask": {"code": "1"}},
        {"perturbation": {"code": "1"}},
        {"perturbation": {"initial": RUN}},
        {"perturbation": {"sigma": "drawn"}},
    ],
)
def test_what_changes_the_result_changes_the_id(changes):
    assert job_id(full_job(**changes)) != job_id(full_job())


def test_a_shuffle_with_seed_0_is_a_shuffle():
    jobs = [
        TrainJob(config=CONFIG, mask=MaskOf(run=RUN, shuffle_seed=seed)) for seed in (None, 0, 1)
    ]
    assert len({job_id(job) for job in jobs}) == 3


def test_paths_and_syncs_do_not_change_the_id():
    moved = change(CONFIG, data={"root": None}, record={"fsync": False, "memory": "1MiB"})
    assert job_id(TrainJob(config=moved)) == job_id(TrainJob(config=CONFIG))
    assert job_id(TrainJob(config=change(CONFIG, train={"seed": 1}))) != job_id(
        TrainJob(config=CONFIG)
    )


@pytest.mark.parametrize(
    "job",
    [
        full_job(perturbation={"initial": RUN}),
        TrainJob(config=CONFIG, mask=GivenMask(digest="2" * 16)),
        TrainJob(config=CONFIG, mask=MaskOf(run=JOB)),
        MeasureJob(metric="connectivity", run=RUN, other=JOB, options={"alphas": 3}),
    ],
)
def test_jobs_are_read_as_they_were_written(job):
    again = parse_job(write_job(job))
    assert again == job
    assert job_id(again) == job_id(job)


def test_a_job_needs_every_run_it_names():
    job = full_job(perturbation={"initial": "run:" + "3" * 16})
    assert list(ids_in(job)) == [RUN, JOB, "run:" + "3" * 16]
    assert list(ids_in(MeasureJob(metric="cosine", run=RUN, other=JOB))) == [RUN, JOB]
    assert list(ids_in(TrainJob(config=CONFIG, mask=GivenMask(digest="2" * 16)))) == []
