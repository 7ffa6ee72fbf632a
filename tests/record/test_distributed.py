"""DistributedDataParallel over two real processes: the first writes, all resume alike."""

import numpy as np
import pytest
import torch

from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from tests.forks import fork_server
from tests.record.loops import Oops, record, run, small, train_and_raise, vector

processes = fork_server()


def rank_of_two(rank, folder, stop, resume, queue):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet-{stop}", rank=rank, world_size=2
    )
    model, optimizer = small()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    with record(f"{folder}/run.zarr", wrapped, optimizer, resume=resume) as recorder:
        began = recorder.step_number
        run(recorder, wrapped, optimizer, stop)
    torch.distributed.destroy_process_group()
    queue.put((rank, began, recorder.stats.recorded, vector(model)))


def train_on_two(folder, stop, resume):
    queue = processes.Queue()
    workers = [
        processes.Process(target=rank_of_two, args=(r, str(folder), stop, resume, queue))
        for r in range(2)
    ]
    for worker in workers:
        worker.start()
    found = sorted((queue.get(timeout=120) for _ in workers), key=lambda item: item[0])
    for worker in workers:
        worker.join()
    return found


def test_the_first_of_two_ranks_writes_and_both_resume_at_one_step(tmp_path):
    results = train_on_two(tmp_path, 6, resume=False)
    assert [(r, began, recorded) for r, began, recorded, _ in results] == [(0, 0, 7), (1, 0, 0)]
    # A view that a crash left one block behind the markers: both go by the markers.
    view = (tmp_path / "run.zarr/zarr.json").read_bytes()
    model, optimizer = small()
    with pytest.raises(Oops):
        train_and_raise(tmp_path / "run.zarr", model, optimizer, 8, resume=True)
    (tmp_path / "run.zarr/zarr.json").write_bytes(view)
    results = train_on_two(tmp_path, 10, resume=True)
    assert [began for _, began, _, _ in results] == [8, 8]
    stored = open_store(tmp_path / "run.zarr")
    assert stored.steps.tolist() == list(range(11))
    for _, _, _, final in results:
        assert np.array_equal(stored.snapshot(10), final)
    assert verify(tmp_path / "run.zarr", deep=True).ok
