"""Two real processes: the first writes, all resume alike; what cannot be recorded is refused."""

import re
import warnings

import numpy as np
import pytest
import torch

from ckptlab.errors import ConfigError, RecordingError
from ckptlab.record import distributed
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.forks import fork_server
from tests.record.loops import Oops, record, run, small, train_and_raise, update, vector

processes = fork_server()


def meet(rank, folder, number=0):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet-{number}", rank=rank, world_size=2
    )


def rank_of_two(rank, folder, stop, resume, queue):
    meet(rank, folder, stop)
    model, optimizer = small()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    with record(f"{folder}/run.zarr", wrapped, optimizer, resume=resume) as recorder:
        began = recorder.step_number
        run(recorder, wrapped, optimizer, stop)
    torch.distributed.destroy_process_group()
    queue.put((rank, began, recorder.stats.recorded, vector(model)))


def on_two(target, folder, *arguments):
    """Run `target` as both ranks; what it puts into its queue, by rank."""
    queue = processes.Queue()
    workers = [
        processes.Process(target=target, args=(r, str(folder), *arguments, queue)) for r in range(2)
    ]
    for worker in workers:
        worker.start()
    found = sorted((queue.get(timeout=120) for _ in workers), key=lambda item: item[0])
    for worker in workers:
        worker.join()
    return found


def train_on_two(folder, stop, resume):
    return on_two(rank_of_two, folder, stop, resume)


def test_the_first_of_two_ranks_writes_and_both_resume_at_one_step(tmp_path):
    results = train_on_two(tmp_path, 6, resume=False)
    assert [(r, began, recorded) for r, began, recorded, _ in results] == [(0, 0, 7), (1, 0, 0)]
    # A view that a crash left one block behind the markers: both go by the markers.
    view = (tmp_path / "run.zarr/zarr.json").read_bytes()
    model, optimizer = small()
    with pytest.raises(Oops):
        train_and_raise(tmp_path / "run.zarr", model, optimizer, 8, resume=True)
    (tmp_path / "run.zarr/zarr.json").write_bytes(view)
    results = train_on_two(tmp_path, 10, resume="auto")
    assert [began for _, began, _, _ in results] == [8, 8]
    stored = open_store(tmp_path / "run.zarr")
    assert stored.steps.tolist() == list(range(11))
    for _, _, _, final in results:
        assert np.array_equal(stored.snapshot(10), final)
    assert verify(tmp_path / "run.zarr", deep=True).ok


def rank_that_shards(rank, folder, kind, queue):
    meet(rank, folder)
    model, _ = small()
    if kind == "fsdp1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        part = distribute_tensor(torch.zeros(4), init_device_mesh("cpu", (2,)), [Shard(0)])
        model.register_buffer("cut", part)
    try:
        record(f"{folder}/run.zarr", model, None).open()
    except ConfigError as error:
        queue.put((rank, str(error)))


@pytest.mark.parametrize("kind", ["fsdp1", "buffer"])
def test_what_is_sharded_otherwise_is_refused_by_all_ranks_before_a_store_exists(tmp_path, kind):
    found = on_two(rank_that_shards, tmp_path, kind)
    assert [rank for rank, _ in found] == [0, 1]
    for _, problem in found:
        assert "is sharded (" in problem
        assert "\n" not in problem
    assert not (tmp_path / "run.zarr").exists()


def rank_alone(rank, folder, differ, queue):
    """Without DistributedDataParallel: each trains a network of its own."""
    meet(rank, folder)
    model, optimizer = small()
    if differ == "weights" and rank:
        torch.nn.init.zeros_(model[0].weight)
    if differ == "optimizer" and rank:
        optimizer = torch.optim.Adam(model.parameters())
    options = {
        "steps": {"steps": f"0:{10 + rank}"},
        "at": {"resume": True, "at": rank},
        "each": {"ranks": "each"},
    }.get(differ, {})
    path = f"{folder}/run-{rank if differ in ('path', 'each') else 0}.zarr"
    problem = ""
    try:
        with record(path, model, optimizer, **options) as recorder:
            for step in range(4):
                update(model, optimizer, step + 100 * rank)  # other data
                recorder.step()
                if differ == "data":
                    torch.distributed.barrier()
    except (ConfigError, RecordingError) as error:
        problem = str(error)
    except RuntimeError:  # the other rank is gone
        pass
    queue.put((rank, problem))


@pytest.mark.parametrize(
    ("differ", "problem"),
    [
        ("weights", "rank 1 has other weights than rank 0; give ranks='each'"),
        ("path", "path: rank 1 has '.*run-1.zarr' and rank 0 '.*run-0.zarr'; give every rank"),
        ("steps", "steps: rank 1 has '0:11' and rank 0 '0:10'"),
        ("at", "at: rank 1 has 1 and rank 0 0"),
        ("optimizer", "optimizer: rank 1 has 'Adam' and rank 0 'SGD'; give every rank the same"),
    ],
)
def test_ranks_that_disagree_are_refused_alike_before_a_store_exists(tmp_path, differ, problem):
    for _, found in on_two(rank_alone, tmp_path, differ):
        assert re.match(problem, found)
        assert "\n" not in found
    assert not list(tmp_path.glob("run-*"))


def test_ranks_that_train_apart_are_told_so_after_the_first_update(tmp_path):
    (_, first), (_, other) = on_two(rank_alone, tmp_path, "data")
    assert first.startswith("rank 1 has other weights than rank 0 after the first update")
    assert other == ""
    assert open_store(tmp_path / "run-0.zarr").state == "interrupted"


def test_each_rank_may_record_a_run_of_its_own(tmp_path):
    assert on_two(rank_alone, tmp_path, "each") == [(0, ""), (1, "")]
    one, other = (open_store(tmp_path / f"run-{rank}.zarr") for rank in range(2))
    assert one.steps.tolist() == other.steps.tolist() == list(range(5))
    assert np.array_equal(one.snapshot(0), other.snapshot(0))
    assert not np.array_equal(one.snapshot(4), other.snapshot(4))


def rank_that_waits(rank, folder, queue):
    meet(rank, folder)
    distributed.PATIENCE_SECONDS, distributed.MEETING_SECONDS = 0.1, 0.3
    model, optimizer = small()
    problem = ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            if rank == 0:
                record(f"{folder}/run.zarr", model, optimizer).open()
        except RecordingError as error:
            problem = str(error)
    queue.put((rank, problem, [str(w.message) for w in said]))


def test_a_rank_that_opens_no_recorder_is_named(tmp_path):
    (_, problem, said), _ = on_two(rank_that_waits, tmp_path)
    assert said == ["rank 0 waits for rank 1 to open its recorder"]
    assert "gave up after 0 s; open it on every rank, or give ranks='each'" in problem
    assert not (tmp_path / "run.zarr").exists()


def test_a_model_without_values_is_refused(tmp_path):
    model = torch.nn.Linear(2, 2, device="meta")
    with pytest.raises(ConfigError, match="the model lies on the meta device"):
        record(tmp_path / "run.zarr", model, None)
