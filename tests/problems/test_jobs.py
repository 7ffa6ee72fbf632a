"""A problem that fails on a worker is named; the jobs beside it go on."""

import re

import pytest

from ckptlab import registry
from ckptlab.experiments.jobs.folder import Folder
from ckptlab.experiments.jobs.job import TrainJob, job_id, write_job
from ckptlab.experiments.jobs.worker import JobContext, run_jobs
from ckptlab.store.read.reader import open_store
from ckptlab.train.config import parse_config
from tests.problems.test_problem import BAD, HERE

SETTINGS = {
    "train": {"steps": 3, "batch_size": 8, "device": "cpu", "threads": 1},
    "record": {"fsync": False},
}
WRONG = {
    "tests.problems.nowhere:thing": "nowhere cannot be imported",
    "tests.problems.test_jobs:unnamed": "--allow",
    **{f"{HERE}:{name}": BAD[name] for name in ("no_module", "no_dataset", "no_scalar", "noisy")},
}


def unnamed():
    pytest.fail("imported, though the user never named it")


def test_the_job_fails_in_one_line_and_the_rest_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_allowed", set())
    names = [f"{HERE}:regression", *WRONG, f"{HERE}:labels"]
    jobs = [
        TrainJob(config=parse_config({**SETTINGS, "problem": {"name": name}})) for name in names
    ]
    folder = Folder(tmp_path)
    folder.make()
    allowed = tuple(name for name in names if "unnamed" not in name)
    context = JobContext(folder=str(tmp_path), recordings={}, allowed=allowed)
    results = run_jobs([(job_id(job), write_job(job)) for job in jobs], context)
    errors = dict(zip(names, (result.error for result in results), strict=True))
    for name in (names[0], names[-1]):
        assert errors.pop(name) is None
        path = folder.result(results[names.index(name)].key, jobs[names.index(name)])
        assert open_store(path).state == "complete"
    for name, error in errors.items():
        assert error is not None
        assert re.search(WRONG[name], error), error
        assert "\n" not in error
        # Named by its settings where the fault is in the name itself.
        if "cannot be imported" in error or "--allow" in error:
            assert f"problem.name={name}" in error
