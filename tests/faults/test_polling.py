"""Readers while a run is written: whatever they see is whole and right."""

import time

import numpy as np
import pytest
import xarray as xr

from ckptlab.errors import StoreError
from ckptlab.store.backends.open import open_storage
from ckptlab.store.format.block import Evaluation
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from tests.faults.figures import note
from tests.forks import fork_server
from tests.store.samples import block_of, layout_of

processes = fork_server()
LAYOUT = layout_of(40, 10)
STEPS = 600
BLOCK = 8


def weights_of(steps):
    """What is recorded at each of these positions: known to writer and reader alike."""
    k = np.asarray(steps, np.float64)[:, None]
    return np.sin(k * 0.37 + np.arange(LAYOUT.parameters) * 1.7).astype(np.float32)


def write_runs(folder, stop):
    """Write run after run in partly and wholly filled blocks, resumed now and then."""
    rng = np.random.default_rng(0)
    weights = weights_of(range(STEPS))
    number = 0
    while not stop.is_set():
        storage = open_storage(f"{folder}/{number}.zarr", fsync=False)
        writer = StoreWriter.create(storage, LAYOUT, block=BLOCK, codec="fast", attributes={})
        (folder / "now").with_suffix(".new").write_text(f"{number}.zarr")
        (folder / "now").with_suffix(".new").replace(folder / "now")
        end = 0
        while end < STEPS and not stop.is_set():
            start = end // BLOCK * BLOCK
            end = int(rng.integers(end + 1, min(start + BLOCK, STEPS) + 1))
            block = block_of(weights, start, end, layout=LAYOUT)
            if rng.random() < 0.1:
                block.evaluations = [Evaluation(step=10 * (end - 1), loss=end, accuracy=0.5)]
            writer.write_block(block)
            if rng.random() < 0.03:
                writer.abandon()
                writer = StoreWriter.resume(storage)
                writer.cut(end)
        writer.finish("complete")
        number += 1


def poll_once(path, rng):
    """Open a run and read what is new; returns how many reads were compared, and its length."""
    stored = open_store(path)
    n = len(stored.steps)
    assert stored.steps.tolist() == [10 * k for k in range(n)]
    reads = 1
    for name, expected in (
        ("loss", np.arange(n, dtype=np.float32) * 10 / 7),
        ("lr", np.full(n, 0.1)),
        ("skipped", np.arange(n) % 2 == 0),
    ):
        assert np.array_equal(stored.small(name), expected.astype(stored.small(name).dtype)), name
        reads += n
    evaluations = stored.small("eval_step")
    assert np.array_equal(stored.small("eval_loss"), evaluations / 10 + 1)
    assert np.isin(stored.anchors, stored.steps).all()
    reads += len(evaluations)
    if not n:
        return reads, n
    last = (n - 1) // BLOCK
    for j in {last, int(rng.integers(last + 1))}:
        rows = stored.weights.read_block(j)
        expected = weights_of(range(j * BLOCK, j * BLOCK + len(rows)))
        assert rows.tobytes() == expected.tobytes()
        counts = stored.array("buffers_int64").read_block(j)[:, 0]
        assert counts.tolist() == [2**40 + 10 * k for k in range(j * BLOCK, j * BLOCK + len(rows))]
        reads += 2 * len(rows)
    anchor = stored.anchor(int(stored.anchors[-1]))
    assert np.array_equal(anchor.states["momentum"], -weights_of([anchor.step // 10])[0])
    return reads + 1, n


def poll_with_xarray(path):
    """The same with nothing of ckptlab; zarr reads a file that is not there as NaN."""
    with xr.open_zarr(path, chunks=None) as dataset:
        n = dataset.sizes["step"]
        assert dataset["step"].values.tolist() == [10 * k for k in range(n)]
        if n:
            found = dataset["weights"][:, -1].values
            assert found.tobytes() == weights_of([n - 1])[0].tobytes()


def poll(folder, reads):
    """Poll a running writer until so many reads were compared; returns opens and reads."""
    stop = processes.Event()
    writer = processes.Process(target=write_runs, args=(folder, stop))
    writer.start()
    rng, opens, done, lengths = np.random.default_rng(1), 0, 0, set()
    try:
        began = time.monotonic()
        while not (folder / "now").exists():
            assert time.monotonic() - began < 60
            time.sleep(0.01)
        while done < reads:
            path = folder / (folder / "now").read_text()
            compared, length = poll_once(path, rng)
            done += compared
            opens += 1
            lengths.add((path.name, length))
            if opens % 50 == 0:
                poll_with_xarray(path)
            assert writer.is_alive()
    finally:
        stop.set()
        writer.join(60)
    assert writer.exitcode == 0
    return opens, done, len(lengths)


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_a_polling_reader_sees_nothing_wrong(tmp_path):
    opens, _, lengths = poll(tmp_path, 40_000)
    assert opens > 40
    assert lengths > 1  # the run grew meanwhile


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_a_million_polled_reads(tmp_path):
    opens, reads, lengths = poll(tmp_path, 1_500_000)
    note(
        "polling",
        "runs in blocks of 8, resumed now and then",
        values_compared=reads,
        times_opened=opens,
        lengths_seen=lengths,
        wrong=0,
    )


def test_a_run_replaced_beneath_a_reader_is_refused_or_right(tmp_path):
    """Overwriting is no reading's friend, but numbers are right or there are none."""
    from tests.store.samples import write_run

    path = tmp_path / "run.zarr"
    write_run(path, weights_of(range(20)), LAYOUT, block=4)
    stored = open_store(path)
    writer = StoreWriter.create(
        open_storage(path), LAYOUT, block=4, codec="fast", attributes={}, overwrite=True
    )
    with pytest.raises(StoreError, match="missing"):
        stored.snapshot(0)
    writer.finish("complete")
    assert open_store(path).steps.tolist() == []
