import asyncio
import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster, Worker

from ckptlab.errors import ConfigError
from ckptlab.experiments.jobs.job import MeasureJob, Pruning, TrainJob
from ckptlab.experiments.jobs.scheduler import Outcome, read_outcome, run_plan
from ckptlab.experiments.plans.imp import Pruner, plan_imp
from ckptlab.experiments.results.gather import gather
from ckptlab.experiments.results.summary import summarise
from ckptlab.store.read.reader import open_store
from ckptlab.train.config import change
from tests.experiments.small import Bench
from tests.forks import fork_server

BOTH = ["imp", "random"]


@pytest.fixture(scope="module")
def client():
    """One worker, a thread of this process."""
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as found,
    ):
        yield found


def mtimes(bench: Bench) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in bench.folder.path.rglob("*") if p.is_file()}


def test_each_job_is_done_once_and_what_it_needs_first(dense, tmp_path, client):
    bench = Bench(dense, tmp_path)
    plan_imp(
        bench.plan, bench.parents, rewind=[4, 8], pruner=Pruner(levels=2), pruning=["imp", "random"]
    )
    assert len(bench.plan.jobs) == 8
    seen = []
    outcome = run_plan(
        bench.plan, bench.folder, client, on_change=lambda o: seen.append(len(o.done))
    )
    assert outcome.done == set(bench.plan.jobs)
    assert not outcome.failed
    assert seen == list(range(1, 9))
    before = mtimes(bench)
    again = run_plan(bench.plan, bench.folder, client, on_change=lambda o: seen.append(-1))
    assert again.done == outcome.done
    assert mtimes(bench) == before
    assert seen[-1] == 8


@pytest.mark.parametrize("together", [2, 16])
def test_trainings_are_bundled_where_that_is_asked_for(dense, tmp_path, client, together):
    bench = Bench(dense, tmp_path)
    plan_imp(bench.plan, bench.parents, rewind=[4, 8], pruner=Pruner(levels=2), pruning=BOTH)
    seen = []
    note = lambda outcome: seen.append(len(outcome.done))  # noqa: E731
    outcome = run_plan(bench.plan, bench.folder, client, together=together, on_change=note)
    assert outcome.done == set(bench.plan.jobs)
    # Six are ready at first: the second level of each series waits for the first.
    assert seen == ([2, 4, 6, 8] if together == 2 else [6, 8])


def test_half_of_a_plan_is_not_done_again(dense, tmp_path, client):
    bench = Bench(dense, tmp_path)
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=1))
    run_plan(bench.plan, bench.folder, client)
    before = mtimes(bench)
    plan_imp(bench.plan, bench.parents, rewind=[4, 8], pruner=Pruner(levels=2))
    assert len(bench.plan.jobs) == 4
    run_plan(bench.plan, bench.folder, client)
    assert {p: t for p, t in mtimes(bench).items() if p in before} == before


def test_long_chains_begin_first(dense, tmp_path, client):
    bench = Bench(dense, tmp_path)
    controls = ["random", "reinit"]
    plan_imp(
        bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=3), pruning=["imp", *controls]
    )
    depths = bench.plan.depths()
    chain = [cell.run for cell in bench.plan.cells if cell.at["pruning"] == "imp"][1:]
    assert [depths[key] for key in chain] == [2, 1, 0]
    order: list[str] = []
    note = lambda outcome: order.extend(outcome.done - set(order))  # noqa: E731
    run_plan(bench.plan, bench.folder, client, on_change=note)
    begun = [depths[key] for key in order]
    assert order[0] == chain[0]
    assert begun == sorted(begun, reverse=True)


