"""Against a real S3 server (moto, on loopback) and obstore's memory store."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import xarray as xr

from ckptlab.errors import LockedError, RunExistsError, StoreError
from ckptlab.store.backends.lock import StaleLockWarning, owner
from ckptlab.store.backends.open import open_storage
from ckptlab.store.maintain.verify import verify
from ckptlab.store.read.reader import open_store
from ckptlab.store.write.writer import StoreWriter
from tests.store.samples import block_of, layout_of, same_bits, trajectory, write_run

LAYOUT = layout_of(20_000, 12)
WEIGHTS = trajectory(13, LAYOUT.parameters)
processes = multiprocessing.get_context("spawn")


@pytest.fixture(params=["s3", "memory"])
def url(request, tmp_path):
    name = tmp_path.name
    if request.param == "memory":
        return f"memory://{name}.zarr"
    return f"{request.getfixturevalue('s3')}/runs/{name}.zarr"


def test_a_run_is_written_read_verified_and_resumed(url):
    write_run(url, WEIGHTS[:6], LAYOUT, block=4, state=None, evaluations=(2,))
    stored = open_store(url)
    assert stored.path == url
    assert same_bits(stored.snapshot(50), WEIGHTS[5])
    assert stored.anchors.tolist() == [30, 50]
    writer = StoreWriter.resume(open_storage(url))
    writer.cut(6)
    for start, stop in ((4, 8), (8, 12), (12, 13)):
        writer.write_block(block_of(WEIGHTS, start, stop, layout=LAYOUT))
    writer.finish("complete")
    report = verify(url, deep=True)
    assert report.ok, str(report)
    assert (report.steps, report.state) == (13, "complete")
    dataset = open_store(url).dataset()
    assert same_bits(dataset["weights"].values.T, WEIGHTS)
    assert dataset.encoding["source"] == url
    assert same_bits(open_store(url).anchor(120).states["momentum"], -WEIGHTS[12])


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")
def test_xarray_alone_reads_it(s3):
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    url = f"{s3}/plain.zarr"
    write_run(url, WEIGHTS, LAYOUT, block=4)
    store = ObjectStore(from_url(url, client_options={"allow_http": True}), read_only=True)
    with xr.open_zarr(store) as dataset:
        assert same_bits(dataset["weights"].values.T, WEIGHTS)
    # And an open store is as good as its URL.
    assert same_bits(open_store(store).snapshot(0), WEIGHTS[0])


def test_damage_is_found(url):
    write_run(url, WEIGHTS, LAYOUT, block=4)
    storage = open_storage(url)
    data = bytearray(storage.get("weights/c/0/2"))
    data[100] ^= 1
    storage.put("weights/c/0/2", [data])
    storage.delete("lr/c/0")
    assert {f.file for f in verify(url).findings} == {"weights/c/0/2", "lr/c/0"}
    with pytest.raises(StoreError, match=r"weights/c/0/2 is damaged"):
        open_store(url).snapshot(80)
    storage.delete("weights/c/0/0")
    with pytest.raises(StoreError, match=r"weights/c/0/0 is missing"):
        open_store(url)


def test_what_is_there_is_not_written_over(url):
    write_run(url, WEIGHTS[:2], LAYOUT)
    with pytest.raises(RunExistsError, match="holds a run"):
        write_run(url, WEIGHTS[:2], LAYOUT)
    other = f"{url}.data"
    open_storage(other).put("thesis.tex", [b"mine"])
    with pytest.raises(RunExistsError, match="no run"):
        write_run(other, WEIGHTS[:2], LAYOUT)


def test_a_url_without_a_run_and_a_bucket_that_is_not_there(s3):
    with pytest.raises(StoreError, match="does not exist"):
        open_store(f"{s3}/nothing.zarr")
    with pytest.raises(StoreError):
        open_store("s3://no-such-bucket-here/run.zarr")
    with pytest.raises(StoreError, match="NoSuchBucket"):
        write_run("s3://no-such-bucket-here/run.zarr", WEIGHTS[:2], LAYOUT)


def hold(url, held):
    StoreWriter.resume(open_storage(url))
    held.set()
    signal.pause()


def test_the_lock_holds_between_processes_and_is_taken_over_from_the_dead(s3):
    url = f"{s3}/locked.zarr"
    write_run(url, WEIGHTS[:4], LAYOUT, block=4)
    held = processes.Event()
    process = processes.Process(target=hold, args=(url, held))
    process.start()
    assert held.wait(60)
    with pytest.raises(LockedError, match=f"process {process.pid} on"):
        StoreWriter.resume(open_storage(url))
    assert np.array_equal(open_store(url).snapshot(0), WEIGHTS[0], equal_nan=True)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.warns(StaleLockWarning, match=f"process {process.pid}"):
        writer = StoreWriter.resume(open_storage(url))
    with pytest.raises(LockedError):
        open_storage(url).lock()
    writer.abandon()
    StoreWriter.resume(open_storage(url)).abandon()


def test_a_killed_creation_can_be_begun_again(url):
    storage = open_storage(url)
    lock = storage.lock()
    storage.put("weights/zarr.json", [b"{}"])
    lock.release()
    storage.put("writer.lock", [b"left"])
    storage.delete("writer.lock")
    with pytest.raises(RunExistsError):
        write_run(url, WEIGHTS[:2], LAYOUT)
    storage.put("writer.lock", [json.dumps({**owner(), "pid": 2**22 + 1}).encode()])
    with pytest.warns(StaleLockWarning):
        write_run(url, WEIGHTS[:2], LAYOUT)
    assert verify(url).ok