def test_jobs_wait_here_for_the_next_free_worker(dense, tmp_path):
    """Dask shares out at once whatever it is given, so that some wait behind others in vain."""
    bench = Bench(dense, tmp_path)
    plan_imp(bench.plan, bench.parents, rewind=list(range(8)), pruner=Pruner(levels=1))
    assert len(bench.plan.jobs) == 8
    held: list[int] = []
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as found,
    ):

        def note(outcome: Outcome) -> None:
            held.append(sum(state.status == "pending" for state in found.futures.values()))
            if len(outcome.done) == 2:
                cluster.scale(2)
                found.wait_for_workers(2, timeout=60)

        outcome = run_plan(bench.plan, bench.folder, found, on_change=note)
    assert outcome.done == set(bench.plan.jobs)
    assert max(held[:2]) == 1
    assert max(held[2:]) == 2  # the second worker is given its own as soon as it is there


def failing(bench: Bench) -> TrainJob:
    """A job whose data are not there."""
    data = {"name": "imagefolder", "root": "nowhere", "image_size": None, "samples": None}
    return TrainJob(config=change(bench.parent.config, data=data))


def test_failures_are_kept_and_the_rest_goes_on(dense, tmp_path, client):
    bench = Bench(dense, tmp_path)
    bad = bench.plan.add(failing(bench))
    config, source = bench.parent.branch(4), bench.parent.source(4)
    blocked = [
        bench.plan.add(TrainJob(config=config, source=source, mask=Pruning(run=bad, fraction=0.2)))
    ]
    blocked.append(bench.plan.add(MeasureJob(metric="cosine", run=blocked[0])))
    measure = MeasureJob(metric="cosine", run=bench.parent.run, options={"by": "nothing"})
    wrong = bench.plan.add(measure)
    good = bench.plan.add(TrainJob(config=config, source=source))
    outcome = run_plan(bench.plan, bench.folder, client)
    assert set(outcome.failed) == {bad, wrong}
    assert "nowhere" in outcome.failed[bad]
    assert "value of by 'nothing'" in outcome.failed[wrong]
    assert outcome.blocked == set(blocked)
    assert outcome.done == {good}
    # Failures are remembered, and tried again only when that is asked for.
    before = mtimes(bench)
    again = run_plan(bench.plan, bench.folder, client)
    assert again.failed == outcome.failed
    assert again.blocked == set(blocked)
    assert mtimes(bench) == before
    assert read_outcome(bench.plan, bench.folder, retry_failed=True).left(bench.plan) == [
        bad,
        *blocked,
        wrong,
    ]
    retried = run_plan(bench.plan, bench.folder, client, retry_failed=True)
    assert set(retried.failed) == {bad, wrong}


def test_an_error_that_is_no_one_s_fault_is_a_failure_too(dense, tmp_path, client):
    bench = Bench(dense, tmp_path)
    job = TrainJob(config=bench.parent.branch(4), source=bench.parent.source(4))
    key = bench.plan.add(job)
    bench.folder.result(key, job).mkdir(parents=True)
    (bench.folder.result(key, job) / "weights").write_text("a file where a folder should be")
    outcome = run_plan(bench.plan, bench.folder, client)
    assert outcome.done == {key} or outcome.failed


def test_warnings_of_jobs_come_back(dense, tmp_path, client):
    bench = Bench(dense, tmp_path)
    pruning = Pruning(run=bench.parent.run, fraction=0.97)
    bench.plan.add(
        TrainJob(config=bench.parent.branch(4), source=bench.parent.source(4), mask=pruning)
    )
    outcome = run_plan(bench.plan, bench.folder, client)
    (texts,) = outcome.warnings.values()
    assert any("pruning leaves no weight of" in text for text in texts)
    # They are kept with the result, and shown again by whoever reads it.
    assert read_outcome(bench.plan, bench.folder).warnings == outcome.warnings


def test_levels_without_any_weight_are_told_counted_and_in_the_results(dense, tmp_path, client):
    bench = Bench(dense, tmp_path)
    pruner = Pruner(levels=4, fraction=0.99)
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=pruner)
    outcome = run_plan(bench.plan, bench.folder, client)
    results = gather(bench.plan, bench.folder, outcome)
    kept = results.density.squeeze().values
    empty = [
        sum(
            not bench.open(cell.run).mask()[t.offset : t.offset + t.size].any()
            for t in bench.stored.layout.tensors
        )
        for cell in bench.plan.cells[1:]
    ]
    assert results["empty_tensors"].squeeze().values[1:].tolist() == empty
    assert kept[-1] == 0
    assert empty[0] > 0
    levels = {key: n for n, key in enumerate((c.run for c in bench.plan.cells[1:]), 1)}
    without = [key for key, n in levels.items() if not kept[n]]
    for key in without:
        assert any("no weight at all" in text for text in results.attrs["warnings"][key])
    assert results.attrs["jobs_warned"] == len(outcome.warnings) >= len(without) > 0
    assert "empty_tensors" in summarise(results).columns


def test_a_folder_that_workers_do_not_see_is_refused(dense, tmp_path, client, monkeypatch):
    bench = Bench(dense, tmp_path)
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=1))
    from ckptlab.experiments.jobs import scheduler as module

    monkeypatch.setattr(module, "_sees", lambda path: False)
    with pytest.raises(ConfigError, match="does not see"):
        run_plan(bench.plan, bench.folder, client)


def test_a_full_disk_is_not_taken_for_a_scheduler_that_went_away(dense, tmp_path, client):
    bench = Bench(dense, tmp_path)
    plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=1))

    def gather(_: Outcome) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run_plan(bench.plan, bench.folder, client, on_change=gather)


def _address(file: Path, scheduler: subprocess.Popen) -> str:
    """Wait for the scheduler's file, which is there before anything stands in it."""
    while not (file.exists() and file.read_text().endswith("}")):
        assert scheduler.poll() is None
        time.sleep(0.05)
    return json.loads(file.read_text())["address"]


def _work_for(address: str) -> None:
    async def serve() -> None:
        async with Worker(address, nthreads=1, dashboard=False, silence_logs=50) as worker:
            await worker.finished()

    asyncio.run(serve())


def test_a_scheduler_that_goes_away_is_said_and_what_is_done_is_kept(dense, tmp_path):
    scheduler = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(tmp_path / "scheduler.json"),
        ],
        stderr=subprocess.DEVNULL,
    )
    worker = None
    try:
        address = _address(tmp_path / "scheduler.json", scheduler)
        worker = fork_server().Process(target=_work_for, args=(address,))
        worker.start()
        bench = Bench(dense, tmp_path / "folder")
        plan_imp(bench.plan, bench.parents, rewind=[4], pruner=Pruner(levels=6))
        with Client(address, set_as_default=False, timeout=30) as found:
            found.wait_for_workers(1, timeout=60)
            with pytest.raises(
                ConfigError, match=r"scheduler went away.*run the same command again"
            ):
                run_plan(bench.plan, bench.folder, found, on_change=lambda _: scheduler.kill())
        outcome = read_outcome(bench.plan, bench.folder)
        assert 1 <= len(outcome.done) < 6
        for key in outcome.done:
            assert open_store(bench.folder.result(key, bench.plan.jobs[key])).state == "complete"
    finally:
        scheduler.kill()
        scheduler.wait()
        if worker is not None:
            worker.kill()
            worker.join()


def test_ids_are_those_of_the_content(dense, tmp_path):
    one, other = Bench(dense, tmp_path / "a"), Bench(dense, tmp_path / "b", "record.fsync=true")
    keys = [
        bench.plan.add(TrainJob(config=bench.parent.branch(4), source=bench.parent.source(4)))
        for bench in (one, other)
    ]
    assert keys[0] == keys[1]
    third = Bench(dense, tmp_path / "c", "optim.lr=0.05")
    key = third.plan.add(TrainJob(config=third.parent.branch(4), source=third.parent.source(4)))
    assert key != keys[0]
    assert np.unique([one.parent.run, other.parent.run, third.parent.run]).size == 1
